"""Objects on the model's low-res grid: their masks squashed to a square a quarter of the input's side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import mask_box
from samtune.data.table import Dataset, ImageEntry, ObjectEntry
from samtune.data.views import AS_IS, Change
from samtune.types import Window

_Target: TypeAlias = tuple[NDArray[np.uint8], tuple[int, int, int, int]]

TARGETS_KEPT = 256 * 2**20
"""Bytes of low-res targets that each loading process keeps: reading and shrinking a mask takes a millisecond or two."""


@dataclass
class LowResTargets:
    """Low-res targets of a dataset's objects; those first asked for are kept in memory as far as they fit."""

    dataset: Dataset
    size: int
    kept: dict[tuple[str, Window | None], _Target] = field(
        default_factory=dict[tuple[str, Window | None], "_Target"], init=False
    )

    def of(self, objects: Sequence[ObjectEntry], change: Change = AS_IS) -> NDArray[np.uint8]:
        """uint8 `[N, size, size]`, a new array; all zero for an object that a cropped view does not show."""
        found = np.zeros((len(objects), self.size, self.size), np.uint8)
        for target, one in zip(found, objects, strict=True):
            target[:] = change.turned(self._target(one, change.crop)[0])
        return found

    def boxes(self, objects: Sequence[ObjectEntry], image: ImageEntry, change: Change = AS_IS) -> NDArray[np.float32]:
        """Tight boxes of an image's objects as far as the view shows them: float32 `[N, 4]`, xyxy in low-res pixels.

        Of no size for an object that it does not show.
        """
        boxes = [one.box if change.crop is None else self._target(one, change.crop)[1] for one in objects]
        x0, y0, x1, y1 = change.crop or (0, 0, image.width, image.height)
        scale = np.array([self.size / (x1 - x0), self.size / (y1 - y0)] * 2, np.float32)
        return change.boxes(np.array(boxes, np.float32).reshape(-1, 4) * scale, self.size)

    def _target(self, found: ObjectEntry, crop: Window | None) -> _Target:
        """An object on the grid and its box in pixels, both in the part of the image that is seen."""
        key = (found.mask_path, crop)
        kept = self.kept.get(key)
        if kept is None:
            mask = Change(crop).mask(self.dataset.read_mask(found))
            box = mask_box(mask)
            shown = np.zeros((self.size, self.size), np.uint8) if box is None else low_res_targets([mask], self.size)[0]
            kept = shown, box or (0, 0, 0, 0)
            if (len(self.kept) + 1) * shown.nbytes <= TARGETS_KEPT:
                self.kept[key] = kept
        return kept


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
