"""A second task for the image encoder while it is pre-trained: which pixels around a pixel belong to the same object.

A prompt teaches about one object, and only through the mask decoder. This task teaches about all labelled objects of a
view at once, straight from the features that the decoder takes. For each low-res pixel of an object a small head says,
for eight directions and six distances, whether the pixel there belongs to the same object ("affinities", as Wolf et
al., The Mutex Watershed, ECCV 2018, learn them). The head is not part of the model and does not ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from samtune.model.encoder.embeddings import ImageEmbeddings

_DISTANCES = (1, 2, 4, 8, 16, 32)
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))
OFFSETS = tuple((y * far, x * far) for far in _DISTANCES for y, x in _DIRECTIONS)
"""Where the neighbours lie, as rows and columns of the low-res grid."""
_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the head is asked in B views, K offsets each.

    Attributes:
        weight: float32 `[B, K, h, w]`, how much a pixel's answer counts; 0 outside of objects and where the neighbour
            lies outside the view. An object's pixels count as much as the square root of its area.
        same: float32 `[B, K, h, w]`, the part of that weight whose answer is "the same object".
    """

    weight: Tensor
    same: Tensor

    def to(self, device: torch.device) -> Neighbours:
        """The same on `device`."""
        return Neighbours(self.weight.to(device), self.same.to(device))


def neighbours(views: Sequence[Tensor]) -> Neighbours:
    """What to ask of views with the masks of their objects, each bool `[N, h, w]` on the low-res grid; N may be 0."""
    found = [_of_view(masks.float()) for masks in views]
    return Neighbours(torch.stack([weight for weight, _ in found]), torch.stack([same for _, same in found]))


def _of_view(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and their part with the answer "same", both `[K, h, w]`."""
    count, height, width = masks.shape
    weighted = masks * masks.sum((1, 2), keepdim=True).clamp(min=1).rsqrt()
    total = weighted.sum(0)
    weight, same = torch.zeros(2, len(OFFSETS), height, width)
    for place, (y, x) in enumerate(OFFSETS):
        rows, columns = _overlap(y, height), _overlap(x, width)
        if rows is None or columns is None:
            continue
        here, there = (rows[0], columns[0]), (rows[1], columns[1])
        weight[place][here] = total[here]
        if count:
            same[place][here] = (weighted[:, *here] * masks[:, *there]).sum(0)
    return weight, same


def _overlap(offset: int, length: int) -> tuple[slice, slice] | None:
    """Pixels of a line whose neighbour at `offset` lies in the line too, and those neighbours."""
    if abs(offset) >= length:
        return None
    here = slice(max(-offset, 0), length - max(offset, 0))
    return here, slice(here.start + offset, here.stop + offset)


class NeighbourHead(nn.Module):
    """Logits "the same object" `[B, K, h, w]` from the features that the mask decoder takes.

    Args:
        width: channels of the image embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(width, _WIDTH, 1)
        self.middle = nn.Conv2d(width // 4, _WIDTH, 1)
        self.fine = nn.Conv2d(width // 8, _WIDTH, 1)
        self.answer = nn.Conv2d(_WIDTH, len(OFFSETS), 1)

    def forward(self, embeddings: ImageEmbeddings) -> Tensor:
        """See the class."""
        fine, middle = embeddings.high_resolution_features
        levels = (self.middle(middle), self.coarse(embeddings.image_embeddings))
        size = (fine.shape[-2], fine.shape[-1])
        larger = (functional.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels)
        return self.answer(functional.gelu(self.fine(fine) + sum(larger)))


def neighbour_loss(logits: Tensor, asked: Neighbours) -> Tensor:
    """Mean cross-entropy of the answers, by their weight; 0 where no object is labelled."""
    wrong = functional.softplus(logits.float()) * asked.weight - logits.float() * asked.same
    return wrong.sum() / asked.weight.sum().clamp(min=1.0)
