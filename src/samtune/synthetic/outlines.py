"""Shapes as rings of points in a unit frame, about -1 to 1, how they are placed on an image, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
Ring = NDArray[np.float32]
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Outline:
    """A shape as rings of points `[P, 2]` (xy): the union of `fills`, with `holes` cut out."""

    fills: tuple[Ring, ...]
    holes: tuple[Ring, ...] = ()

    def placed(self, center: tuple[float, float], radius: float, angle: float = 0.0, aspect: float = 1.0) -> Outline:
        """The shape squeezed by `aspect` along y, turned by `angle` (radians), scaled to `radius`, put at `center`."""
        c, s = np.cos(angle), np.sin(angle)
        matrix = radius * np.array([[c, -s * aspect], [s, c * aspect]], np.float32)
        offset = np.array(center, np.float32)

        def move(rings: tuple[Ring, ...]) -> tuple[Ring, ...]:
            return tuple((ring @ matrix.T + offset).astype(np.float32) for ring in rings)

        return Outline(move(self.fills), move(self.holes))


Shape = Callable[[np.random.Generator], Outline]


def ellipse(rng: np.random.Generator) -> Outline:
    """From a thin ellipse to a circle."""
    return Outline((polar(angles_of_ring(48), 1.0) * np.array([1, rng.uniform(0.35, 1)], np.float32),))


def _superellipse(rng: np.random.Generator) -> Outline:
    """Between a diamond and a rectangle with round corners."""
    angles, power = angles_of_ring(), 2 / log_uniform(rng, 1.2, 10)
    c, s = np.cos(angles), np.sin(angles)
    ring = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=1)
    return Outline(((ring * np.array([1, rng.uniform(0.3, 1)])).astype(np.float32),))


def _polygon(rng: np.random.Generator) -> Outline:
    """Triangle to octagon, regular or not, sharp or with round corners."""
    corners = int(rng.integers(3, 9))
    angles = angles_of_ring(corners) + rng.uniform(0, 0.6) * rng.uniform(-0.5, 0.5, corners).astype(np.float32)
    ring = polar(np.sort(angles).astype(np.float32), (1 - rng.uniform(0, 0.4) * rng.random(corners)).astype(np.float32))
    for _ in range(rng.integers(0, 4)):
        ring = _cut_corners(ring)
    return Outline((ring,))


def blob(rng: np.random.Generator) -> Outline:
    """A star-shaped outline from a few random waves."""
    angles = angles_of_ring()
    waves = np.arange(1, rng.integers(3, 9))
    size = rng.uniform(0.1, 0.45) * rng.normal(size=len(waves)) / waves ** rng.uniform(0.5, 1.5)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    radius = 1 + (size[:, None] * np.cos(waves[:, None] * angles + phase[:, None])).sum(0)
    radius = np.maximum(radius, 0.15)
    return Outline((polar(angles, (radius / radius.max()).astype(np.float32)),))


def _star(rng: np.random.Generator) -> Outline:
    tips = int(rng.integers(3, 10))
    radius = np.where(np.arange(2 * tips) % 2, rng.uniform(0.3, 0.7), 1.0).astype(np.float32)
    ring = polar(angles_of_ring(2 * tips), radius)
    for _ in range(rng.integers(0, 3)):
        ring = _cut_corners(ring)
    return Outline((ring,))


def leaf(rng: np.random.Generator) -> Outline:
    """Pointed at one or both ends, bent, sometimes with a toothed edge."""
    t = np.linspace(0, 1, 28, dtype=np.float32)
    swell = np.maximum(np.sin(np.pi * t ** rng.uniform(0.5, 1.6)), 0)
    half = rng.uniform(0.12, 0.45) * swell ** rng.uniform(0.6, 1.2)
    half = half + rng.uniform(0, 0.05) * (np.arange(28) % 2) * (rng.random() < 0.3)
    middle = rng.uniform(-0.4, 0.4) * np.sin(np.pi * t)
    upper = np.stack([2 * t - 1, middle + half], axis=1)
    lower = np.stack([2 * t - 1, middle - half], axis=1)[::-1]
    return Outline((np.concatenate([upper, lower]).astype(np.float32),))


def tube(rng: np.random.Generator) -> Outline:
    """A bent line with some thickness: wires, worms, roots, cracks, handles."""
    knots = int(rng.integers(2, 6))
    along = np.linspace(-1, 1, knots)
    spine = np.stack([along, rng.uniform(0, 0.6) * rng.normal(size=knots)], axis=1).astype(np.float32)
    for _ in range(3):
        spine = _cut_corners(spine, closed=False)
    spine = np.clip(spine, -1, 1)
    return thick_line(spine, log_uniform(rng, 0.03, 0.2))


def _crescent(rng: np.random.Generator) -> Outline:
    shift = rng.uniform(0.2, 0.7)
    bite = polar(angles_of_ring(48), rng.uniform(0.7, 1.0)) + np.array([shift, rng.uniform(-0.3, 0.3)], np.float32)
    return Outline((polar(angles_of_ring(48), 1.0),), (bite.astype(np.float32),))


def _cluster(rng: np.random.Generator) -> Outline:
    """Several overlapping compact shapes that are one object."""
    rings: list[Ring] = []
    place = np.zeros(2)
    for _ in range(rng.integers(2, 6)):
        shape = pick_shape(rng, COMPACT_SHAPES)(rng)
        rings.extend(shape.placed((place[0], place[1]), rng.uniform(0.25, 0.6), *random_turn(rng)).fills)
        place = np.clip(place + rng.uniform(-0.5, 0.5, 2), -0.6, 0.6)
    return Outline(tuple(rings))


def _hollow(rng: np.random.Generator) -> Outline:
    """A compact shape with a hole through which the background shows."""
    outer = pick_shape(rng, COMPACT_SHAPES)(rng)
    scale = rng.uniform(0.3, 0.85)
    return Outline(outer.fills, tuple(fill * np.float32(scale) for fill in outer.fills))


COMPACT_SHAPES: tuple[Shape, ...] = (ellipse, _superellipse, _polygon, blob)
SHAPES: tuple[Shape, ...] = (
    *((ellipse, _superellipse, _polygon, blob) * 4),
    *(_star, leaf, leaf, tube, _crescent, _cluster, _hollow),
)
"""What people annotate is compact more often than not; a model that has seen it otherwise leaves too much of a box."""


def pick_shape(rng: np.random.Generator, shapes: Sequence[Shape]) -> Shape:
    """One of some shapes, all equally likely."""
    return shapes[int(rng.integers(len(shapes)))]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Every octave between `low` and `high` is equally likely."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def random_turn(rng: np.random.Generator, flat: float = 0.35) -> tuple[float, float]:
    """A random angle, and an aspect from `flat` to 1."""
    return rng.uniform(0, 2 * np.pi), rng.uniform(flat, 1)


def angles_of_ring(count: int = 64) -> FloatArray:
    """Angles of a ring's points in radians, `[count]`, from 0 to just below a full turn."""
    return np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float32)


