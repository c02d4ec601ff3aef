"""Embeddings of one image as the tensors of a cache file, and back."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from samtune.model.encoder.embeddings import ImageEmbeddings

Stored: TypeAlias = Literal["fp32", "bf16", "int8"]
"""How values are stored: int8 with a scale per image and channel."""
_NAMES = ("image_embeddings", "high_resolution_0", "high_resolution_1")


def pack(embeddings: ImageEmbeddings, stored: Stored) -> dict[str, Tensor]:
    """One image as tensors `[h, w, C]` of the stored type; int8 has scales `[C]` beside each."""
    packed: dict[str, Tensor] = {}
    for name, tensor in zip(_NAMES, embeddings.tensors, strict=True):
        rows = tensor[0].permute(1, 2, 0).float().cpu()
        if stored == "int8":
            scale = rows.abs().amax((0, 1)).clamp(min=torch.finfo(torch.float32).tiny) / 127
            packed[f"{name}.scale"] = scale
            rows = (rows / scale).round()
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[stored]
        packed[name] = rows.to(kind).contiguous()
    return packed


def unpack(packed: dict[str, Tensor], dtype: torch.dtype) -> ImageEmbeddings:
    """The inverse of `pack`, as far as the stored type allows."""
    tensors: list[Tensor] = []
    for name in _NAMES:
        rows = packed[name]
        if f"{name}.scale" in packed:
            rows = rows * packed[f"{name}.scale"]
        tensors.append(rows.to(dtype)[None].permute(0, 3, 1, 2))
    return ImageEmbeddings(tensors[0], (tensors[1], tensors[2]))
