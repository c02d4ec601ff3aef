"""Supervisely: `DATASET/img/a.jpg` and `DATASET/ann/a.jpg.json`, objects as polygons, bitmaps or boxes.

Source: docs.supervisely.com, "Supervisely annotation format": bitmaps are PNG, packed with zlib, in base64.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from samtune.data.readers.common import OnIssue, numbers, rectangle
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat
from samtune.data.readers.shapes import decode_base64, inflate, paste, png_mask, ring_of, side, unusable
from samtune.errors import DataError
from samtune.types import Polygons, Segmentation


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    del on_issue
    entry = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    objects, size = entry.get("objects"), entry.get("size")
    if not isinstance(objects, list) or not isinstance(size, dict):
        raise DataError.of(expected="a Supervisely file with 'size' and 'objects'", found="another one")
    sides = cast("dict[str, Any]", size)
    width, height = side(sides.get("width")), side(sides.get("height"))
    items: list[Item] = []
    for position, value in enumerate(cast("list[Any]", objects)):
        one = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        where = f"objects[{position}]"
        items.append(Item(str(position + 1), one.get("classTitle"), where, partial(_shape, one, width, height)))
    yield ImageItems(file.stem, width, height, items)  # a.jpg.json is about a.jpg


def _shape(entry: dict[str, Any], width: int, height: int) -> Segmentation:
    kind = entry.get("geometryType")
    points, bitmap = entry.get("points"), entry.get("bitmap")
    if kind == "bitmap" and isinstance(bitmap, dict):
        stored = cast("dict[str, Any]", bitmap)
        origin = numbers(stored.get("origin"))
        if origin is None or len(origin) != 2:
            raise unusable("mask-unreadable", "a bitmap without its place in the image")
        return paste(png_mask(inflate(decode_base64(stored.get("data"))), width, height), *origin, width, height)
    drawn = cast("dict[str, Any]", points) if isinstance(points, dict) else {}
    if kind == "polygon":
        inside = drawn.get("interior")
        holes = tuple(ring_of(ring) for ring in cast("list[Any]", inside)) if isinstance(inside, list) else ()
        return Polygons((ring_of(drawn.get("exterior")),), holes)
    if kind == "rectangle":
        corners = drawn.get("exterior")
        pairs = [numbers(point) for point in cast("list[Any]", corners)] if isinstance(corners, list) else []
        if len(pairs) != 2 or any(pair is None or len(pair) != 2 for pair in pairs):
            raise unusable("polygon-coordinates", "a rectangle without two corners")
        (x0, y0), (x1, y1) = (pair for pair in pairs if pair is not None)
        return Polygons((rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))),))
    raise unusable("shape-without-area", f"a {kind}, which has no area that is read")


FORMAT = JsonFormat("supervisely", "Supervisely", _parse)
