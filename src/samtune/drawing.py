"""Pictures for people: an object with its ground truth and both answers, and what was found that nobody annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.types import Box

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Okabe and Ito's palette, which colour-blind readers tell apart.
TRUTH, BASE, TUNED, PROMPT = (0, 158, 115), (86, 180, 233), (230, 159, 0), (240, 228, 66)
VIEW = 200
"""Side of one view in pixels."""
_GAP = 4
_MARGIN = 0.35
"""Surroundings shown around an object, as a share of its longer side."""


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
    """One find: mask bool `[H, W]`, the click that led to it (xy), the model's own IoU estimate."""

    mask: Mask
    point: tuple[float, float]
    score: float


def draw_panel(panel: Panel) -> Pixels:
    """Four views side by side, `[VIEW, 4 * VIEW + gaps, 3]`: the image with the box, ground truth, base, tuned."""
    x0, y0, side = _crop(panel)
    views: list[Pixels] = [_view(panel.image, x0, y0, side)]
    for mask, color in ((panel.truth, TRUTH), (panel.base, BASE), (panel.tuned, TUNED)):
        view = _view(panel.image, x0, y0, side)
        _outline(view, _view(mask.astype(np.uint8) * 255, x0, y0, side, cv2.INTER_NEAREST) > 127, color)
        views.append(view)
    scale = VIEW / side
    corners = [(round((x - x0) * scale), round((y - y0) * scale)) for x, y in (panel.box[:2], panel.box[2:])]
    cv2.rectangle(views[0], corners[0], corners[1], PROMPT, 1)
    gap = np.full((VIEW, _GAP, 3), 255, np.uint8)
    return np.hstack([part for view in views for part in (gap, view)][1:])


def draw_unannotated(image: Pixels, annotated: Mask, found: Sequence[FoundObject]) -> Pixels:
    """The picture with annotated objects outlined thinly and the finds filled, each with its click."""
    scale = 2 * VIEW / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    drawn = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    _outline(drawn, _resized(annotated, size), TRUTH, fill=0.0)
    for one in found:
        _outline(drawn, _resized(one.mask, size), TUNED)
        center = (round(one.point[0] * scale), round(one.point[1] * scale))
        cv2.circle(drawn, center, 3, PROMPT, -1, cv2.LINE_AA)
    return drawn


def save_picture(picture: Pixels, path: Path) -> None:
    """Write a JPEG good enough to look at."""
    Image.fromarray(picture).save(path, quality=88)


def _crop(panel: Panel) -> tuple[float, float, float]:
    """Upper left corner and side of a square around the object and both answers' parts near it."""
    x0, y0, x1, y1 = panel.box
    side = max(x1 - x0, y1 - y0, 8) * (1 + 2 * _MARGIN)
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def _view(pixels: NDArray[np.uint8], x0: float, y0: float, side: float, how: int = cv2.INTER_LINEAR) -> Pixels:
    """A square cut-out at `VIEW` pixels; what lies outside the image is gray."""
    scale = VIEW / side
    matrix = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]], np.float64)
    outside = (128, 128, 128) if pixels.ndim == 3 else (0,)
    return np.asarray(cv2.warpAffine(pixels, matrix, (VIEW, VIEW), flags=how, borderValue=outside), np.uint8)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR), np.uint8) > 127


def _outline(picture: Pixels, mask: Mask, color: tuple[int, int, int], fill: float = 0.25) -> None:
    """Tint a mask and draw its edge, in place."""
    picture[mask] = ((1 - fill) * picture[mask] + fill * np.array(color)).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, edges, -1, color, 2 if fill else 1, cv2.LINE_AA)
