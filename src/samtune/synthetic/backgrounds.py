"""Where a scene begins: the ground, and things on it that nobody annotates."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from samtune.synthetic.canvas import Canvas, random_place
from samtune.synthetic.objects import random_style
from samtune.synthetic.outlines import SHAPES, FloatArray, log_uniform, pick_shape, random_turn
from samtune.synthetic.surfaces import TEXTURES, noise_octaves, random_color, random_texture


def new_canvas(rng: np.random.Generator, size: int) -> Canvas:
    """A canvas with a background, one in four of them cluttered, and the textures that objects can have."""
    textures = [random_texture(rng, size) for _ in range(TEXTURES)]
    canvas = Canvas(_background(rng, size, textures), textures)
    if rng.random() < 0.25:
        _clutter(rng, canvas)
    return canvas


def _clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    """A background full of things out of focus, which nobody annotates."""
    largest = canvas.size * rng.uniform(0.06, 0.4)
    for _ in range(rng.integers(5, 60)):
        shape = pick_shape(rng, SHAPES)(rng).placed(
            random_place(rng, canvas), largest * rng.uniform(0.2, 1), *random_turn(rng)
        )
        canvas.paint(rng, shape, random_style(rng, canvas), None)
    sigma = canvas.size * log_uniform(rng, 0.006, 0.04)
    canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), sigma).astype(np.float32)


def _background(rng: np.random.Generator, size: int, textures: Sequence[FloatArray]) -> FloatArray:
    """A plain, graded, cloudy or textured ground, sometimes with an edge across it, sometimes littered."""
    low, high = random_color(rng), random_color(rng)
    if rng.random() < 0.5:
        high = np.clip(low + rng.normal(0, 25, 3), 0, 255).astype(np.float32)
    kind = rng.choice(4, p=(0.25, 0.25, 0.3, 0.2))
    if kind == 0:
        image = np.broadcast_to(low, (size, size, 3)).astype(np.float32)
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-0.7, 0.7, size, dtype=np.float32)
        ramp = np.clip(0.5 + np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None], 0, 1)
        image = low + ramp[..., None] * (high - low)
    elif kind == 2:
        image = low + noise_octaves(rng, size, int(rng.integers(1, 8)), rng.uniform(0.3, 0.9))[..., None] * (high - low)
    else:
        image = low + textures[0][..., None] * np.float32(rng.uniform(0.2, 1)) * (high - low)
    if rng.random() < 0.3:
        image = image + noise_octaves(rng, size, int(rng.integers(2, 20)), 0.8)[..., None] * rng.normal(0, 30, 3)
    image = np.ascontiguousarray(image, np.float32)
    if rng.random() < 0.3:
        _lay_edge(rng, image)
    if rng.random() < 0.3:
        _litter(rng, image)
    return image


def _lay_edge(rng: np.random.Generator, image: FloatArray) -> None:
    """Another ground beyond a straight line: a table's edge, a wall, a horizon."""
    size, angle = image.shape[0], rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    side = (np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None] > rng.uniform(-0.6, 0.6))[..., None]
    cover = side * np.float32(rng.uniform(0.3, 1))
    image += cover * (random_color(rng) - image)


def _litter(rng: np.random.Generator, image: FloatArray) -> None:
    """Thin lines, specks and a scale bar that nobody annotates."""
    size = image.shape[0]
    for _ in range(rng.integers(1, 25)):
        start = rng.uniform(0, size, 2)
        end = start + rng.normal(0, 0.25 * size * rng.random(), 2)
        color = tuple(float(v) for v in random_color(rng))
        a, b = (tuple(int(v) for v in point) for point in (start, end))
        cv2.line(image, a, b, color, 1, cv2.LINE_AA)
    for _ in range(rng.integers(0, 30)):
        place = rng.integers(0, size, 2)
        color = tuple(float(v) for v in random_color(rng))
        cv2.circle(image, (int(place[0]), int(place[1])), int(rng.integers(1, max(2, size // 120) + 1)), color, -1)