def polar(angles: FloatArray, radius: FloatArray | float) -> Ring:
    """Points `[P, 2]` (xy) at these angles and distances from the origin."""
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1).astype(np.float32)


def _cut_corners(ring: Ring, closed: bool = True) -> Ring:
    """One round of Chaikin's corner cutting; an open line keeps its ends."""
    following = np.roll(ring, -1, axis=0) if closed else ring[1:]
    start = ring if closed else ring[:-1]
    cut = np.stack([0.75 * start + 0.25 * following, 0.25 * start + 0.75 * following], axis=1).reshape(-1, 2)
    return (cut if closed else np.concatenate([ring[:1], cut, ring[-1:]])).astype(np.float32)


def thick_line(spine: Ring, half_width: float) -> Outline:
    """A line as quadrilaterals and round joints, which together have no gaps."""
    step = np.diff(spine, axis=0)
    length = np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-6)
    across = half_width * np.stack([-step[:, 1], step[:, 0]], axis=1) / length
    quads = [np.stack([a + n, b + n, b - n, a - n]) for a, b, n in zip(spine[:-1], spine[1:], across, strict=True)]
    joints = [polar(angles_of_ring(10), half_width) + knot for knot in spine]
    return Outline(tuple(ring.astype(np.float32) for ring in quads + joints))


def rasterise(outline: Outline, size: int) -> tuple[ByteArray, int, int] | None:
    """Coverage 0 to 255 of the window around the shape, and the window's left and top; None outside the image.

    OpenCV paints the outline too: a shape comes out half a pixel larger all around, in image and mask alike.
    """
    points = np.concatenate(outline.fills)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, size)
    if x1 <= x0 or y1 <= y0:
        return None
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for rings, value in ((outline.fills, 255), (outline.holes, 0)):
        for ring in rings:
            # fillPoly counts from pixel centres, the scene from pixel corners: hence the half pixel.
            corners = np.round((ring - (x0 + 0.5, y0 + 0.5)) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(alpha, [corners], (value,), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return (alpha, int(x0), int(y0)) if alpha.any() else None
