"""Procedural scenes: pictures drawn by chance, with exact masks, for pre-training the small model and for the demo.

`random_scene` draws what pre-training sees: still lifes, scatterings, dense packings of hundreds of small objects and
"dead leaves" (shapes of all sizes covering each other, which share much of the statistics of photographs; see Baradad
et al., "Learning to See by Looking at Noise", 2021), with textures, shading, shadows, occlusion, transparency, thin
objects, holes, nested parts, blur, noise, colour casts and JPEG artefacts. `microscope_scene` draws cells as a
microscope shows them; pre-training never sees those, so that the demo has something to learn.

A scene depends only on the generator it is given. Units are pixels; shapes are drawn in a unit frame, about -1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
Ring = NDArray[np.float32]

_SUBPIXEL_BITS = 4
_TEXTURES = 5


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and the objects in it.

    Attributes:
        image: uint8 `[H, W, 3]`, RGB.
        labels: int32 `[H, W]`, 0 for background, k where object k - 1 is the innermost visible one.
        categories: one name per object, N of them.
        parents: per object the index of the object it is a part of, or None. A parent comes before its parts.
    """

    image: ByteArray
    labels: NDArray[np.int32]
    categories: tuple[str, ...]
    parents: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Visible pixels of every object with those of its parts, bool `[N, H, W]`; empty where it is wholly hidden."""
        masks = self.labels[None] == np.arange(1, len(self) + 1, dtype=np.int32)[:, None, None]
        for part in range(len(self) - 1, -1, -1):
            parent = self.parents[part]
            if parent is not None:
                masks[parent] |= masks[part]
        return masks


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


@dataclass(frozen=True, slots=True)
class Style:
    """How a surface looks.

    Attributes:
        low, high: RGB, 0 to 255, between which the texture blends.
        texture: index into the scene's textures.
        contrast: 0 for a plain surface, 1 for the full span between the two colours.
        roundness: how much the surface darkens (or, negative, brightens) towards its edge, -1 to 1.
        rim: brightness change of a thin line along the edge, -1 to 1.
        light: brightness change across the object, along its x and y.
        opacity: 0 to 1.
        shadow: strength of the cast shadow, 0 to 1.
    """

    low: FloatArray
    high: FloatArray
    texture: int
    contrast: float
    roundness: float = 0.0
    rim: float = 0.0
    light: tuple[float, float] = (0.0, 0.0)
    opacity: float = 1.0
    shadow: float = 0.0


@dataclass(slots=True)
class Canvas:
    """A scene while it is drawn: `image` float32 `[S, S, 3]` in 0 to 255, and the objects so far."""

    image: FloatArray
    textures: list[FloatArray]
    labels: NDArray[np.int32] = field(init=False)
    categories: list[str] = field(default_factory=list[str])
    parents: list[int | None] = field(default_factory=list["int | None"])

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.image.shape[:2], np.int32)

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.image.shape[0]

    def add(self, category: str, parent: int | None = None) -> int:
        """Register an object and return its index."""
        self.categories.append(category)
        self.parents.append(parent)
        return len(self.categories) - 1

    def paint(self, rng: np.random.Generator, outline: Outline, style: Style, index: int | None) -> None:
        """Draw `outline` over what is there; its pixels become object `index`, or keep their labels if it is None."""
        drawn = _rasterise(outline, self.size)
        if drawn is None:
            return
        alpha, x0, y0 = drawn
        if style.shadow:
            self._cast_shadow(rng, alpha, x0, y0, style.shadow)
        window = np.s_[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
        cover = (alpha.astype(np.float32) * np.float32(style.opacity / 255))[..., None]
        self.image[window] += cover * (_surface(rng, alpha, style, self.textures[style.texture]) - self.image[window])
        if index is not None:
            self.labels[window][alpha > 127] = index + 1

    def _cast_shadow(self, rng: np.random.Generator, alpha: ByteArray, x0: int, y0: int, strength: float) -> None:
        reach = 2 + int(0.12 * min(alpha.shape))
        shadow = cv2.copyMakeBorder(alpha, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
        shadow = cv2.blur(shadow, (reach | 1, reach | 1))
        dx, dy = (int(v) for v in rng.integers(-reach, reach + 1, 2))
        top, left = y0 - reach + dy, x0 - reach + dx
        y1, x1 = max(top, 0), max(left, 0)
        y2, x2 = min(top + shadow.shape[0], self.size), min(left + shadow.shape[1], self.size)
        if y2 > y1 and x2 > x1:
            part = shadow[y1 - top : y2 - top, x1 - left : x2 - left].astype(np.float32)
            self.image[y1:y2, x1:x2] *= 1 - (part * np.float32(strength / 255))[..., None]

    def finished(self, rng: np.random.Generator) -> Scene:
        """The scene as a camera sees it, without the objects of which nothing is visible."""
        image = _photograph(rng, self.image)
        visible = np.bincount(self.labels.ravel(), minlength=len(self.categories) + 1)[1:] > 0
        for part in range(len(visible) - 1, -1, -1):
            parent = self.parents[part]
            if visible[part] and parent is not None:
                visible[parent] = True
        number = np.cumsum(visible) * visible
        labels = np.concatenate([[0], number]).astype(np.int32)[self.labels]
        kept = np.flatnonzero(visible)
        parents = [self.parents[i] for i in kept]
        return Scene(
            image,
            labels,
            tuple(self.categories[i] for i in kept),
            tuple(None if parent is None else int(number[parent]) - 1 for parent in parents),
        )


def random_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw a scene of the kind pre-training uses.

    Args:
        rng: the only source of randomness.
        size: side of the square picture in pixels, 32 or more.

    Returns:
        A scene; it may hold hundreds of objects, and on rare occasions none.
    """
    layout = _LAYOUTS[rng.choice(len(_LAYOUTS), p=_LAYOUT_WEIGHTS)]
    canvas = _new_canvas(rng, size)
    layout(rng, canvas)
    return canvas.finished(rng)


