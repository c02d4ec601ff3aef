"""Low-res masks at the image's own size, only where they can be set: what full-size figures are counted on.

A bilinear mean of logits is above 0 only beside a low-res pixel above 0. So only the part of the image that such pixels
reach is upscaled: for an object that covers a hundredth of a large image, a hundredth of the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.data.masks import Region
from samtune.evaluation.boundaries import Boundary
from samtune.evaluation.metrics import Overlap
from samtune.model.preprocess import MASK_THRESHOLD, upscale_masks

_MOST_OF = 0.4
"""Share of the image from which on upscaling it whole is faster."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the pixels of one axis of the image lie among low-res pixels: between `near` and `far`, by `weight`."""

    near: NDArray[np.intp]
    far: NDArray[np.intp]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, length: int, low_res: int) -> _Axis:
        """As PyTorch's bilinear interpolation without aligned corners places them."""
        place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * np.float32(low_res / length)
        place = np.maximum(place - np.float32(0.5), np.float32(0))
        near = np.minimum(place.astype(np.intp), low_res - 1)
        return cls(near, np.minimum(near + 1, low_res - 1), place - near.astype(np.float32))

    def part(self, start: int, stop: int) -> _Axis:
        """Some of the pixels."""
        return _Axis(self.near[start:stop], self.far[start:stop], self.weight[start:stop])

    def between(self, values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Low-res values interpolated along their `axis`."""
        near, far = values.take(self.near, axis), values.take(self.far, axis)
        far -= near
        far *= self.weight if axis else self.weight[:, None]
        near += far
        return near


@torch.no_grad()
def full_size_masks(low_res: Tensor, size: tuple[int, int]) -> list[list[Region]]:
    """Masks at the image's own size, thresholded, each kept as the part that may be set.

    Equal to upscaling the logits whole (`upscale_masks`) but for rounding in the last digit.

    Args:
        low_res: logits `[N, M, h, w]`.
        size: (H, W) of the image.

    Returns:
        M regions for each of N prompts; one without a set pixel has a mask of no size.
    """
    count, masks, h, w = low_res.shape
    low_res = low_res.float().flatten(0, 1)
    on_host = low_res.cpu().numpy()
    rows, columns = _Axis.of(size[0], h), _Axis.of(size[1], w)
    found: list[Region] = []
    for number, (x0, y0, x1, y1) in enumerate(_windows(low_res, size)):
        if (x1 - x0) * (y1 - y0) > _MOST_OF * size[0] * size[1]:
            whole = upscale_masks(low_res[number], size)[y0:y1, x0:x1] > MASK_THRESHOLD
            found.append(Region(whole.cpu().numpy(), x0, y0))
        else:
            part = _upscaled(on_host[number], rows.part(y0, y1), columns.part(x0, x1))
            found.append(Region(part, x0, y0))
    return [found[start : start + masks] for start in range(0, count * masks, masks)]


def overlap_of(predicted: Region, truth: Region) -> Overlap:
    """Pixel counts of two parts of one image."""
    (px0, py0, px1, py1), (tx0, ty0, tx1, ty1) = predicted.box, truth.box
    x0, y0, x1, y1 = max(px0, tx0), max(py0, ty0), min(px1, tx1), min(py1, ty1)
    both = 0
    if x1 > x0 and y1 > y0:
        first = predicted.mask[y0 - py0 : y1 - py0, x0 - px0 : x1 - px0]
        second = truth.mask[y0 - ty0 : y1 - ty0, x0 - tx0 : x1 - tx0]
        both = int(np.count_nonzero(first & second))
    return Overlap(both, predicted.area, truth.area)


def boundary_of(predicted: Region, truth: Region, size: tuple[int, int]) -> Boundary:
    """How well the edge of `predicted` lies; `size` is (H, W) of the image."""
    first, second, _ = within_one_frame(predicted, truth, size)
    return Boundary.of(first, second, size)


def within_one_frame(
    predicted: Region, truth: Region, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[int, int]]:
    """Both masks inside the smallest frame that holds them and, as far as the image reaches, a pixel around them.

    Returns:
        `predicted` and `truth`, bool `[h, w]` each, and the frame's upper left corner in the image, xy.
    """
    boxes = [region.box for region in (predicted, truth) if region.mask.size]
    x0, y0 = (max(0, min(box[place] for box in boxes) - 1) for place in (0, 1))
    x1, y1 = (min(side, max(box[place] for box in boxes) + 1) for place, side in ((2, size[1]), (3, size[0])))
    first, second = (
        Region(region.mask, region.x0 - x0, region.y0 - y0).paste(y1 - y0, x1 - x0)
        if region.mask.size
        else np.zeros((y1 - y0, x1 - x0), np.bool_)
        for region in (predicted, truth)
    )
    return first, second, (x0, y0)


def _windows(low_res: Tensor, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """For each of N masks `[N, h, w]` the part of the image (xyxy) that low-res pixels above the threshold reach."""
    # Maxima of numbers take a twentieth of the time of `any` over what is above the threshold.
    across, down = ((low_res.amax(dim) > MASK_THRESHOLD).cpu().numpy() for dim in (-2, -1))
    windows: list[tuple[int, int, int, int]] = []
    for columns, rows in zip(across, down, strict=True):
        (x0, x1), (y0, y1) = _reach(columns, size[1]), _reach(rows, size[0])
        windows.append((x0, y0, x1, y1))
    return windows


def _reach(over: NDArray[np.bool_], length: int) -> tuple[int, int]:
    """The pixels of an axis, `length` long, that lie less than one low-res pixel from one that is set."""
    places = np.flatnonzero(over)
    if not len(places):
        return 0, 0
    scale = length / len(over)
    return max(0, int((places[0] - 0.5) * scale - 0.5)), min(length, int((places[-1] + 1.5) * scale + 1.5))


def _upscaled(logits: NDArray[np.float32], rows: _Axis, columns: _Axis) -> NDArray[np.bool_]:
    """A part of an upscaled mask from its logits `[h, w]`: bool, of as many pixels as the axes have.

    In numpy, because a part is small: there what each operation costs beside its arithmetic is what counts.
    """
    if not len(rows.near) or not len(columns.near):
        return np.zeros((len(rows.near), len(columns.near)), np.bool_)
    first = int(rows.near[0])
    wide = columns.between(logits[first : int(rows.far[-1]) + 1], axis=1)
    return _Axis(rows.near - first, rows.far - first, rows.weight).between(wide, axis=0) > MASK_THRESHOLD
