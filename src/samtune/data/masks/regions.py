"""A mask kept as the part that holds the object, and the error about shapes that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samtune.data.opening import MAX_PIXELS, MAX_PIXELS_IN_TILES, MAX_SIDE, MAX_SIDE_IN_TILES
from samtune.errors import DataError


class SegmentationError(DataError):
    """One object's shape cannot be used. `code` is the kebab-case name of the finding it becomes."""

    code: str = "segmentation-invalid"


def refuse(code: str, *, expected: str, found: str, where: str | None = None) -> SegmentationError:
    """The error about a shape that cannot be used."""
    error = SegmentationError.of(expected=expected, found=found, where=where)
    error.code = code
    return error


@dataclass(frozen=True, slots=True)
class Region:
    """A mask kept as the part that holds the object.

    Attributes:
        mask: bool `[h, w]`, the pixels within the object's box.
        x0, y0: where the part lies in the image.
    """

    mask: NDArray[np.bool_]
    x0: int
    y0: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Xyxy in pixels, right and lower exclusive."""
        height, width = self.mask.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def area(self) -> int:
        """Mask pixels."""
        return int(np.count_nonzero(self.mask))

    def moved(self, x: int, y: int) -> Region:
        """The same pixels so many columns and rows further on."""
        return Region(self.mask, self.x0 + x, self.y0 + y)

    def paste(self, height: int, width: int) -> NDArray[np.bool_]:
        """The whole mask, bool `[H, W]`."""
        whole = np.zeros((height, width), bool)
        x0, y0, x1, y1 = self.box
        whole[y0:y1, x0:x1] = self.mask
        return whole


def region_of(mask: NDArray[np.bool_]) -> Region | None:
    """The part of a mask bool `[H, W]` that holds the object; None for an empty mask.

    The part is a copy where it is not all of the mask: a view would keep the whole mask in memory.
    """
    box = mask_box(mask)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    part = mask[y0:y1, x0:x1]
    return Region(part if part.size == mask.size else part.copy(), x0, y0)


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Tight box of a mask bool `[H, W]`: xyxy in pixels, right and lower exclusive; None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def check_size(height: int, width: int, *, in_tiles: bool = False) -> None:
    """Refuse sizes of images that are never read, whole or in tiles, before memory is reserved for them.

    Raises:
        SegmentationError: no pixels, or too many.
    """
    side, pixels = (MAX_SIDE_IN_TILES, MAX_PIXELS_IN_TILES) if in_tiles else (MAX_SIDE, MAX_PIXELS)
    if not (1 <= height <= side and 1 <= width <= side and height * width <= pixels):
        raise refuse(
            "image-size",
            expected=f"an image of 1 to {pixels:,} pixels and at most {side:,} a side",
            found=f"{width} x {height}",
        )


def expand_runs(counts: NDArray[np.int64], height: int) -> Region | None:
    """Run lengths of an image of `height` rows, expanded within the box of what they cover."""
    ends = np.cumsum(counts)
    starts, stops = ends[:-1:2], ends[1::2]
    full = stops > starts
    if not full.all():
        starts, stops = starts[full], stops[full]
    if not starts.size:
        return None
    columns = starts // height
    x0, x1 = int(columns[0]), int(stops[-1] - 1) // height + 1
    rows = starts - columns * height
    y0, y1 = int(rows.min()), int((rows + stops - starts).max())
    if y1 > height:  # a run that goes on into the next column touches the last row and the first
        y0, y1 = 0, height
    part = y1 - y0
    first = (columns - x0) * part + rows - y0
    edges = np.zeros(2 * len(first) + 2, np.int64)  # where the part's pixels, column by column, change
    edges[1:-1:2], edges[2:-1:2], edges[-1] = first, first + stops - starts, part * (x1 - x0)
    values = np.zeros(len(edges) - 1, np.bool_)
    values[1::2] = True
    inside = np.repeat(values, edges[1:] - edges[:-1])
    return Region(np.ascontiguousarray(inside.reshape(x1 - x0, part).T), x0, y0)
