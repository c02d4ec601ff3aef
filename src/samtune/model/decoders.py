"""The decoder paths by name; all give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from transformers import Sam2Model

from samtune.model import decoder, fast_decoder
from samtune.model.decoder import DecoderOutput
from samtune.model.embeddings import ImageEmbeddings
from samtune.prompts import PromptBatch

Decode: TypeAlias = Callable[[Sam2Model, ImageEmbeddings, PromptBatch, Tensor | None], DecoderOutput]

DECODERS: dict[str, Decode] = {"fast": fast_decoder.decode, "plain": decoder.decode}
DEFAULT_DECODER = "fast"