# Layouts: where objects go and how large they are.


def _still_life(rng: np.random.Generator, canvas: Canvas) -> None:
    """A few large objects of all kinds."""
    for _ in range(rng.integers(1, 8)):
        radius = canvas.size * rng.uniform(0.08, 0.38)
        _any_object(rng, canvas, _somewhere(rng, canvas), radius, _random_style(rng, canvas))


def _scattering(rng: np.random.Generator, canvas: Canvas) -> None:
    """Dozens of objects of a few kinds, as on a table, in a tray, in a field."""
    makers = [_pick_maker(rng) for _ in range(rng.integers(1, 4))]
    styles = [_random_style(rng, canvas) for _ in makers]
    typical = canvas.size * _log_uniform(rng, 0.025, 0.13)
    spread = rng.uniform(0, 0.5)
    for _ in range(rng.integers(8, 45)):
        kind = rng.integers(len(makers))
        radius = typical * np.exp(spread * rng.normal())
        makers[kind](rng, canvas, _somewhere(rng, canvas), radius, _varied(rng, styles[kind]))


def _packing(rng: np.random.Generator, canvas: Canvas) -> None:
    """Up to hundreds of like objects side by side on a disturbed grid: particles, cells, seeds, bricks, windows."""
    outline = _pick(rng, _CONVEX)(rng)
    styles = [_random_style(rng, canvas, shadow=False) for _ in range(rng.integers(1, 4))]
    pitch = canvas.size * _log_uniform(rng, 0.035, 0.2)
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
            inside_picture = -pitch < x < canvas.size + pitch and -pitch < y < canvas.size + pitch
            if outside or not inside_picture or rng.random() < missing:
                continue
            shape = _pick(rng, _CONVEX)(rng) if fresh else outline
            radius = pitch * fill * (1 + 0.12 * rng.normal())
            placed = shape.placed((x, y), radius, grid_angle + turn * rng.normal(), aspect)
            style = _varied(rng, styles[rng.integers(len(styles))])
            canvas.paint(rng, placed, style, canvas.add("particle"))


def _dead_leaves(rng: np.random.Generator, canvas: Canvas) -> None:
    """Shapes with sizes from a power law that cover each other and, often, everything."""
    smallest, largest = rng.uniform(0.02, 0.05), rng.uniform(0.2, 0.4)
    for _ in range(rng.integers(40, 160)):
        u = rng.random()
        radius = canvas.size * (smallest**-1.5 + u * (largest**-1.5 - smallest**-1.5)) ** (-1 / 1.5)
        shape = _pick(rng, _SHAPES)(rng).placed(_somewhere(rng, canvas), radius, *_turn(rng))
        canvas.paint(rng, shape, _random_style(rng, canvas), canvas.add("shape"))


