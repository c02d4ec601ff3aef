"""Prompts about images too large for one look: each is asked in the tile that shows it whole, in bounded memory.

A box is asked at the smallest scale at which a tile's size holds it with a margin: the image's own pixels first, then
half as fine, and so on. Inside the core of a tile it is asked in that tile; one that reaches over the core's border is
asked in a window of its own, in the middle of it, as if it were cut out alone. Everything that a grid of clicks finds
is found tile by tile; what reaches into the margin that tiles share is compared there with what the neighbours found,
and joined with it where both mean the same object.
"""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.config import AutomaticConfig
from samtune.data.images import read_image
from samtune.data.masks import Region, region_of
from samtune.data.reading import Reading
from samtune.data.tiles import Tile, TileGrid
from samtune.inference.automatic import everything
from samtune.inference.predictor import Predictor
from samtune.types import Box, Prompt, Window

OVERVIEW = 2048
"""Longest side of the overview of a large image, in pixels."""
_MARGIN = 0.1
"""Room around a box in its window, as a share of the window's side."""
_SAME_OBJECT = 0.5
"""IoU, in the part of the image that two tiles share, above which their masks are of one object."""


@dataclass(frozen=True, slots=True)
class LargeImage:
    """An image file that is read in windows.

    Attributes:
        path: the file.
        width, height: in pixels.
        reading: which bands and page are read.
        side, halo: of its tiles, in pixels.
    """

    path: Path
    width: int
    height: int
    reading: Reading
    side: int
    halo: int

    def grid(self, scale: int = 1) -> TileGrid:
        """The tiles at a scale: 2 for tiles that show four times as much at half the resolution, and so on."""
        return TileGrid(self.width, self.height, self.side * scale, self.halo * scale)

    def read(self, window: Window, scale: int = 1) -> NDArray[np.uint8]:
        """A window in RGB, `[ceil(h / scale), ceil(w / scale), 3]`; pixels are averaged, a tile's number at a time."""
        if scale == 1:
            return read_image(self.path, reading=self.reading, window=window)
        x0, y0, x1, y1 = window
        height, width = math.ceil((y1 - y0) / scale), math.ceil((x1 - x0) / scale)
        small = np.zeros((height, width, 3), np.uint8)
        step = max(1, self.side // scale)
        for top in range(0, height, step):
            for left in range(0, width, step):
                bottom, right = min(top + step, height), min(left + step, width)
                part = (x0 + left * scale, y0 + top * scale, min(x1, x0 + right * scale), min(y1, y0 + bottom * scale))
                pixels = read_image(self.path, reading=self.reading, window=part)
                size = (right - left, bottom - top)
                small[top:bottom, left:right] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return small


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """An answer about a large image.

    Attributes:
        region: the mask, in pixels of the image; None where it has no pixel.
        score: predicted IoU, 0 to 1.
        object_score: logit that something is there.
        category: number of its class, where answers have one.
    """

    region: Region | None
    score: float
    object_score: float
    category: int = 0


def draw_overview(image: LargeImage, regions: Sequence[Region]) -> NDArray[np.uint8]:
    """The whole image, no side longer than `OVERVIEW` pixels, with the outlines of what was found: `[h, w, 3]` RGB."""
    scale = max(1, math.ceil(max(image.width, image.height) / OVERVIEW))
    small = image.read((0, 0, image.width, image.height), scale).copy()  # a decoder may keep its pixels read-only
    for number, region in enumerate(regions):
        color = colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.8, 1)  # the golden ratio keeps successive hues apart
        outlines, _ = cv2.findContours(region.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        corner = np.array([region.x0, region.y0])
        scaled = [((outline + corner) / scale).astype(np.int32) for outline in outlines]
        cv2.drawContours(small, scaled, -1, tuple(255 * value for value in color), 1)
    return small


def ask_in_tiles(
    predictor: Predictor,
    image: LargeImage,
    prompts: Sequence[Prompt],
    *,
    chunk: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TileAnswer]:
    """Answer prompts, one encoded window after the other: a tile, or that of a prompt at a seam; no other is read.

    Args:
        predictor: the model.
        image: the image.
        prompts: boxes or clicks, in pixels of the image.
        chunk: prompts per decoder call.
        progress: called with prompts done and their total.

    Returns:
        One answer per prompt, in order.
    """
    places: dict[tuple[int, Window], list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        places[_place(image, prompt)].append(number)
    answers: dict[int, TileAnswer] = {}
    for scale, window in sorted(places, key=lambda place: (place[0], place[1][1], place[1][0])):
        numbers = places[scale, window]
        embedded = predictor.embed(image.read(window, scale))
        asked = [_in_window(prompts[number], window, scale) for number in numbers]
        for number, found in zip(numbers, predictor.predict(embedded, asked, chunk=chunk), strict=True):
            region = in_image(found.best, window, scale)
            answers[number] = TileAnswer(region, float(found.iou_scores.max()), found.object_score)
        progress(len(answers), len(prompts))
    return [answers[number] for number in range(len(prompts))]


def everything_in_tiles(
    predictor: Predictor,
    image: LargeImage,
    config: AutomaticConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[TileAnswer]:
    """Find everything, each object once, as soon as no tile to come can add to it.

    Args:
        predictor: the model.
        image: the image.
        config: grid of clicks and thresholds, in each tile.
        progress: called with tiles done and their total.
    """
    tiles = list(image.grid())

    def found() -> Iterator[tuple[Tile, list[TileAnswer]]]:
        for done, tile in enumerate(tiles, start=1):
            x0, y0 = tile.window[:2]
            masks = everything(predictor, image.read(tile.window), config)
            yield tile, [TileAnswer(one.region.moved(x0, y0), one.iou_score, one.object_score) for one in masks]
            progress(done, len(tiles))

    yield from merged(image.grid(), found())


def merged(grid: TileGrid, found: Iterable[tuple[Tile, Sequence[TileAnswer]]]) -> Iterator[TileAnswer]:
    """Objects found in overlapping tiles, each once.

    Args:
        grid: the tiles.
        found: tile by tile, row by row, the masks found in each, in pixels of the image.

    Yields:
        Objects, as soon as no tile to come shows any of them; what waits is what lies in about two rows of tiles.
    """
    waiting: list[_Part] = []
    for tile, answers in found:
        first = (tile.row, tile.column)
        ready = [part for part in waiting if not _is_shown_from(part, first, grid)]
        waiting = [part for part in waiting if _is_shown_from(part, first, grid)]
        yield from (part.answer for part in ready if _is_owned(part, grid))
        waiting = _joined(waiting, [_Part([tile], one) for one in answers if one.region is not None])
    yield from (part.answer for part in waiting if _is_owned(part, grid))


@dataclass(eq=False, slots=True)
class _Part:
    """What is known so far of an object: the tiles that showed it, and its pixels."""

    tiles: list[Tile]
    answer: TileAnswer

    @property
    def region(self) -> Region:
        assert self.answer.region is not None, "masks without pixels are left out"
        return self.answer.region


def _joined(earlier: list[_Part], found: list[_Part]) -> list[_Part]:
    """Earlier finds and those of one more tile, of which the same object is one find.

    Two masks are of the same object where they agree in the part of the image that both of their tiles show.
    """
    known, added = list(earlier), list[_Part]()
    for part in found:
        for other in [other for other in known if _is_same(part, other)]:
            known.remove(other)
            best = max(part, other, key=lambda one: one.answer.score).answer
            part = _Part([*part.tiles, *other.tiles], replace(best, region=_union(part.region, other.region)))
        added.append(part)
    return [*known, *added]


def _is_same(one: _Part, other: _Part) -> bool:
    if _shared(one.region.box, other.region.box) is None:
        return False
    for tile in one.tiles:
        for neighbour in other.tiles:
            shared = _shared(tile.window, neighbour.window)
            if shared is None:
                continue
            first, second = (_pixels(part.region, shared) for part in (one, other))
            both = int(np.count_nonzero(first & second))
            if both and both / int(np.count_nonzero(first | second)) >= _SAME_OBJECT:
                return True
    return False


def _is_shown_from(part: _Part, first: tuple[int, int], grid: TileGrid) -> bool:
    """Whether a tile from `first` (row, column) on, row by row, shows any of it."""
    return any((tile.row, tile.column) >= first for tile in grid.touching(part.region.box))


def _is_owned(part: _Part, grid: TileGrid) -> bool:
    """Whether a find is reported: not where only a tile's margin showed it and the tile it belongs to did not find it.

    A mask that ends at its tile's border may be half an object; it counts only in the tile that holds its centre.
    """
    x0, y0, x1, y1 = part.region.box
    owner = grid.owner((x0 + x1) / 2, (y0 + y1) / 2)
    return any((tile.row, tile.column) == owner for tile in part.tiles)


def _place(image: LargeImage, prompt: Prompt) -> tuple[int, Window]:
    """The scale and the window in which a prompt is asked."""
    x0, y0, x1, y1 = _clipped(_extent(prompt), image)
    scale = 1
    while True:
        grid, side = image.grid(scale), image.side * scale
        row, column = grid.owner((x0 + x1) / 2, (y0 + y1) / 2)
        tile = next(tile for tile in grid.touching((x0, y0, x1, y1)) if (tile.row, tile.column) == (row, column))
        if max(image.width, image.height) <= side:
            return scale, tile.window
        room = _MARGIN * side
        if max(x1 - x0, y1 - y0) + 2 * room <= side:
            left, top, right, bottom = _inner(image, tile, room)
            inside = left <= x0 and top <= y0 and x1 <= right and y1 <= bottom
            return scale, tile.window if inside else _around(image, (x0, y0, x1, y1), side)
        scale *= 2


def _inner(image: LargeImage, tile: Tile, room: float) -> Box:
    """Where boxes are asked in a tile: its core, and `room` from its border where the image goes on there."""
    window, core = tile.window, tile.core
    return (
        core[0] and max(core[0], window[0] + room),
        core[1] and max(core[1], window[1] + room),
        core[2] if core[2] == image.width else min(core[2], window[2] - room),
        core[3] if core[3] == image.height else min(core[3], window[3] - room),
    )


def _around(image: LargeImage, box: Box, side: int) -> Window:
    """The window of a side in pixels with a box in its middle, as far as the image reaches."""
    width, height = min(side, image.width), min(side, image.height)
    x0 = int(min(max((box[0] + box[2] - side) / 2, 0), image.width - width))
    y0 = int(min(max((box[1] + box[3] - side) / 2, 0), image.height - height))
    return x0, y0, x0 + width, y0 + height


def _clipped(box: Box, image: LargeImage) -> Box:
    """A box inside the image, at least one pixel wide and high."""
    x0, y0 = min(max(box[0], 0), image.width - 1), min(max(box[1], 0), image.height - 1)
    return x0, y0, max(min(box[2], image.width), x0 + 1), max(min(box[3], image.height), y0 + 1)


def _extent(prompt: Prompt) -> Box:
    parts = [part.reshape(-1, 2) for part in (prompt.input_box, prompt.input_points) if part is not None]
    assert parts, "a prompt has a box or points"
    points = np.concatenate(parts)
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1


def _in_window(prompt: Prompt, window: Window, scale: int) -> Prompt:
    """A prompt in pixels of the window as it is read."""
    x0, y0 = window[:2]
    corner = np.array([x0, y0], np.float32)
    box = None if prompt.input_box is None else (prompt.input_box - np.tile(corner, 2)) / np.float32(scale)
    points = None if prompt.input_points is None else (prompt.input_points - corner) / np.float32(scale)
    return replace(prompt, input_box=box, input_points=points)


def in_image(mask: NDArray[np.bool_], window: Window, scale: int) -> Region | None:
    """A window's mask, bool `[h, w]` of the window read at a scale, in pixels of the image; None without a pixel."""
    region = region_of(mask)
    if region is None:
        return None
    x0, y0, x1, y1 = window
    if scale == 1:
        return region.moved(x0, y0)
    left, top = x0 + region.x0 * scale, y0 + region.y0 * scale
    height, width = region.mask.shape
    size = (min(width * scale, x1 - left), min(height * scale, y1 - top))
    large = cv2.resize(region.mask.astype(np.float32), (width * scale, height * scale), interpolation=cv2.INTER_LINEAR)
    found = region_of(large[: size[1], : size[0]] >= 0.5)
    return None if found is None else found.moved(left, top)


def _shared(one: Window, other: Window) -> Window | None:
    x0, y0, x1, y1 = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _pixels(region: Region, window: Window) -> NDArray[np.bool_]:
    """A region in a window, bool `[h, w]`."""
    x0, y0, x1, y1 = window
    pixels = np.zeros((y1 - y0, x1 - x0), bool)
    shared = _shared(region.box, window)
    if shared is not None:
        a, b, c, d = shared
        part = region.mask[b - region.y0 : d - region.y0, a - region.x0 : c - region.x0]
        pixels[b - y0 : d - y0, a - x0 : c - x0] = part
    return pixels


def _union(one: Region, other: Region) -> Region:
    x0, y0 = min(one.x0, other.x0), min(one.y0, other.y0)
    window = (x0, y0, max(one.box[2], other.box[2]), max(one.box[3], other.box[3]))
    return Region(_pixels(one, window) | _pixels(other, window), x0, y0)
