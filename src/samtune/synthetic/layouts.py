"""Where the objects of a scene go, and how large they are."""

from __future__ import annotations

import math

import numpy as np

from samtune.synthetic.canvas import Canvas, random_place
from samtune.synthetic.objects import any_object, framed, pick_maker, plain, plant, potted, random_style, with_parts
from samtune.synthetic.outlines import COMPACT_SHAPES, SHAPES, log_uniform, pick_shape, random_turn
from samtune.synthetic.surfaces import varied_style


def _still_life(rng: np.random.Generator, canvas: Canvas) -> None:
    """A few large objects of all kinds."""
    for _ in range(rng.integers(1, 8)):
        radius = canvas.size * rng.uniform(0.08, 0.38)
        any_object(rng, canvas, random_place(rng, canvas), radius, random_style(rng, canvas))


def _scattering(rng: np.random.Generator, canvas: Canvas) -> None:
    """Dozens of objects of a few kinds, as on a table, in a tray, in a field."""
    makers = [pick_maker(rng) for _ in range(rng.integers(1, 4))]
    styles = [random_style(rng, canvas) for _ in makers]
    typical = canvas.size * log_uniform(rng, 0.025, 0.13)
    spread = rng.uniform(0, 0.5)
    for _ in range(rng.integers(8, 45)):
        kind = rng.integers(len(makers))
        radius = typical * np.exp(spread * rng.normal())
        makers[kind](rng, canvas, random_place(rng, canvas), radius, varied_style(rng, styles[kind]))


def _packing(rng: np.random.Generator, canvas: Canvas) -> None:
    """Up to hundreds of like objects side by side on a disturbed grid: particles, cells, seeds, bricks, windows."""
    outline = pick_shape(rng, COMPACT_SHAPES)(rng)
    styles = [random_style(rng, canvas, shadow=False) for _ in range(rng.integers(1, 4))]
    pitch = canvas.size * log_uniform(rng, 0.035, 0.2)
    fill, mess, turn = rng.uniform(0.35, 0.56), rng.uniform(0, 0.25), rng.uniform(0, 0.6)
    aspect, grid_angle, missing = rng.uniform(0.6, 1), rng.uniform(0, np.pi), rng.uniform(0, 0.5)
    fresh = rng.random() < 0.3
    count = int(1.5 * canvas.size / pitch) + 1
    c, s = np.cos(grid_angle), np.sin(grid_angle)
    middle = canvas.size * rng.uniform(0.3, 0.7, 2)
    extent = canvas.size * rng.uniform(0.3, 0.8)
    for row in range(-count, count + 1):
        for column in range(-count, count + 1):
            u, v = pitch * (column + 0.5 * (row % 2)), pitch * row * 0.87
            x, y = np.array([c * u - s * v, s * u + c * v]) + middle + mess * pitch * rng.normal(size=2)
            outside = np.hypot(x - middle[0], y - middle[1]) > extent * rng.uniform(0.8, 1.2)
            inside_image = -pitch < x < canvas.size + pitch and -pitch < y < canvas.size + pitch
            if outside or not inside_image or rng.random() < missing:
                continue
            shape = pick_shape(rng, COMPACT_SHAPES)(rng) if fresh else outline
            radius = pitch * fill * (1 + 0.12 * rng.normal())
            placed = shape.placed((x, y), radius, grid_angle + turn * rng.normal(), aspect)
            style = varied_style(rng, styles[rng.integers(len(styles))])
            canvas.paint(rng, placed, style, canvas.add("particle"))


def _dead_leaves(rng: np.random.Generator, canvas: Canvas) -> None:
    """Shapes with sizes from a power law that cover each other and, often, everything."""
    smallest, largest = rng.uniform(0.02, 0.05), rng.uniform(0.2, 0.4)
    for _ in range(rng.integers(40, 160)):
        u = rng.random()
        radius = canvas.size * (smallest**-1.5 + u * (largest**-1.5 - smallest**-1.5)) ** (-1 / 1.5)
        shape = pick_shape(rng, SHAPES)(rng).placed(random_place(rng, canvas), radius, *random_turn(rng))
        canvas.paint(rng, shape, random_style(rng, canvas), canvas.add("shape"))


def _collection(rng: np.random.Generator, canvas: Canvas) -> None:
    """Whole objects apart from each other, most of them compact: what people put in front of a camera to measure it."""
    taken: list[tuple[float, float, float]] = []
    largest = canvas.size * rng.uniform(0.08, 0.45)
    alike = random_style(rng, canvas) if rng.random() < 0.5 else None
    for _ in range(rng.integers(1, 40)):
        x, y = random_place(rng, canvas)
        room = min((math.hypot(x - a, y - b) - r for a, b, r in taken), default=largest)
        radius = min(largest, room / 1.1) * rng.uniform(0.6, 1.0)
        if radius < 0.025 * canvas.size:
            continue
        taken.append((x, y, radius))
        style = random_style(rng, canvas) if alike is None else varied_style(rng, alike)
        if rng.random() < 0.6:
            shape = pick_shape(rng, COMPACT_SHAPES)(rng).placed((x, y), radius, *random_turn(rng))
            canvas.paint(rng, shape, style, canvas.add("shape"))
        else:
            maker = (plain, with_parts, plant, framed, potted)[rng.integers(5)]
            maker(rng, canvas, (x, y), radius, style)


LAYOUTS = (_still_life, _scattering, _packing, _dead_leaves, _collection)
LAYOUT_WEIGHTS = (0.22, 0.2, 0.13, 0.05, 0.4)