def _collection(rng: np.random.Generator, canvas: Canvas) -> None:
    """Whole objects apart from each other, most of them compact: what people put in front of a camera to measure it."""
    taken: list[tuple[float, float, float]] = []
    largest = canvas.size * rng.uniform(0.08, 0.45)
    alike = _random_style(rng, canvas) if rng.random() < 0.5 else None
    for _ in range(rng.integers(1, 40)):
        x, y = _somewhere(rng, canvas)
        room = min((math.hypot(x - a, y - b) - r for a, b, r in taken), default=largest)
        radius = min(largest, room / 1.1) * rng.uniform(0.6, 1.0)
        if radius < 0.025 * canvas.size:
            continue
        taken.append((x, y, radius))
        style = _random_style(rng, canvas) if alike is None else _varied(rng, alike)
        if rng.random() < 0.6:
            shape = _pick(rng, _CONVEX)(rng).placed((x, y), radius, *_turn(rng))
            canvas.paint(rng, shape, style, canvas.add("shape"))
        else:
            maker = (_plain, _with_parts, _plant, _framed, _potted)[rng.integers(5)]
            maker(rng, canvas, (x, y), radius, style)


_LAYOUTS = (_still_life, _scattering, _packing, _dead_leaves, _collection)
_LAYOUT_WEIGHTS = (0.22, 0.2, 0.13, 0.05, 0.4)


# Objects: a shape or several, with parts.

Maker = Callable[[np.random.Generator, Canvas, tuple[float, float], float, Style], None]


def _plain(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """One shape."""
    canvas.paint(rng, _pick(rng, _SHAPES)(rng).placed(center, radius, *_turn(rng)), style, canvas.add("shape"))


def _with_parts(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style
) -> None:
    """A compact shape with parts on it: a core, spots or a band. Parts never reach outside the whole."""
    whole = _pick(rng, _CONVEX)(rng)
    angle, aspect = _turn(rng)
    index = canvas.add("whole")
    canvas.paint(rng, whole.placed(center, radius, angle, aspect), style, index)
    part_style = _random_style(rng, canvas, shadow=False)
    if rng.random() < 0.6:
        scale = rng.uniform(0.35, 0.75)
        shift = (1 - scale) * rng.uniform(-0.35, 0.35, 2) * radius * aspect
        core = whole if rng.random() < 0.6 else _ellipse(rng)
        place = (center[0] + float(shift[0]), center[1] + float(shift[1]))
        _paint_part(rng, canvas, core.placed(place, radius * scale * 0.9, angle, aspect), part_style, index, "core")
        return
    for _ in range(rng.integers(1, 6)):
        reach, around = radius * aspect * rng.uniform(0, 0.6), rng.uniform(0, 2 * np.pi)
        place = (center[0] + reach * np.cos(around), center[1] + reach * np.sin(around))
        spot = _pick(rng, _CONVEX)(rng).placed(place, radius * rng.uniform(0.1, 0.3), *_turn(rng))
        _paint_part(rng, canvas, spot, part_style, index, "spot")


def _plant(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """Several leaves or arms from one place; each is a part of the whole."""
    index = canvas.add("plant")
    leaves = int(rng.integers(2, 10))
    first, regular = rng.uniform(0, 2 * np.pi), rng.random() < 0.4
    has_parts = rng.random() < 0.7
    shape = _pick(rng, (_leaf, _leaf, _ellipse, _tube, _blob))
    slim = rng.uniform(0.4, 1.0)
    for leaf in range(leaves):
        angle = first + 2 * np.pi * leaf / leaves if regular else rng.uniform(0, 2 * np.pi)
        length = radius * rng.uniform(0.35, 0.6)
        reach = length * rng.uniform(0.8, 1.2) + radius * rng.uniform(0, 0.2)
        place = (center[0] + reach * np.cos(angle), center[1] + reach * np.sin(angle))
        stem = np.array([center, place], np.float32)
        canvas.paint(rng, _thick_line(stem, max(0.8, 0.04 * radius)), style, index)
        owner = canvas.add("leaf", index) if has_parts else index
        canvas.paint(rng, shape(rng).placed(place, length, angle, slim), _varied(rng, style), owner)


def _framed(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """A frame around an opening that shows what is behind, tinted: windows, glasses, rings. Sometimes a pair."""
    opening = _pick(rng, _CONVEX)(rng)
    angle, aspect = _turn(rng, flat=0.45)
    width = rng.uniform(0.04, 0.35)
    ring = Outline(opening.fills, tuple(fill * (1 - width) for fill in opening.fills))
    glass = _random_style(rng, canvas, shadow=False, opacity=rng.uniform(0.0, 0.5))
    step = 2.15 * radius * np.array([np.cos(angle), np.sin(angle)])
    frame = canvas.add("frame")
    for side in range(rng.integers(1, 3)):
        place = (center[0] + side * float(step[0]), center[1] + side * float(step[1]))
        inner = Outline(ring.holes).placed(place, radius, angle, aspect)
        canvas.paint(rng, inner, glass, canvas.add("opening"))
        canvas.paint(rng, ring.placed(place, radius, angle, aspect), style, frame)


def _potted(rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style) -> None:
    """A branched object on a compact one, as a plant on its pot: two objects, neither a part of the other."""
    pot = _pick(rng, _CONVEX)(rng).placed(center, radius * rng.uniform(0.5, 1.0), *_turn(rng, flat=0.6))
    canvas.paint(rng, pot, style, canvas.add("pot"))
    _plant(rng, canvas, center, radius * rng.uniform(0.6, 1.3), _random_style(rng, canvas))


_MAKERS: tuple[Maker, ...] = (_plain, _with_parts, _plant, _framed, _potted)
_MAKER_WEIGHTS = (0.5, 0.16, 0.14, 0.14, 0.06)


def _pick_maker(rng: np.random.Generator) -> Maker:
    return _MAKERS[rng.choice(len(_MAKERS), p=_MAKER_WEIGHTS)]


def _any_object(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, style: Style
) -> None:
    _pick_maker(rng)(rng, canvas, center, radius, style)


def _paint_part(
    rng: np.random.Generator, canvas: Canvas, outline: Outline, style: Style, whole: int, category: str
) -> None:
    """Paint a part, then give back the pixels that lie outside of the whole."""
    drawn = _rasterise(outline, canvas.size)
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


# Shapes in the unit frame.

Shape = Callable[[np.random.Generator], Outline]


def _angles(count: int = 64) -> FloatArray:
    return np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float32)


def _polar(angles: FloatArray, radius: FloatArray | float) -> Ring:
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1).astype(np.float32)


def _ellipse(rng: np.random.Generator) -> Outline:
    return Outline((_polar(_angles(48), 1.0) * np.array([1, rng.uniform(0.35, 1)], np.float32),))


def _superellipse(rng: np.random.Generator) -> Outline:
    """Between a diamond and a rectangle with round corners."""
    angles, power = _angles(), 2 / _log_uniform(rng, 1.2, 10)
    c, s = np.cos(angles), np.sin(angles)
    ring = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=1)
    return Outline(((ring * np.array([1, rng.uniform(0.3, 1)])).astype(np.float32),))


