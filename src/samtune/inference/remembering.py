"""A predictor that remembers the images it has embedded lately: one command looks at the same image several times."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.encoder.embeddings import ImageEmbeddings

MOST_BYTES = 256 * 2**20
"""Memory for embeddings: about 100 images of `nano`, about 15 of SAM 2 at 1024 pixels."""


class EmbeddingMemory:
    """The latest image embeddings of any number of models, the longest unused of which go first.

    Args:
        most_bytes: memory they take together.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[EmbeddedImage, int]] = OrderedDict()

    def get(self, key: Hashable, embed: Callable[[], EmbeddedImage]) -> EmbeddedImage:
        """What is remembered under `key`, or else what `embed` gives, which is then remembered."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        found = embed()
        size = _bytes_of(found.embeddings)
        if size <= self._most_bytes:
            self._kept[key] = found, size
            self._bytes += size
            while self._bytes > self._most_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed
        return found


class RememberingPredictor(Predictor):
    """A predictor that does not embed an image again that its memory holds; all else is the predictor's.

    Args:
        predictor: the model; its weights must not change.
        encoder: what identifies its image embeddings; predictors with the same share them.
        memory: of this and other predictors.
    """

    def __init__(self, predictor: Predictor, encoder: Hashable, memory: EmbeddingMemory) -> None:
        super().__init__(predictor.loaded)
        self._decode = predictor._decode
        self._encoder, self._memory = encoder, memory

    def embed(self, image: NDArray) -> EmbeddedImage:
        """The embeddings of an image, uint8 `[H, W, 3]` RGB, remembered or by running the encoder."""
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        return self._memory.get(
            (self._encoder, image.shape, digest), lambda: super(RememberingPredictor, self).embed(image)
        )


def _bytes_of(embeddings: ImageEmbeddings) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in embeddings.tensors)
