"""From the network's answers to a list of boxes, and from the decoder's masks to a list without duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from samtune.finder.head import FinderOutput

BOX_OVERLAP, MASK_OVERLAP = 0.7, 0.6
"""Of two boxes, or masks, with a higher IoU only the better one stays."""
LEAST_OBJECTNESS = 0.03
"""Peaks below this are noise: an untrained network says 0.02 everywhere."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes proposed for one image, the surest first.

    Attributes:
        boxes: float32 `[N, 4]`, xyxy in cells of the stride-4 grid, inside the image.
        objectness: float32 `[N]`, 0 to 1.
    """

    boxes: Tensor
    objectness: Tensor

    def __len__(self) -> int:
        return len(self.objectness)


def propose(
    output: FinderOutput, image: int, most: int, least: float = LEAST_OBJECTNESS, overlap: float = BOX_OVERLAP
) -> Proposals:
    """The boxes of one image's peaks: cells no neighbour of theirs is above, boxes more alike than `overlap` once.

    Args:
        output: the network's answers.
        image: which of its B images.
        most: at most this many peaks.
        least: lowest objectness of a peak, 0 to 1.
        overlap: IoU above which of two boxes only the better one stays.
    """
    heat = output.objectness[image].float().sigmoid()
    peaks = heat * (F.max_pool2d(heat[None], 3, stride=1, padding=1)[0] == heat)
    score, place = peaks.flatten().topk(min(most, peaks.numel()))
    keep = score >= least
    score, place = score[keep], place[keep]
    boxes = output.boxes()[image].flatten(0, 1)[place]
    height, width = heat.shape
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    score, boxes = score.cpu(), boxes.cpu()
    chosen = suppress(score.numpy(), similar_boxes(boxes.numpy(), overlap))
    return Proposals(boxes[chosen], score[chosen])


def box_iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of every box of `first` `[A, 4]` with every one of `second` `[B, 4]`, xyxy: `[A, B]`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def paired_iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of boxes `[N, 4]`, xyxy, pair by pair: `[N]`."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clip(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def similar_boxes(boxes: NDArray[np.float32], most: float) -> NDArray[np.int64]:
    """Pairs (a, b), a < b, of boxes `[N, 4]` whose IoU is above `most`: `[P, 2]`."""
    return np.argwhere(np.triu(box_iou(boxes, boxes) > most, 1))


def suppress(scores: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Greedy suppression: from the best score down, what is similar to something kept goes.

    Args:
        scores: `[N]`; of equal ones the first wins.
        pairs: `[P, 2]`, who is similar to whom.

    Returns:
        Numbers of those that stay, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    starts = np.searchsorted(both[:, 0], np.arange(len(scores) + 1))
    gone = np.zeros(len(scores), bool)
    kept: list[int] = []
    for one in order.tolist():
        if not gone[one]:
            kept.append(one)
            gone[both[starts[one] : starts[one + 1], 1]] = True
    return np.array(kept, np.int64)