def _polygon(rng: np.random.Generator) -> Outline:
    """Triangle to octagon, regular or not, sharp or with round corners."""
    corners = int(rng.integers(3, 9))
    angles = _angles(corners) + rng.uniform(0, 0.6) * rng.uniform(-0.5, 0.5, corners).astype(np.float32)
    ring = _polar(
        np.sort(angles).astype(np.float32), (1 - rng.uniform(0, 0.4) * rng.random(corners)).astype(np.float32)
    )
    for _ in range(rng.integers(0, 4)):
        ring = _cut_corners(ring)
    return Outline((ring,))


def _blob(rng: np.random.Generator) -> Outline:
    """A star-shaped outline from a few random waves."""
    angles = _angles()
    waves = np.arange(1, rng.integers(3, 9))
    size = rng.uniform(0.1, 0.45) * rng.normal(size=len(waves)) / waves ** rng.uniform(0.5, 1.5)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    radius = 1 + (size[:, None] * np.cos(waves[:, None] * angles + phase[:, None])).sum(0)
    radius = np.maximum(radius, 0.15)
    return Outline((_polar(angles, (radius / radius.max()).astype(np.float32)),))


def _star(rng: np.random.Generator) -> Outline:
    tips = int(rng.integers(3, 10))
    radius = np.where(np.arange(2 * tips) % 2, rng.uniform(0.3, 0.7), 1.0).astype(np.float32)
    ring = _polar(_angles(2 * tips), radius)
    for _ in range(rng.integers(0, 3)):
        ring = _cut_corners(ring)
    return Outline((ring,))


def _leaf(rng: np.random.Generator) -> Outline:
    """Pointed at one or both ends, bent, sometimes with a toothed edge."""
    t = np.linspace(0, 1, 28, dtype=np.float32)
    swell = np.maximum(np.sin(np.pi * t ** rng.uniform(0.5, 1.6)), 0)
    half = rng.uniform(0.12, 0.45) * swell ** rng.uniform(0.6, 1.2)
    half = half + rng.uniform(0, 0.05) * (np.arange(28) % 2) * (rng.random() < 0.3)
    middle = rng.uniform(-0.4, 0.4) * np.sin(np.pi * t)
    upper = np.stack([2 * t - 1, middle + half], axis=1)
    lower = np.stack([2 * t - 1, middle - half], axis=1)[::-1]
    return Outline((np.concatenate([upper, lower]).astype(np.float32),))


