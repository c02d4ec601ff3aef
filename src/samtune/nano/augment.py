"""Views for pre-training: a part of an image with the masks of some objects, cropped, turned, recoloured, degraded.

Everything here is NumPy and OpenCV and depends only on the generator it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import Region, region_of

SMALLEST = 16
"""Smallest target, in visible input pixels: one low-res pixel. Half of what people label is under 20 x 20."""
_LARGEST = 0.97
"""Largest target, as a share of the view."""
_LEAST_VISIBLE = 0.3
"""Share of an object that a crop must show, or it is no target."""
_MOST_MAGNIFIED = 4.0
_SOFT_EDGE = 0.7
"""Blur of a pasted object's edge, in input pixels."""


@dataclass(frozen=True, slots=True)
class TrainingView:
    """What the model sees of one image, and what it is asked for.

    Attributes:
        image: uint8 `[S, S, 3]`, RGB.
        masks: bool `[K, S, S]`, the targets, none empty.
        occupied: bool `[S, S]`, pixels that any object covers; None where not every object is labelled, so that no
            pixel can be called background.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    occupied: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of an image in its pixels; parts may lie outside the image."""

    x0: int
    y0: int
    x1: int
    y1: int


def choose_window(
    rng: np.random.Generator, height: int, width: int, box: tuple[int, int, int, int], size: int, whole_share: float
) -> Window:
    """Which part of an image to show: all of it, or a part in which one object has a size drawn by chance.

    The long side of the object's box becomes 6 pixels to 0.8 of the input, all magnitudes alike; the image is enlarged
    at most four times. A fifth of the whole images stand small, in a frame around them.

    Args:
        height, width: of the image.
        box: xyxy, of the object.
        size: side of the input.
        whole_share: how many of the views show the whole image.
    """
    if rng.random() < whole_share:
        margin = rng.uniform(0.05, 0.5) if rng.random() < 0.2 else 0.0
        left, top = (int(margin * side * rng.random()) for side in (width, height))
        return Window(-left, -top, width + int(margin * width) - left, height + int(margin * height) - top)
    long_side = max(box[2] - box[0], box[3] - box[1])
    wanted = np.exp(rng.uniform(np.log(6.0), np.log(0.8 * size)))
    side = max(long_side * size / wanted, 1.15 * long_side, size / _MOST_MAGNIFIED)
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    x0, x1 = _place(rng, side * stretch, width, box[0], box[2])
    y0, y1 = _place(rng, side / stretch, height, box[1], box[3])
    return Window(x0, y0, x1, y1)


def _place(rng: np.random.Generator, side: float, whole: int, low: int, high: int) -> tuple[int, int]:
    """An interval of about `side` pixels inside 0 to `whole` that holds `low` to `high`, where that is possible."""
    length = min(max(round(side), 1), whole)
    first, last = max(high - length, 0), min(low, whole - length)
    start = int(rng.integers(first, last + 1)) if first <= last else min(max(low, 0), whole - length)
    return start, start + length


def crop_image(image: NDArray[np.uint8], window: Window, size: int, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The window of an image, squashed to `size` by `size`; what lies outside the image has the colour `fill`."""
    height, width = image.shape[:2]
    part = image[max(window.y0, 0) : window.y1, max(window.x0, 0) : window.x1]
    around = (
        max(-window.y0, 0),
        max(window.y1 - height, 0),
        max(-window.x0, 0),
        max(window.x1 - width, 0),
    )
    if any(around):
        part = cv2.copyMakeBorder(part, *around, cv2.BORDER_CONSTANT, value=fill)
    how = cv2.INTER_AREA if min(part.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=how), np.uint8)


def crop_mask(region: Region, window: Window, size: int) -> NDArray[np.bool_]:
    """The same for an object's mask: a pixel belongs to the object that covers half of it."""
    x0, y0, x1, y1 = region.box
    part = np.zeros((window.y1 - window.y0, window.x1 - window.x0), np.uint8)
    left, top, right, bottom = max(x0, window.x0), max(y0, window.y0), min(x1, window.x1), min(y1, window.y1)
    if left < right and top < bottom:
        seen = region.mask[top - y0 : bottom - y0, left - x0 : right - x0]
        part[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0] = seen * np.uint8(255)
    how = cv2.INTER_AREA if min(part.shape) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=how)) > 127


