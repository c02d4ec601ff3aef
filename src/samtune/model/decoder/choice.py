"""The decoder paths by name; all give the same numbers."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import Sam2Model

from samtune.model.decoder import fast, reference
from samtune.model.decoder.reference import ALL_TOKENS, DecoderOutput
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.prompts.batch import PromptBatch


class Decode(Protocol):
    """A decoder path; `samtune.model.decoder.reference.decode` describes arguments and result."""

    def __call__(
        self,
        model: Sam2Model,
        embeddings: ImageEmbeddings,
        prompts: PromptBatch,
        image_index: Tensor | None = None,
        tokens: slice = ALL_TOKENS,
    ) -> DecoderOutput:
        """Run prompt encoder and mask decoder."""
        ...


DECODERS: dict[str, Decode] = {"fast": fast.decode, "plain": reference.decode}
DEFAULT_DECODER = "fast"