def _tube(rng: np.random.Generator) -> Outline:
    """A bent line with some thickness: wires, worms, roots, cracks, handles."""
    knots = int(rng.integers(2, 6))
    along = np.linspace(-1, 1, knots)
    spine = np.stack([along, rng.uniform(0, 0.6) * rng.normal(size=knots)], axis=1).astype(np.float32)
    for _ in range(3):
        spine = _cut_corners(spine, closed=False)
    spine = np.clip(spine, -1, 1)
    return _thick_line(spine, _log_uniform(rng, 0.03, 0.2))


def _crescent(rng: np.random.Generator) -> Outline:
    shift = rng.uniform(0.2, 0.7)
    bite = _polar(_angles(48), rng.uniform(0.7, 1.0)) + np.array([shift, rng.uniform(-0.3, 0.3)], np.float32)
    return Outline((_polar(_angles(48), 1.0),), (bite.astype(np.float32),))


def _cluster(rng: np.random.Generator) -> Outline:
    """Several overlapping compact shapes that are one object."""
    rings: list[Ring] = []
    place = np.zeros(2)
    for _ in range(rng.integers(2, 6)):
        shape = _pick(rng, _CONVEX)(rng)
        rings.extend(shape.placed((place[0], place[1]), rng.uniform(0.25, 0.6), *_turn(rng)).fills)
        place = np.clip(place + rng.uniform(-0.5, 0.5, 2), -0.6, 0.6)
    return Outline(tuple(rings))


def _hollow(rng: np.random.Generator) -> Outline:
    """A compact shape with a hole through which the background shows."""
    outer = _pick(rng, _CONVEX)(rng)
    scale = rng.uniform(0.3, 0.85)
    return Outline(outer.fills, tuple(fill * np.float32(scale) for fill in outer.fills))


_CONVEX: tuple[Shape, ...] = (_ellipse, _superellipse, _polygon, _blob)
_SHAPES: tuple[Shape, ...] = (
    *((_ellipse, _superellipse, _polygon, _blob) * 4),
    *(_star, _leaf, _leaf, _tube, _crescent, _cluster, _hollow),
)
"""What people annotate is compact more often than not; a model that has seen it otherwise leaves too much of a box."""


def _pick(rng: np.random.Generator, shapes: Sequence[Shape]) -> Shape:
    return shapes[int(rng.integers(len(shapes)))]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Every octave between `low` and `high` is equally likely."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _turn(rng: np.random.Generator, flat: float = 0.35) -> tuple[float, float]:
    """A random angle, and an aspect from `flat` to 1."""
    return rng.uniform(0, 2 * np.pi), rng.uniform(flat, 1)


def _somewhere(rng: np.random.Generator, canvas: Canvas) -> tuple[float, float]:
    x, y = canvas.size * rng.uniform(-0.02, 1.02, 2)
    return float(x), float(y)


def _cut_corners(ring: Ring, closed: bool = True) -> Ring:
    """One round of Chaikin's corner cutting; an open line keeps its ends."""
    following = np.roll(ring, -1, axis=0) if closed else ring[1:]
    start = ring if closed else ring[:-1]
    cut = np.stack([0.75 * start + 0.25 * following, 0.25 * start + 0.75 * following], axis=1).reshape(-1, 2)
    return (cut if closed else np.concatenate([ring[:1], cut, ring[-1:]])).astype(np.float32)


def _thick_line(spine: Ring, half_width: float) -> Outline:
    """A line as quadrilaterals and round joints, which together have no gaps."""
    step = np.diff(spine, axis=0)
    length = np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-6)
    across = half_width * np.stack([-step[:, 1], step[:, 0]], axis=1) / length
    quads = [np.stack([a + n, b + n, b - n, a - n]) for a, b, n in zip(spine[:-1], spine[1:], across, strict=True)]
    joints = [_polar(_angles(10), half_width) + knot for knot in spine]
    return Outline(tuple(ring.astype(np.float32) for ring in quads + joints))


