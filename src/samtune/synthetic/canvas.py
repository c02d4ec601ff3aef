"""A scene, and the canvas it is drawn on: the image and which object every pixel shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.synthetic.outlines import ByteArray, FloatArray, Outline, rasterise
from samtune.synthetic.photograph import photograph
from samtune.synthetic.surfaces import Style, paint_surface


@dataclass(frozen=True, slots=True)
class Scene:
    """A image and the objects in it.

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
        drawn = rasterise(outline, self.size)
        if drawn is None:
            return
        alpha, x0, y0 = drawn
        if style.shadow:
            self._cast_shadow(rng, alpha, x0, y0, style.shadow)
        window = np.s_[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
        cover = (alpha.astype(np.float32) * np.float32(style.opacity / 255))[..., None]
        self.image[window] += cover * (
            paint_surface(rng, alpha, style, self.textures[style.texture]) - self.image[window]
        )
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
        image = photograph(rng, self.image)
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


def random_place(rng: np.random.Generator, canvas: Canvas) -> tuple[float, float]:
    """A point (xy, pixels) on the canvas or just beside it."""
    x, y = canvas.size * rng.uniform(-0.02, 1.02, 2)
    return float(x), float(y)
