"""Cutting large images into overlapping tiles, and which tile an object belongs to.

A tile is a window of the image. Around its core lies a margin, the halo, that its neighbours see too; the cores cover
the image without overlapping, and an object belongs to the tile in whose core its centre lies. An object no wider and
no higher than twice the halo therefore lies whole in its tile. At the image's edges a core reaches to the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from samtune.types import Window


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of an image.

    Attributes:
        row, column: counted from the upper left.
        window: x0, y0, x1, y1 in pixels of the image, right and lower exclusive.
        core: the part of the window whose objects belong to the tile, in pixels of the image.
    """

    row: int
    column: int
    window: Window
    core: Window

    @property
    def name(self) -> str:
        """Name of the tile, unique in its image."""
        return f"x{self.window[0]}-y{self.window[1]}"


@dataclass(frozen=True, slots=True)
class TileGrid:
    """All tiles of an image of `width` x `height` pixels.

    Attributes:
        width, height: the image, in pixels.
        side: a tile's width and height; a smaller image is one tile of its own size.
        halo: margin in pixels on each side; less than half of `side`.
    """

    width: int
    height: int
    side: int
    halo: int

    def __iter__(self) -> Iterator[Tile]:
        """Row by row."""
        for row, (y0, y1, top, bottom) in enumerate(_spans(self.height, self.side, self.halo)):
            for column, (x0, x1, left, right) in enumerate(_spans(self.width, self.side, self.halo)):
                yield Tile(row, column, (x0, y0, x1, y1), (left, top, right, bottom))

    def touching(self, box: tuple[float, float, float, float]) -> Iterator[Tile]:
        """The tiles whose window a box (xyxy) overlaps, row by row."""
        columns = list(_touching(box[0], box[2], _spans(self.width, self.side, self.halo)))
        for row, (y0, y1, top, bottom) in _touching(box[1], box[3], _spans(self.height, self.side, self.halo)):
            for column, (x0, x1, left, right) in columns:
                yield Tile(row, column, (x0, y0, x1, y1), (left, top, right, bottom))

    def owner(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the tile in whose core a point lies, in pixels; points outside belong to the nearest."""
        return (
            _owner(y, _spans(self.height, self.side, self.halo)),
            _owner(x, _spans(self.width, self.side, self.halo)),
        )


@lru_cache(maxsize=16)
def _spans(length: int, side: int, halo: int) -> tuple[tuple[int, int, int, int], ...]:
    """Along one side: first and last pixel (exclusive) of each tile and of its core."""
    side = min(side, length)
    step = max(1, side - 2 * halo)
    starts = [*range(0, length - side, step), length - side]
    edges = [0, *((one + side + other) // 2 for one, other in pairwise(starts)), length]
    return tuple((start, start + side, edges[i], edges[i + 1]) for i, start in enumerate(starts))


def _touching(
    low: float, high: float, spans: tuple[tuple[int, int, int, int], ...]
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    return ((number, span) for number, span in enumerate(spans) if span[0] < high and low < span[1])


def _owner(place: float, spans: tuple[tuple[int, int, int, int], ...]) -> int:
    return next((number for number, span in enumerate(spans) if place < span[3]), len(spans) - 1)