def _rasterise(outline: Outline, size: int) -> tuple[ByteArray, int, int] | None:
    """Coverage 0 to 255 of the window around the shape, and the window's left and top; None outside the picture.

    OpenCV paints the outline too: a shape comes out half a pixel larger all around, in picture and mask alike.
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


# Surfaces, backgrounds and the camera.


def _new_canvas(rng: np.random.Generator, size: int) -> Canvas:
    textures = [_texture(rng, size) for _ in range(_TEXTURES)]
    canvas = Canvas(_background(rng, size, textures), textures)
    if rng.random() < 0.25:
        _clutter(rng, canvas)
    return canvas


def _clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    """A background full of things out of focus, which nobody annotates."""
    largest = canvas.size * rng.uniform(0.06, 0.4)
    for _ in range(rng.integers(5, 60)):
        shape = _pick(rng, _SHAPES)(rng).placed(_somewhere(rng, canvas), largest * rng.uniform(0.2, 1), *_turn(rng))
        canvas.paint(rng, shape, _random_style(rng, canvas), None)
    sigma = canvas.size * _log_uniform(rng, 0.006, 0.04)
    canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), sigma).astype(np.float32)


def _random_style(
    rng: np.random.Generator, canvas: Canvas, *, shadow: bool = True, opacity: float | None = None
) -> Style:
    """A style of its own; one in four borrows its colour from the picture, so that contrast can be low."""
    low = _color(rng)
    if rng.random() < 0.25:
        y, x = rng.integers(canvas.size, size=2)
        low = np.clip(canvas.image[y, x] + rng.normal(0, 30, 3), 0, 255).astype(np.float32)
    high = np.clip(low + rng.uniform(10, 90) * rng.normal(size=3), 0, 255) if rng.random() < 0.7 else _color(rng)
    if opacity is None:
        opacity = 1.0 if rng.random() < 0.88 else rng.uniform(0.45, 1)
    return Style(
        low=low,
        high=high.astype(np.float32),
        texture=int(rng.integers(_TEXTURES)),
        contrast=0.0 if rng.random() < 0.2 else rng.uniform(0.1, 1),
        roundness=rng.uniform(-0.3, 0.8) if rng.random() < 0.5 else 0.0,
        rim=rng.uniform(-0.8, 0.6) if rng.random() < 0.25 else 0.0,
        light=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)) if rng.random() < 0.6 else (0.0, 0.0),
        opacity=opacity,
        shadow=rng.uniform(0.15, 0.7) if shadow and rng.random() < 0.35 else 0.0,
    )


def _varied(rng: np.random.Generator, style: Style) -> Style:
    """The same style on another individual."""
    change = rng.normal(0, 12, 3) + rng.normal(0, 14)
    return Style(
        low=np.clip(style.low + change, 0, 255).astype(np.float32),
        high=np.clip(style.high + change, 0, 255).astype(np.float32),
        texture=style.texture,
        contrast=style.contrast,
        roundness=style.roundness,
        rim=style.rim,
        light=style.light,
        opacity=style.opacity,
        shadow=style.shadow,
    )


def _color(rng: np.random.Generator) -> FloatArray:
    """RGB with more muted colours than a uniform draw would give."""
    gray = rng.uniform(10, 245)
    tint = rng.normal(size=3) * rng.choice([4.0, 30.0, 80.0])
    return np.clip(gray + tint, 0, 255).astype(np.float32)


def _surface(rng: np.random.Generator, alpha: ByteArray, style: Style, texture: FloatArray) -> FloatArray:
    """Colours `[h, w, 3]` of the window `alpha` `[h, w]` covers."""
    height, width = alpha.shape
    below: int = texture.shape[0] - height
    beside: int = texture.shape[1] - width
    top, left = int(rng.integers(below + 1)), int(rng.integers(beside + 1))
    blend = texture[top : top + height, left : left + width, None] * np.float32(style.contrast)
    colors = style.low + blend * (style.high - style.low)
    shade = np.ones((height, width), np.float32)
    if style.roundness or style.rim:
        depth = cv2.distanceTransform((alpha > 127).view(np.uint8), cv2.DIST_L2, 3)
        deepest = max(float(depth.max()), 1.0)
        shade -= np.float32(style.roundness) * (1 - np.sqrt(np.minimum(depth / deepest, 1)))
        if style.rim:
            shade += np.float32(style.rim) * (depth <= max(1.0, 0.12 * deepest))
    if style.light != (0.0, 0.0):
        shade += np.linspace(-style.light[0], style.light[0], width, dtype=np.float32)
        shade += np.linspace(-style.light[1], style.light[1], height, dtype=np.float32)[:, None]
    return (colors * np.maximum(shade, 0)[..., None]).astype(np.float32)


def _noise(rng: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Smooth noise in 0 to 1 with about `cells` bumps per side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    interpolation = cv2.INTER_LINEAR if cells > size // 3 else cv2.INTER_CUBIC
    return cv2.resize(grid, (size, size), interpolation=interpolation).astype(np.float32)


def _octaves(rng: np.random.Generator, size: int, coarsest: int, roughness: float) -> FloatArray:
    """Noise of several scales, 0 to 1; `roughness` is the weight of each finer scale relative to the one before."""
    total, weight, weights, cells = np.zeros((size, size), np.float32), 1.0, 0.0, coarsest
    while cells < size and weight > 0.05:
        total += np.float32(weight) * _noise(rng, size, cells)
        weights += weight
        weight *= roughness
        cells *= 2
    return np.clip((total / np.float32(max(weights, 1e-6)) - 0.5) * 1.8 + 0.5, 0, 1)


def _texture(rng: np.random.Generator, size: int) -> FloatArray:
    """A texture `[S, S]`, 0 to 1: clouds, grain, stripes, checks or spots, of some scale, often warped."""
    kind = rng.choice(5, p=(0.4, 0.15, 0.2, 0.1, 0.15))
    if kind == 0:
        return _octaves(rng, size, int(rng.integers(2, 12)), rng.uniform(0.3, 0.95))
    if kind == 1:
        return _noise(rng, size, max(2, int(size / rng.uniform(1, 5))))
    period = size * _log_uniform(rng, 0.015, 0.15)
    warp = rng.uniform(0, 1.2) * (_octaves(rng, size, 4, 0.5) - 0.5) * 2 * np.pi
    angle = rng.uniform(0, np.pi)
    frequency = 2 * np.pi / period
    axis = np.arange(size, dtype=np.float32)
    u = frequency * (np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]) + warp
    wave = np.sin(u)
    if kind >= 3:
        v = frequency * (-np.sin(angle) * axis[None] + np.cos(angle) * axis[:, None]) + warp
        wave = wave * np.sin(v)
    if kind == 4:
        wave = np.where(wave > rng.uniform(0.2, 0.6), 1.0, -1.0)
    sharpness = rng.uniform(1, 6)
    return np.clip(0.5 + 0.5 * sharpness * wave, 0, 1).astype(np.float32)


def _background(rng: np.random.Generator, size: int, textures: Sequence[FloatArray]) -> FloatArray:
    """A plain, graded, cloudy or textured ground, sometimes with an edge across it, sometimes littered."""
    low, high = _color(rng), _color(rng)
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
        image = low + _octaves(rng, size, int(rng.integers(1, 8)), rng.uniform(0.3, 0.9))[..., None] * (high - low)
    else:
        image = low + textures[0][..., None] * np.float32(rng.uniform(0.2, 1)) * (high - low)
    if rng.random() < 0.3:
        image = image + _octaves(rng, size, int(rng.integers(2, 20)), 0.8)[..., None] * rng.normal(0, 30, 3)
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
    image += cover * (_color(rng) - image)


def _litter(rng: np.random.Generator, image: FloatArray) -> None:
    """Thin lines, specks and a scale bar that nobody annotates."""
    size = image.shape[0]
    for _ in range(rng.integers(1, 25)):
        start = rng.uniform(0, size, 2)
        end = start + rng.normal(0, 0.25 * size * rng.random(), 2)
        color = tuple(float(v) for v in _color(rng))
        a, b = (tuple(int(v) for v in point) for point in (start, end))
        cv2.line(image, a, b, color, 1, cv2.LINE_AA)
    for _ in range(rng.integers(0, 30)):
        place = rng.integers(0, size, 2)
        color = tuple(float(v) for v in _color(rng))
        cv2.circle(image, (int(place[0]), int(place[1])), int(rng.integers(1, max(2, size // 120) + 1)), color, -1)


def _photograph(rng: np.random.Generator, image: FloatArray) -> ByteArray:
    """What a camera makes of it: blur, colour cast, exposure, vignette, gray, grain, JPEG artefacts, each at times."""
    size = image.shape[0]
    if rng.random() < 0.6:
        sigma = size / 256 * rng.uniform(0.2, 1.2)
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    if rng.random() < 0.5:
        image = image * rng.uniform(0.75, 1.25, 3).astype(np.float32) + np.float32(rng.uniform(-25, 25))
    if rng.random() < 0.25:
        vignette = 0.6 + 0.6 * _noise(rng, size, int(rng.integers(1, 4)))
        image = image * vignette[..., None].astype(np.float32)
    if rng.random() < 0.2:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    image = np.clip(image, 0, 255)
    if rng.random() < 0.5:
        image = (255 * (image / 255) ** math.exp(rng.uniform(-0.5, 0.5))).astype(np.float32)
    if rng.random() < 0.6:
        channels = 1 if rng.random() < 0.5 else 3
        grain = rng.standard_normal((size, size, channels), dtype=np.float32)
        if rng.random() < 0.3:
            grain = cv2.blur(grain, (3, 3)).reshape(size, size, channels) * 2.0
        image += grain * np.float32(_log_uniform(rng, 1.5, 22))
    result = np.clip(image, 0, 255).astype(np.uint8)
    return _jpeg(rng, result, 25) if rng.random() < 0.5 else result


def _jpeg(rng: np.random.Generator, image: ByteArray, lowest: int) -> ByteArray:
    """The picture after JPEG compression with a quality from `lowest` to 95."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(lowest, 96))])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV reads what it wrote"
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


