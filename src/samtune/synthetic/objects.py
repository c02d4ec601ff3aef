"""Objects made of one shape or several, with parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from samtune.synthetic.canvas import Canvas
from samtune.synthetic.outlines import (
    COMPACT_SHAPES,
    SHAPES,
    Outline,
    blob,
    ellipse,
    leaf,
    pick_shape,
    random_turn,
    rasterise,
    thick_line,
    tube,
)
from samtune.synthetic.surfaces import TEXTURES, Style, random_color, varied_style


def random_style(
    rng: np.random.Generator, canvas: Canvas, *, shadow: bool = True, opacity: float | None = None
) -> Style:
    """A style of its own; one in four borrows its colour from the image, so that contrast can be low."""
    low = random_color(rng)
    if rng.random() < 0.25:
        y, x = rng.integers(canvas.size, size=2)
        low = np.clip(canvas.image[y, x] + rng.normal(0, 30, 3), 0, 255).astype(np.float32)
    high = np.clip(low + rng.uniform(10, 90) * rng.normal(size=3), 0, 255) if rng.random() < 0.7 else random_color(rng)
    if opacity is None:
        opacity = 1.0 if rng.random() < 0.88 else rng.uniform(0.45, 1)
    return Style(
        low=low,
        high=high.astype(np.float32),
        texture=int(rng.integers(TEXTURES)),
        contrast=0.0 if rng.random() < 0.2 else rng.uniform(0.1, 1),
        roundness=rng.uniform(-0.3, 0.8) if rng.random() < 0.5 else 0.0,
        rim=rng.uniform(-0.8, 0.6) if rng.random() < 0.25 else 0.0,
        light=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)) if rng.random() < 0.6 else (0.0, 0.0),
        opacity=opacity,
        shadow=rng.uniform(0.15, 0.7) if shadow and rng.random() < 0.35 else 0.0,
    )


Maker = Callable[[np.random.Generator, Canvas, tuple[float, float], float, Style], None]


def plain(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """One shape."""
    canvas.paint(
        rng, pick_shape(rng, SHAPES)(rng).placed(center, radius, *random_turn(rng)), style, canvas.add("shape")
    )


def with_parts(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style
) -> None:
    """A compact shape with parts on it: a core, spots or a band. Parts never reach outside the whole."""
    whole = pick_shape(rng, COMPACT_SHAPES)(rng)
    angle, aspect = random_turn(rng)
    index = canvas.add("whole")
    canvas.paint(rng, whole.placed(center, radius, angle, aspect), style, index)
    part_style = random_style(rng, canvas, shadow=False)
    if rng.random() < 0.6:
        scale = rng.uniform(0.35, 0.75)
        shift = (1 - scale) * rng.uniform(-0.35, 0.35, 2) * radius * aspect
        core = whole if rng.random() < 0.6 else ellipse(rng)
        place = (center[0] + float(shift[0]), center[1] + float(shift[1]))
        _paint_part(rng, canvas, core.placed(place, radius * scale * 0.9, angle, aspect), part_style, index, "core")
        return
    for _ in range(rng.integers(1, 6)):
        reach, around = radius * aspect * rng.uniform(0, 0.6), rng.uniform(0, 2 * np.pi)
        place = (center[0] + reach * np.cos(around), center[1] + reach * np.sin(around))
        spot = pick_shape(rng, COMPACT_SHAPES)(rng).placed(place, radius * rng.uniform(0.1, 0.3), *random_turn(rng))
        _paint_part(rng, canvas, spot, part_style, index, "spot")


def plant(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """Several leaves or arms from one place; each is a part of the whole."""
    index = canvas.add("plant")
    leaves = int(rng.integers(2, 10))
    first, regular = rng.uniform(0, 2 * np.pi), rng.random() < 0.4
    has_parts = rng.random() < 0.7
    shape = pick_shape(rng, (leaf, leaf, ellipse, tube, blob))
    slim = rng.uniform(0.4, 1.0)
    for number in range(leaves):
        angle = first + 2 * np.pi * number / leaves if regular else rng.uniform(0, 2 * np.pi)
        length = radius * rng.uniform(0.35, 0.6)
        reach = length * rng.uniform(0.8, 1.2) + radius * rng.uniform(0, 0.2)
        place = (center[0] + reach * np.cos(angle), center[1] + reach * np.sin(angle))
        stem = np.array([center, place], np.float32)
        canvas.paint(rng, thick_line(stem, max(0.8, 0.04 * radius)), style, index)
        owner = canvas.add("leaf", index) if has_parts else index
        canvas.paint(rng, shape(rng).placed(place, length, angle, slim), varied_style(rng, style), owner)


def framed(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """A frame around an opening that shows what is behind, tinted: windows, glasses, rings. Sometimes a pair."""
    opening = pick_shape(rng, COMPACT_SHAPES)(rng)
    angle, aspect = random_turn(rng, flat=0.45)
    width = rng.uniform(0.04, 0.35)
    ring = Outline(opening.fills, tuple(fill * (1 - width) for fill in opening.fills))
    glass = random_style(rng, canvas, shadow=False, opacity=rng.uniform(0.0, 0.5))
    step = 2.15 * radius * np.array([np.cos(angle), np.sin(angle)])
    frame = canvas.add("frame")
    for side in range(rng.integers(1, 3)):
        place = (center[0] + side * float(step[0]), center[1] + side * float(step[1]))
        inner = Outline(ring.holes).placed(place, radius, angle, aspect)
        canvas.paint(rng, inner, glass, canvas.add("opening"))
        canvas.paint(rng, ring.placed(place, radius, angle, aspect), style, frame)


def potted(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """A branched object on a compact one, as a plant on its pot: two objects, neither a part of the other."""
    pot = pick_shape(rng, COMPACT_SHAPES)(rng).placed(
        center, radius * rng.uniform(0.5, 1.0), *random_turn(rng, flat=0.6)
    )
    canvas.paint(rng, pot, style, canvas.add("pot"))
    plant(rng, canvas, center, radius * rng.uniform(0.6, 1.3), random_style(rng, canvas))


_MAKERS: tuple[Maker, ...] = (plain, with_parts, plant, framed, potted)
_MAKER_WEIGHTS = (0.5, 0.16, 0.14, 0.14, 0.06)


def pick_maker(rng: np.random.Generator) -> Maker:
    """A kind of object, plain shapes most often."""
    return _MAKERS[rng.choice(len(_MAKERS), p=_MAKER_WEIGHTS)]


def any_object(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style
) -> None:
    """Draw an object of a random kind."""
    pick_maker(rng)(rng, canvas, center, radius, style)


def _paint_part(
    rng: np.random.Generator, canvas: Canvas, outline: Outline, style: Style, whole: int, category: str
) -> None:
    """Paint a part, then give back the pixels that lie outside of the whole."""
    drawn = rasterise(outline, canvas.size)
    if drawn is None:
        return
    alpha, x0, y0 = drawn
    window = np.s_[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
    image, labels = canvas.image[window].copy(), canvas.labels[window].copy()
    index = canvas.add(category, whole)
    canvas.paint(rng, outline, style, index)
    own = (labels == whole + 1) | (labels == index + 1)
    own |= np.isin(labels, [i + 1 for i, parent in enumerate(canvas.parents) if parent == whole])
    canvas.image[window] = np.where(own[..., None], canvas.image[window], image)
    canvas.labels[window] = np.where(own, canvas.labels[window], labels)
