"""Objects on the model's low-res grid: their masks squashed to a square a quarter of the input's side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.table import Dataset, ObjectEntry

TARGETS_KEPT = 256 * 2**20
"""Bytes of low-res targets that each loading process keeps: reading and shrinking a mask takes a millisecond or two."""


@dataclass
class LowResTargets:
    """Low-res targets of a dataset's objects; those first asked for are kept in memory as far as they fit."""

    dataset: Dataset
    size: int
    kept: dict[str, NDArray[np.uint8]] = field(default_factory=dict[str, NDArray[np.uint8]], init=False)

    def of(self, objects: Sequence[ObjectEntry]) -> NDArray[np.uint8]:
        """uint8 `[N, size, size]`, a new array."""
        found = np.zeros((len(objects), self.size, self.size), np.uint8)
        for target, one in zip(found, objects, strict=True):
            kept = self.kept.get(one.mask_path)
            target[:] = low_res_targets([self.dataset.read_mask(one)], self.size)[0] if kept is None else kept
            if kept is None and (len(self.kept) + 1) * target.nbytes <= TARGETS_KEPT:
                self.kept[one.mask_path] = target.copy()
        return found


def low_res_targets(masks: Sequence[NDArray[np.bool_]], size: int) -> NDArray[np.uint8]:
    """Squash masks `[H, W]` to the model's low-res grid: uint8 `[N, size, size]`, 255 where a cell is covered."""
    targets = np.zeros((len(masks), size, size), np.uint8)
    for target, mask in zip(targets, masks, strict=True):
        shrinks = mask.shape[0] >= size and mask.shape[1] >= size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(mask.astype(np.uint8) * 255, (size, size), dst=target, interpolation=how)
        if not target.any():  # smaller than 1/510 of a cell: keep the cell it is in, or the object would read as absent
            row, column = np.argwhere(mask)[0]
            target[row * size // mask.shape[0], column * size // mask.shape[1]] = 1
    return targets