# The demo's kind of scene.


def microscope_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw cells as a phase contrast microscope shows them: halos, granular insides, debris that is no cell.

    Two categories: "round" (dividing or dead: small, bright, with a strong halo) and "spread" (large, flat, with a
    nucleus). The mask ends at the membrane, inside the halo.

    Args:
        rng: the only source of randomness.
        size: side of the square picture in pixels, 32 or more.

    Returns:
        A scene with at least one cell; cells overlap little and have no parts.
    """
    granules = [np.clip(0.5 + 1.6 * (_octaves(rng, size, size // 6, 0.8) - 0.5), 0, 1) for _ in range(_TEXTURES)]
    ground = np.float32(rng.uniform(110, 160)) + 30 * (_octaves(rng, size, 2, 0.4) - 0.5)
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
    picture = np.clip(image, 0, 255).astype(np.uint8)
    return Scene(picture, canvas.labels, tuple(canvas.categories), tuple(canvas.parents))


def _draw_cell(
    rng: np.random.Generator, canvas: Canvas, center: tuple[float, float], radius: float, *, is_round: bool
) -> None:
    """Halo, membrane, granules and, in spread cells, a nucleus."""
    outline = _cell_outline(rng, 0.05 if is_round else 0.22)
    angle, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1) if is_round else rng.uniform(0.5, 0.95)
    glow = rng.uniform(25, 45) if is_round else rng.uniform(12, 28)
    halo = _rasterise(outline.placed(center, radius * 1.18, angle, aspect), canvas.size)
    if halo is not None:
        alpha, x0, y0 = halo
        window = np.s_[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
        soft = cv2.GaussianBlur(alpha, (0, 0), max(0.8, 0.06 * radius)).astype(np.float32) / 255
        canvas.image[window] += (soft * np.float32(glow))[..., None]
    here = canvas.image[tuple(np.clip([int(center[1]), int(center[0])], 0, canvas.size - 1))].mean() - glow
    base = here + (rng.uniform(20, 50) if is_round else rng.uniform(-22, 4))
    low, high = (np.full(3, base + change, np.float32) for change in (-28.0, 28.0))
    body = Style(low, high, int(rng.integers(_TEXTURES)), contrast=rng.uniform(0.6, 1), rim=-0.28)
    canvas.paint(
        rng, outline.placed(center, radius, angle, aspect), body, canvas.add("round" if is_round else "spread")
    )
    if not is_round:
        reach = 0.25 * radius * aspect * rng.uniform(-1, 1, 2)
        place = (center[0] + float(reach[0]), center[1] + float(reach[1]))
        nucleus = Style(low - 22, high - 30, int(rng.integers(_TEXTURES)), contrast=0.5, rim=0.15, opacity=0.7)
        canvas.paint(rng, _ellipse(rng).placed(place, radius * rng.uniform(0.22, 0.34), angle, 0.9), nucleus, None)


def _cell_outline(rng: np.random.Generator, unrest: float) -> Outline:
    """A closed membrane; `unrest` is the size of its waves."""
    angles, waves = _angles(), np.arange(2, 7)
    size = unrest * rng.normal(size=len(waves)) / np.sqrt(waves)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    radius = 1 + (size[:, None] * np.cos(waves[:, None] * angles + phase[:, None])).sum(0)
    return Outline((_polar(angles, np.clip(radius, 0.4, 1.6).astype(np.float32)),))


def _scatter_debris(rng: np.random.Generator, canvas: Canvas, count: int) -> None:
    """Specks and fibres, bright or dark, that belong to no object."""
    for _ in range(count):
        value = np.full(3, rng.choice([60.0, 90.0, 190.0, 220.0]), np.float32)
        style = Style(value, value, 0, contrast=0.0, opacity=rng.uniform(0.4, 0.9))
        radius = canvas.size * _log_uniform(rng, 0.003, 0.015)
        shape = _tube(rng) if rng.random() < 0.2 else _blob(rng)
        stretch = 4.0 if len(shape.fills) > 1 else 1.0
        canvas.paint(rng, shape.placed(_somewhere(rng, canvas), radius * stretch, *_turn(rng)), style, None)
