"""One of several processes that fill one cache; see test_cache.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from samtune.embeddings.cache import CachedView, EmbeddingCache
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from tests.tiny import TINY_SIZE, tiny_sam2


def pixels_of(view: CachedView) -> Tensor:
    """Some image that depends on the file's bytes and the view."""
    seed = int.from_bytes(view.path.read_bytes()[:4], "little") + 7919 * len(view.view)
    return torch.randn(3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(seed))


def fill(folder: Path, views: list[CachedView]) -> tuple[int, float]:
    """Ask for every view in an order shared by all processes; returns how many this one encoded, and a checksum."""
    torch.set_num_threads(1)
    model = tiny_sam2(seed=0)

    def slow_encode(pixels: Tensor) -> ImageEmbeddings:
        for _ in range(4):  # long enough for the others to want the same image meanwhile
            embeddings = encode(model, pixels)
        return embeddings

    cache = EmbeddingCache(folder, model)
    total = 0.0
    for start in range(0, len(views), 3):
        embeddings = cache.get_or_encode(views[start : start + 3], pixels_of, slow_encode)
        total += float(sum(tensor.double().sum() for tensor in embeddings.tensors))
    return cache.counts.encoded, total
