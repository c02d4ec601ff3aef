"""The objects of a large image in its tiles: each belongs to one tile, and is a fragment in others it reaches into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from samtune.data.checks.image import about_image
from samtune.data.checks.record import CheckedObject, UsableImage
from samtune.data.masks import Region, region_of
from samtune.data.tiles import Tile, TileGrid
from samtune.types import Annotation, Box, ImageRecord, Issue, Polygons, Severity, Window


@dataclass(frozen=True, slots=True)
class TileObject:
    """An object's pixels in a tile, in pixels of the tile, and whether it belongs to a neighbouring one."""

    found: CheckedObject
    region: Region
    is_fragment: bool


@dataclass(frozen=True, slots=True)
class TileContent:
    """A tile and what is in it: its own objects, then fragments."""

    tile: Tile
    objects: tuple[TileObject, ...]


def tiles_of(grid: TileGrid, usable: UsableImage, record: ImageRecord) -> Iterator[TileContent]:
    """The tiles of an image that can be used, with their objects.

    An object belongs to the tile in whose core the centre of its box lies, or, where it has no pixel there, to the tile
    that shows most of it. Tiles without objects are examples of background, unless an object that could not be used may
    lie in them.

    Args:
        grid: the tiles.
        usable: the image's usable objects, in pixels of the upright image.
        record: what the reader said, for the objects that could not be used.
    """
    content: dict[tuple[int, int], list[TileObject]] = defaultdict(list)
    for found in usable.objects:
        parts = {tile: part for tile in grid.touching(found.region.box) if (part := crop(found.region, tile.window))}
        own = _owner(grid, found, parts)
        for tile, part in parts.items():
            content[tile.row, tile.column].append(TileObject(found, part, is_fragment=tile is not own))
    lost = _places_of_lost(usable, record)
    for tile in grid:
        objects = sorted(content.pop((tile.row, tile.column), ()), key=lambda one: one.is_fragment)
        if objects or (lost is not None and not any(_overlap(tile.window, place) for place in lost)):
            yield TileContent(tile, tuple(objects))


def cut_by_tiles(usable: UsableImage, record: ImageRecord, tile: int, halo: int) -> list[Issue]:
    """The finding about objects that will not fit into their tile, before anything is cut.

    Args:
        usable: the image's usable objects.
        record: what the reader said.
        tile, halo: side and margin of the tiles, in pixels.
    """
    width, height = usable.info.upright_size
    if max(width, height) <= tile:
        return []
    return cut_objects(list(tiles_of(TileGrid(width, height, tile, halo), usable, record)), record)


def cut_objects(contents: Sequence[TileContent], record: ImageRecord) -> list[Issue]:
    """The finding about objects that do not fit into their tile."""
    own = [one for content in contents for one in content.objects if not one.is_fragment]
    cut = sum(one.region.area < one.found.region.area for one in own)
    if not cut:
        return []
    text = f"{cut} objects reach beyond their tile, which shows a part of them; a larger --tile or --halo shows all."
    return [about_image(record, "object-cut-by-tile", text, "They are prepared as far as shown.", Severity.WARNING)]


def crop(region: Region, window: Window) -> Region | None:
    """The part of a region in a window, in pixels of the window; None where it has no pixel."""
    x0, y0, x1, y1 = window
    left, top = max(region.x0, x0), max(region.y0, y0)
    right, bottom = min(region.box[2], x1), min(region.box[3], y1)
    if right <= left or bottom <= top:
        return None
    part = region_of(region.mask[top - region.y0 : bottom - region.y0, left - region.x0 : right - region.x0])
    return None if part is None else replace(part, x0=part.x0 + left - x0, y0=part.y0 + top - y0)


def _owner(grid: TileGrid, found: CheckedObject, parts: dict[Tile, Region]) -> Tile:
    x0, y0, x1, y1 = found.region.box
    row, column = grid.owner((x0 + x1) / 2, (y0 + y1) / 2)
    own = next((tile for tile in parts if (tile.row, tile.column) == (row, column)), None)
    return own or max(parts, key=lambda tile: parts[tile].area)


def _places_of_lost(usable: UsableImage, record: ImageRecord) -> list[Box] | None:
    """Where the objects lie that cannot be used, as boxes; None where that is not known of one of them."""
    used = {found.number for found in usable.objects}
    places: list[Box] = []
    for number, annotation in enumerate(record.annotations):
        if number not in used:
            place = _extent(annotation)
            if place is None:
                return None
            places.append(place)
    return None if record.unread else places


def _extent(annotation: Annotation) -> Box | None:
    if isinstance(annotation.segmentation, Polygons):
        rings = [np.asarray(ring, np.float64) for ring in annotation.segmentation.rings]
        values = np.concatenate(rings) if rings else np.zeros(0)
        if values.size >= 2 and values.size % 2 == 0 and np.isfinite(values).all():
            points = values.reshape(-1, 2)
            (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            return x0, y0, x1, y1
    return annotation.box


def _overlap(window: Window, box: Box) -> bool:
    return window[0] < box[2] and box[0] < window[2] and window[1] < box[3] and box[1] < window[3]
