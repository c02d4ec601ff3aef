"""Label images with too many pixels to be held: kept as runs of equal values, which grow with outlines, not with area.

A TIFF file is read some rows at a time. A PNG file is decoded whole by Pillow, one value a pixel, up to the bytes that
the largest photograph takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

from samtune.data.masks.regions import Region
from samtune.data.opening import (
    MAX_PIXELS,
    MAX_PIXELS_IN_TILES,
    PNG_MARK,
    ImageError,
    damaged_image,
    refuse_image,
)
from samtune.data.tiff import TiffError, is_tiff, open_tiff

_MOST_BYTES = 3 * MAX_PIXELS
_PORTION = 1 << 23
"""Pixels that are looked at together."""
_MOST_RUNS = 50_000_000
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I": 4}
"""Bytes that a pixel takes in Pillow's memory, by mode."""


@dataclass(frozen=True)
class LabelRuns:
    """A label image as the runs of its rows, in scan order; what is 0 has none.

    Attributes:
        height, width: of the image, in pixels.
        palette: colours by index, RGB, where the values are numbers of colours.
        values, rows, starts, stops: by run, `[N]`; `stops` are exclusive.
    """

    height: int
    width: int
    palette: tuple[tuple[int, int, int], ...] | None
    values: NDArray[np.int64]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @property
    def is_around(self) -> bool:
        """Whether the whole border has values, but not all of the image."""
        lengths = self.stops - self.starts
        across = [int(lengths[self.rows == row].sum()) == self.width for row in (0, self.height - 1)]
        down = [int(np.count_nonzero(ends)) == self.height for ends in (self.starts == 0, self.stops == self.width)]
        return all(across) and all(down) and self.present[0] == 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, as of an array."""
        return self.height, self.width

    @cached_property
    def present(self) -> list[int]:
        """The values that pixels have, sorted."""
        covered = int((self.stops - self.starts).sum())
        return [0] * (covered < self.height * self.width) + [int(value) for value in np.unique(self.values)]

    def component_count(self, value: int | None) -> int:
        """How many 8-connected components the pixels of a value form, or those of any value but 0."""
        return int(self._components(value).max(initial=-1)) + 1

    def region(self, value: int | None, component: int | None = None) -> Region | None:
        """The pixels of a value, or of any but 0, or one of their components, counted from 1 in scan order."""
        chosen = self._chosen(value)
        if component is not None:
            chosen = chosen[self._components(value) == component - 1]
        if not chosen.size:
            return None
        rows, starts, stops = self.rows[chosen], self.starts[chosen], self.stops[chosen]
        x0, y0, x1, y1 = int(starts.min()), int(rows[0]), int(stops.max()), int(rows[-1]) + 1
        mask = np.zeros((y1 - y0, x1 - x0), bool)
        for row, start, stop in zip((rows - y0).tolist(), (starts - x0).tolist(), (stops - x0).tolist(), strict=True):
            mask[row, start:stop] = True
        return Region(mask, x0, y0)

    @cached_property
    def _by_value(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.values, kind="stable")
        return order, self.values[order]

    def _chosen(self, value: int | None) -> NDArray[np.int64]:
        """Positions of a value's runs, in scan order."""
        if value is None:
            return np.arange(len(self.values))
        order, ordered = self._by_value
        return order[np.searchsorted(ordered, value, "left") : np.searchsorted(ordered, value, "right")]

    @cached_property
    def _numbered(self) -> dict[int | None, NDArray[np.int64]]:
        return {}

    def _components(self, value: int | None) -> NDArray[np.int64]:
        """By run of a value, the number of its component, counted from 0 in scan order."""
        if value not in self._numbered:
            self._numbered[value] = self._number(self._chosen(value))
        return self._numbered[value]

    def _number(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        rows, line = self.rows[chosen], self.width + 2
        starts, stops = rows * line + self.starts[chosen], rows * line + self.stops[chosen]
        # Runs of the row above whose pixels touch, corners counted; in the same row those of two values may.
        first = np.searchsorted(stops, starts - line, "left")
        last = np.searchsorted(starts, stops - line, "right")
        counts = np.maximum(last - first, 0)
        below = np.repeat(np.arange(len(chosen)), counts)
        above = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        beside = np.flatnonzero(starts[1:] == stops[:-1])
        return _joined(len(chosen), np.append(above, beside), np.append(below, beside + 1))


def _joined(count: int, ones: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the groups that links make of `count` things, counted in the order of each group's first."""
    group = np.arange(count)
    while True:
        low = np.minimum(group[ones], group[others])
        before = group.copy()
        for ends in (ones, others):
            np.minimum.at(group, before[ends], low)
        while not np.array_equal(group, following := group[group]):
            group = following
        if np.array_equal(group, before):
            return np.unique(group, return_inverse=True)[1]


def read_label_runs(path: Path) -> LabelRuns:
    """Read a large label image.

    Raises:
        DataError: colours, several pages, an image stored so that it must be decoded whole and is too large for that,
            so many runs that it is a photograph.
    """
    if is_tiff(path):
        try:
            tiff = open_tiff(path)
            if tiff.bands == 1 and tiff.dtype.kind in "ui" and tiff.width * tiff.height <= MAX_PIXELS_IN_TILES:
                if tiff.pages != 1:
                    raise _refused(path, f"{tiff.pages} pages")
                step = max(1, _PORTION // tiff.width)
                portions = (
                    tiff.read(0, (0,), (0, top, tiff.width, min(top + step, tiff.height)))[:, :, 0]
                    for top in range(0, tiff.height, step)
                )
                return _runs(path, portions, tiff.height, tiff.width, None)
        except TiffError as error:
            if "palette" not in str(error):
                raise damaged_image(path, str(error)) from error
    return _read_whole(path)


def _read_whole(path: Path) -> LabelRuns:
    with path.open("rb") as file:
        is_png = file.read(8) == PNG_MARK
    if not (is_png or is_tiff(path)):
        raise _refused(path, "a file of another kind")
    kind = PngImagePlugin.PngImageFile if is_png else TiffImagePlugin.TiffImageFile
    try:
        # Not by `Image.open`, which refuses a quarter of what is allowed here.
        with closing(kind(path)) as image:
            bytes_each = _BYTES.get(image.mode)
            if bytes_each is None or getattr(image, "n_frames", 1) != 1:
                raise _refused(path, "colours" if bytes_each is None else "several pages")
            if image.width * image.height * bytes_each > _MOST_BYTES:
                raise _refused(path, f"{image.width} x {image.height} pixels in a file that is decoded whole")
            image.load()
            step = max(1, _PORTION // image.width)
            portions = (
                np.asarray(image.crop((0, top, image.width, min(top + step, image.height))))
                for top in range(0, image.height, step)
            )
            return _runs(path, portions, image.height, image.width, _palette(image))
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, IndexError, MemoryError) as error:
        raise damaged_image(path, str(error) or type(error).__name__) from error


def _palette(image: Image.Image) -> tuple[tuple[int, int, int], ...] | None:
    if image.mode != "P":
        return None
    flat = image.getpalette("RGB") or []
    return tuple((flat[place], flat[place + 1], flat[place + 2]) for place in range(0, len(flat) - 2, 3))


def _runs(
    path: Path,
    portions: Iterator[NDArray[Any]],
    height: int,
    width: int,
    palette: tuple[tuple[int, int, int], ...] | None,
) -> LabelRuns:
    """The runs of an image that comes some rows at a time."""
    found: list[tuple[NDArray[np.int64], ...]] = []
    top = count = 0
    for part in portions:
        # A run ends where the next pixel differs, and with its row.
        changes = np.ones(part.shape, bool)
        np.not_equal(part[:, 1:], part[:, :-1], out=changes[:, 1:])
        starts = np.flatnonzero(changes)
        stops = np.append(starts[1:], part.size)
        values = part.reshape(-1)[starts]
        filled = values != 0
        starts, stops, values = starts[filled], stops[filled], values[filled]
        rows = starts // width
        found.append((values.astype(np.int64), rows + top, starts - rows * width, stops - rows * width))
        top += len(part)
        count += len(values)
        if count > _MOST_RUNS:
            raise _refused(path, "so many changes of value that it is no label image")
    values, rows, starts, stops = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return LabelRuns(height, width, palette, values, rows, starts, stops)


def _refused(path: Path, found: str) -> ImageError:
    return refuse_image(
        "label-image-too-large",
        expected=f"of more than {MAX_PIXELS:,} pixels, a gray TIFF of one page (in tiles or short strips), or a gray "
        f"or palette PNG of at most {_MOST_BYTES:,} bytes of pixels",
        found=found,
        where=str(path),
        do="store object numbers as a gray TIFF in tiles",
    )
