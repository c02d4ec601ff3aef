"""Ways to see an image: a part of it, recoloured, turned by quarters, mirrored. Masks and boxes follow exactly.

An image has view 0, as it is, and as many others as a run asks for. Which they are depends on the image alone, so that
the embeddings of a view are kept and found again by every run.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samtune.data.table import ImageEntry
from samtune.types import Window

Scalar = TypeVar("Scalar", bound=np.generic)
_CROP = (0.5, 0.85)
"""Sides of a cropped view, as shares of the image's."""
_SHOWN = 0.5
"""Share of an object's box that a view must show, or the object is not asked for."""
_GAIN, _GAMMA = (0.8, 1.25), (0.7, 1.4)
"""Of recoloured views: factors of each channel, and the exponent of all."""


@dataclass(frozen=True, slots=True)
class Change:
    """How an image is seen. What is to be done is done in the order of the fields.

    Attributes:
        crop: the part that is seen, in pixels of the image; None for all of it.
        colour: which recolouring, a seed; 0 for none.
        quarters: quarter turns, counter-clockwise, 0 to 3.
        mirrored: left to right.
    """

    crop: Window | None = None
    colour: int = 0
    quarters: int = 0
    mirrored: bool = False

    @property
    def key(self) -> str:
        """The change as a text; empty where nothing is changed."""
        parts = (
            "flipped" if self.mirrored else "",
            f"turned {self.quarters}" if self.quarters else "",
            f"crop {','.join(map(str, self.crop))}" if self.crop else "",
            f"colour {self.colour}" if self.colour else "",
        )
        return " ".join(filter(None, parts))

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image `[H, W, 3]` so seen."""
        seen = self._cropped(image)
        return self.turned(_recoloured(seen, self.colour) if self.colour else seen)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask `[H, W]` so seen."""
        return self.turned(self._cropped(mask))

    def turned(self, pixels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Pixels `[H, W, ...]` turned and mirrored, nothing cut away."""
        turned = np.rot90(pixels, self.quarters) if self.quarters else pixels
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    def boxes(self, boxes: NDArray[np.float32], side: float) -> NDArray[np.float32]:
        """Boxes `[N, 4]`, xyxy on a square of that side, turned and mirrored with it."""
        for _ in range(self.quarters):
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([y0, side - x1, y1, side - x0], axis=1)
        if self.mirrored:
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([side - x1, y0, side - x0, y1], axis=1)
        return boxes

    def shows(self, box: tuple[int, int, int, int]) -> bool:
        """Whether enough of an object with such a box is seen to ask for it."""
        if self.crop is None:
            return True
        x0, y0, x1, y1 = self.crop
        width, height = min(box[2], x1) - max(box[0], x0), min(box[3], y1) - max(box[1], y0)
        area = (box[2] - box[0]) * (box[3] - box[1])
        return width > 0 and height > 0 and width * height >= _SHOWN * area

    def _cropped(self, pixels: NDArray[Scalar]) -> NDArray[Scalar]:
        if self.crop is None:
            return pixels
        x0, y0, x1, y1 = self.crop
        return pixels[y0:y1, x0:x1]


AS_IS, MIRRORED = Change(), Change(mirrored=True)


def change_of(image: ImageEntry, number: int) -> Change:
    """View `number` of an image: 0 as it is; then mirrored, turned and recoloured, cropped, and mixtures of these.

    A cropped view shows at least one of the image's objects whole, where there are any.
    """
    if number == 0:
        return AS_IS
    rng = np.random.default_rng(zlib.crc32(f"{image.image_path} {image.part} {number}".encode()))
    crop, colour = _crop(image, rng), int(rng.integers(1, 2**31))
    quarters, mirrored, has_colour = int(rng.integers(1, 4)), bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    if number == 1:
        return MIRRORED
    if number == 2:
        return Change(colour=colour, quarters=quarters)
    if number == 3:
        return Change(crop=crop, mirrored=mirrored)
    return Change(crop, colour if has_colour else 0, quarters if number % 2 else 0, mirrored)


def _crop(image: ImageEntry, rng: np.random.Generator) -> Window | None:
    """A part of the image around one of its objects; None where the object takes almost all of it."""
    height, width = (round(side * rng.uniform(*_CROP)) for side in (image.height, image.width))
    objects = image.single_objects
    x0, y0, x1, y1 = objects[rng.integers(len(objects))].box if objects else (0, 0, 1, 1)
    if objects and (x1 - x0 > width or y1 - y0 > height):
        return None
    left = rng.integers(max(0, x1 - width), min(x0, image.width - width) + 1) if objects else 0
    top = rng.integers(max(0, y1 - height), min(y0, image.height - height) + 1) if objects else 0
    return int(left), int(top), int(left) + max(width, 1), int(top) + max(height, 1)


def _recoloured(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Other brightness, contrast and colour cast, through one table for each channel."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0, 1, 256) ** rng.uniform(*_GAMMA)
    tables = (levels[:, None] * rng.uniform(*_GAIN, 3) * 255).round().clip(0, 255).astype(np.uint8)
    return np.stack([tables[image[..., channel], channel] for channel in range(3)], axis=-1)