def visible_share(region: Region, window: Window) -> float:
    """Share of a region's box that the window shows: what decides whether the object may be a target."""
    x0, y0, x1, y1 = region.box
    shown = max(min(x1, window.x1) - max(x0, window.x0), 0) * max(min(y1, window.y1) - max(y0, window.y0), 0)
    return shown / ((x1 - x0) * (y1 - y0))


def crop_view(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    regions: Sequence[Region],
    first: int,
    window: Window,
    size: int,
    most: int,
    *,
    complete: bool,
) -> TrainingView | None:
    """A window of an image with the masks of at most `most` objects in it, `first` among them.

    Returns:
        The view; None where no object in it is large enough to be a target.
    """
    others = [
        place
        for place, region in enumerate(regions)
        if place != first and visible_share(region, window) >= _LEAST_VISIBLE
    ]
    chosen = [first, *rng.permutation(others)[: 2 * most].astype(int).tolist()]
    masks = [mask for mask in (crop_mask(regions[place], window, size) for place in chosen) if _fits(mask)][:most]
    if not masks:
        return None
    occupied = None
    if complete:
        covered = np.zeros(image.shape[:2], bool)
        for region in regions:
            x0, y0, x1, y1 = region.box
            covered[y0:y1, x0:x1] |= region.mask
        # One pixel more than the labels, because people do not draw edges to the pixel.
        wider = cv2.dilate(covered.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        found = region_of(wider)
        assert found is not None, "a view has objects"
        occupied = crop_mask(found, window, size)
    fill = tuple(int(value) for value in rng.integers(0, 256, 3))
    return TrainingView(crop_image(image, window, size, (fill[0], fill[1], fill[2])), np.stack(masks), occupied)


def _fits(mask: NDArray[np.bool_]) -> bool:
    return bool(SMALLEST <= np.count_nonzero(mask) <= _LARGEST * mask.size)


def paste(rng: np.random.Generator, view: TrainingView, image: NDArray[np.uint8], region: Region) -> TrainingView:
    """Lay an object of another image over a view, with a soft edge; it becomes a target, and hides what is below it."""
    size = view.image.shape[0]
    x0, y0, x1, y1 = region.box
    long_side = max(x1 - x0, y1 - y0)
    wanted = np.exp(rng.uniform(np.log(6.0), np.log(0.4 * size)))
    scale = min(wanted / long_side, _MOST_MAGNIFIED)
    width, height = (max(2, round(side * scale)) for side in (x1 - x0, y1 - y0))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cutout = cv2.resize(image[y0:y1, x0:x1], (width, height), interpolation=how)
    share = cv2.resize(region.mask.astype(np.float32), (width, height), interpolation=how)
    if np.count_nonzero(share > 0.5) < SMALLEST:
        return view
    x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
    alpha = np.zeros((size, size), np.float32)
    alpha[y : y + height, x : x + width] = share
    mask = alpha > 0.5
    alpha = cv2.GaussianBlur(alpha, (0, 0), _SOFT_EDGE)[..., None]
    layer = np.zeros_like(view.image)
    layer[y : y + height, x : x + width] = cutout
    pixels = np.where(mask[..., None], layer, cv2.dilate(layer, np.ones((3, 3), np.uint8)))
    blended = (view.image * (1 - alpha) + pixels * alpha).astype(np.uint8)
    hidden = [left for left in (old & ~mask for old in view.masks) if _fits(left)]
    occupied = None if view.occupied is None else view.occupied | mask
    return TrainingView(blended, np.stack([mask, *hidden]), occupied)


def turned(rng: np.random.Generator, view: TrainingView) -> TrainingView:
    """The view turned by a multiple of 90 degrees and perhaps mirrored."""
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5

    def move(values: NDArray, axes: tuple[int, int]) -> NDArray:
        found = np.rot90(values, turns, axes)
        return np.ascontiguousarray(np.flip(found, axes[1]) if mirror else found)

    occupied = None if view.occupied is None else move(view.occupied, (0, 1))
    return TrainingView(move(view.image, (0, 1)), move(view.masks, (1, 2)), occupied)


def degraded(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as another camera may have taken it: sometimes blurred, noisy, or compressed once more."""
    if rng.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6))), np.uint8)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def recoloured(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Exchange, scale and sometimes invert or drop the colours: float32 `[S, S, 3]`, 0 to 255."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.1:
        pixels = 255 - pixels
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.5:
        pixels = np.clip(pixels * rng.uniform(0.7, 1.3) + rng.uniform(-30, 30, 3), 0, 255)
    return pixels.astype(np.float32)
