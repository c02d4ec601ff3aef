"""Cells as a phase contrast microscope shows them: what the demo and the benchmarks draw."""

from __future__ import annotations

import cv2
import numpy as np

from samtune.synthetic.canvas import Canvas, Scene, random_place
from samtune.synthetic.outlines import (
    Outline,
    angles_of_ring,
    blob,
    ellipse,
    log_uniform,
    polar,
    random_turn,
    rasterise,
    tube,
)
from samtune.synthetic.surfaces import TEXTURES, Style, noise_octaves


def microscope_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw cells as a phase contrast microscope shows them: halos, granular insides, debris that is no cell.

    Two categories: "round" (dividing or dead: small, bright, with a strong halo) and "spread" (large, flat, with a
    nucleus). The mask ends at the membrane, inside the halo.

    Args:
        rng: the only source of randomness.
        size: side of the square image in pixels, 32 or more.

    Returns:
        A scene with at least one cell; cells overlap little and have no parts.
    """
    granules = [np.clip(0.5 + 1.6 * (noise_octaves(rng, size, size // 6, 0.8) - 0.5), 0, 1) for _ in range(TEXTURES)]
    ground = np.float32(rng.uniform(110, 160)) + 30 * (noise_octaves(rng, size, 2, 0.4) - 0.5)
    canvas = Canvas(np.repeat(ground[..., None], 3, axis=2).astype(np.float32), granules)
    _scatter_debris(rng, canvas, int(rng.integers(10, 40)))
    taken: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(6, 22)):
        is_round = rng.random() < 0.35
        radius = size * (rng.uniform(0.03, 0.05) if is_round else rng.uniform(0.06, 0.12))
        x, y = (float(v) for v in size * rng.uniform(0.04, 0.96, 2))
        if all(np.hypot(x - a, y - b) > 0.75 * (radius + other) for a, b, other in taken):
            taken.append((x, y, radius))
            _draw_cell(rng, canvas, (x, y), radius, is_round=is_round)
    tint = np.array([rng.uniform(0.9, 1.05), 1.0, rng.uniform(0.9, 1.05)], np.float32)
    image = cv2.GaussianBlur(canvas.image, (0, 0), size / 400).astype(np.float32) * tint
    image += rng.normal(0, rng.uniform(2, 6), (size, size, 1))
    image = np.clip(image, 0, 255).astype(np.uint8)
    return Scene(image, canvas.labels, tuple(canvas.categories), tuple(canvas.parents))


def _draw_cell(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, *, is_round: bool
) -> None:
    """Halo, membrane, granules and, in spread cells, a nucleus."""
    outline = _cell_outline(rng, 0.05 if is_round else 0.22)
    angle, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1) if is_round else rng.uniform(0.5, 0.95)
    glow = rng.uniform(25, 45) if is_round else rng.uniform(12, 28)
    halo = rasterise(outline.placed(center, radius * 1.18, angle, aspect), canvas.size)
    if halo is not None:
        alpha, x0, y0 = halo
        window = np.s_[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
        soft = cv2.GaussianBlur(alpha, (0, 0), max(0.8, 0.06 * radius)).astype(np.float32) / 255
        canvas.image[window] += (soft * np.float32(glow))[..., None]
    here = canvas.image[tuple(np.clip([int(center[1]), int(center[0])], 0, canvas.size - 1))].mean() - glow
    base = here + (rng.uniform(20, 50) if is_round else rng.uniform(-22, 4))
    low, high = (np.full(3, base + change, np.float32) for change in (-28.0, 28.0))
    body = Style(low, high, int(rng.integers(TEXTURES)), contrast=rng.uniform(0.6, 1), rim=-0.28)
    canvas.paint(
        rng, outline.placed(center, radius, angle, aspect), body, canvas.add("round" if is_round else "spread")
    )
    if not is_round:
        reach = 0.25 * radius * aspect * rng.uniform(-1, 1, 2)
        place = (center[0] + float(reach[0]), center[1] + float(reach[1]))
        nucleus = Style(low - 22, high - 30, int(rng.integers(TEXTURES)), contrast=0.5, rim=0.15, opacity=0.7)
        canvas.paint(rng, ellipse(rng).placed(place, radius * rng.uniform(0.22, 0.34), angle, 0.9), nucleus, None)


def _cell_outline(rng: np.random.Generator, unrest: float) -> Outline:
    """A closed membrane; `unrest` is the size of its waves."""
    angles, waves = angles_of_ring(), np.arange(2, 7)
    size = unrest * rng.normal(size=len(waves)) / np.sqrt(waves)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    radius = 1 + (size[:, None] * np.cos(waves[:, None] * angles + phase[:, None])).sum(0)
    return Outline((polar(angles, np.clip(radius, 0.4, 1.6).astype(np.float32)),))


def _scatter_debris(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Specks and fibres, bright or dark, that belong to no object."""
    for _ in range(count):
        value = np.full(3, rng.choice([60.0, 90.0, 190.0, 220.0]), np.float32)
        style = Style(value, value, 0, contrast=0.0, opacity=rng.uniform(0.4, 0.9))
        radius = canvas.size * log_uniform(rng, 0.003, 0.015)
        shape = tube(rng) if rng.random() < 0.2 else blob(rng)
        stretch = 4.0 if len(shape.fills) > 1 else 1.0
        canvas.paint(rng, shape.placed(random_place(rng, canvas), radius * stretch, *random_turn(rng)), style, None)
