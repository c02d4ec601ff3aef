"""Drawing on images for people: outlines, boxes, overlays of many masks, panels of one object. No torch.

Images are uint8 `[H, W, 3]` RGB, masks bool `[H, W]`, boxes xyxy in pixels of the image. Functions whose name starts
with `outline` draw in place.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.types import Box

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Color = tuple[int, int, int]

# Okabe and Ito's palette, which colour-blind readers tell apart.
TRUTH, BASE, TUNED, PROMPT = (0, 158, 115), (86, 180, 233), (230, 159, 0), (240, 228, 66)
MISSED, FALSE = (213, 94, 0), (204, 121, 167)
VIEW = 240
"""Side of one view of an object in pixels."""
_MARGIN = 0.35
"""Surroundings shown around an object, as a share of its longer side."""
_FARTHEST = 10_000.0
"""Coordinates are cut off here: OpenCV draws with fixed-point numbers."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One object: image uint8 `[H, W, 3]`, its box, and three masks bool `[H, W]`."""

    image: Pixels
    box: Box
    truth: Mask
    base: Mask
    tuned: Mask


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One mask found without a prompt: bool `[H, W]`, the click that led to it (xy), the predicted IoU."""

    mask: Mask
    point: tuple[float, float]
    score: float


def draw_views(panel: Panel) -> dict[str, Pixels]:
    """Four views of one object, `[VIEW, VIEW, 3]` each: `image` with the box, `truth`, `base` and `tuned`."""
    x0, y0, side = _surroundings(panel.box)
    views = {"image": _view(panel.image, x0, y0, side)}
    masks = (("truth", panel.truth, TRUTH), ("base", panel.base, BASE), ("tuned", panel.tuned, TUNED))
    for name, mask, color in masks:
        views[name] = _view(panel.image, x0, y0, side)
        mask_view = _view(mask.astype(np.uint8) * 255, x0, y0, side, cv2.INTER_NEAREST) > 127
        outline_mask(views[name], mask_view, color, fill=0.25)
    left, top, right, bottom = panel.box
    scale = VIEW / side
    corners = ((left - x0) * scale, (top - y0) * scale, (right - x0) * scale, (bottom - y0) * scale)
    outline_box(views["image"], corners)
    return views


def draw_unannotated(image: Pixels, annotated: Mask, found: Sequence[FoundObject]) -> Pixels:
    """The image with annotated objects outlined thinly and other finds filled, each with its click."""
    drawn, scale = scaled_to(image, 2 * VIEW)
    size = (drawn.shape[1], drawn.shape[0])
    outline_mask(drawn, _resized(annotated, size), TRUTH, thickness=1)
    for one in found:
        outline_mask(drawn, _resized(one.mask, size), TUNED, fill=0.25)
        center = (round(one.point[0] * scale), round(one.point[1] * scale))
        cv2.circle(drawn, center, 3, PROMPT, -1, cv2.LINE_AA)
    return drawn


def draw_finds(image: Pixels, right: Sequence[Mask], missed: Sequence[Mask], false: Sequence[Mask]) -> Pixels:
    """The image with right finds outlined thinly, missed objects and wrong finds filled."""
    drawn, _ = scaled_to(image, 2 * VIEW)
    size = (drawn.shape[1], drawn.shape[0])
    for masks, color, fill in ((right, TRUTH, 0.0), (missed, MISSED, 0.4), (false, FALSE, 0.4)):
        for mask in masks:
            outline_mask(drawn, _resized(mask, size), color, fill=fill, thickness=2 if fill else 1)
    return drawn


def draw_overlay(image: Pixels, masks: Sequence[Mask]) -> Pixels:
    """The image with every mask tinted and outlined, neighbours in clearly different colours."""
    drawn = image.copy()
    thickness = max(1, round(max(image.shape) / 500))
    for number, mask in enumerate(masks):
        hue = int(number * 137.5) % 180  # the golden angle keeps successive hues apart
        red, green, blue = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
        outline_mask(drawn, mask, (red, green, blue), fill=0.4, thickness=thickness)
    return drawn


def scaled_to(image: Pixels, longer_side: int, *, enlarge: bool = True) -> tuple[Pixels, float]:
    """A copy of the image whose longer side has that many pixels, and the scale; small ones stay unless `enlarge`."""
    scale = longer_side / max(image.shape[:2])
    if not enlarge:
        scale = min(1.0, scale)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.array(cv2.resize(image, size, interpolation=how), np.uint8), scale


def outline_mask(image: Pixels, mask: Mask, color: Color, *, fill: float = 0.0, thickness: int = 2) -> None:
    """Draw a mask's edges, and tint it by `fill`, 0 to 1; image and mask have one size."""
    if fill:
        image[mask] = ((1 - fill) * image[mask] + fill * np.array(color)).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, edges, -1, color, thickness, cv2.LINE_AA)


def outline_polygon(image: Pixels, ring: Sequence[float], color: Color, *, thickness: int = 2) -> None:
    """Draw a closed ring `[x0, y0, x1, y1, ...]` as its points are, flaws included."""
    points = np.clip(np.asarray(ring, np.float64).reshape(-1, 2), -_FARTHEST, _FARTHEST).round().astype(np.int32)
    cv2.polylines(image, [points], True, color, thickness, cv2.LINE_AA)


def outline_box(image: Pixels, box: Sequence[float], color: Color = PROMPT, *, thickness: int = 1) -> None:
    """Draw a box, xyxy in any order of its corners."""
    x0, y0, x1, y1 = (round(min(max(value, -_FARTHEST), _FARTHEST)) for value in box)
    cv2.rectangle(image, (x0, y0), (x1, y1), color, thickness)


def shrunken_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at a smaller size (width, height) in which every pixel that it touches is set: nothing thin gets lost."""
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)) > 0


def to_jpeg(image: Pixels, *, quality: int = 88) -> bytes:
    """The image as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _surroundings(box: Box) -> tuple[float, float, float]:
    """Upper left corner and side of a square around an object and the masks near it."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0, 8) * (1 + 2 * _MARGIN)
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def _view(pixels: NDArray[np.uint8], x0: float, y0: float, side: float, how: int = cv2.INTER_LINEAR) -> Pixels:
    """A square cut-out at `VIEW` pixels; what lies outside the image is gray."""
    scale = VIEW / side
    matrix = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]], np.float64)
    outside = (128, 128, 128) if pixels.ndim == 3 else (0,)
    return np.asarray(cv2.warpAffine(pixels, matrix, (VIEW, VIEW), flags=how, borderValue=outside), np.uint8)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another size (width, height): half covered pixels count."""
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR), np.uint8) > 127


def hex_color(color: Color) -> str:
    """A colour as HTML writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)
