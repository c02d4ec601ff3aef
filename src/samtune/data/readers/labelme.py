"""LabelMe, and X-AnyLabeling which writes the same files: one JSON per image, with shapes drawn on it.

Polygons, rectangles, rotated boxes, circles and painted masks are objects; polygons of one label and group are one
object. Lines and points have no area and are reported. An image that is nowhere is taken out of `imageData`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from samtune.data.readers.common import OnIssue, ellipse, numbers, rectangle, whole_number
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat, join_groups
from samtune.data.readers.shapes import decode_base64, paste, png_mask, side, unusable
from samtune.errors import DataError
from samtune.types import Polygons, Segmentation


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    del file, on_issue
    entry = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    shapes = entry.get("shapes")
    if not isinstance(shapes, list):
        raise DataError.of(expected="a LabelMe file with a list 'shapes'", found="a field 'shapes' that is no list")
    width, height = side(entry.get("imageWidth")), side(entry.get("imageHeight"))
    items = [_item(shape, position, width, height) for position, shape in enumerate(cast("list[Any]", shapes))]
    yield ImageItems(entry.get("imagePath"), width, height, items, embedded=entry.get("imageData"))


def _item(shape: Any, position: int, width: int, height: int) -> Item:
    where, identifier = f"shapes[{position}]", str(position + 1)
    if not isinstance(shape, dict):
        found = f"a {type(shape).__name__}, not a shape"

        def refuse() -> Segmentation:
            raise unusable("shape-invalid", found)

        return Item(identifier, "shape", where, refuse)
    entry = cast("dict[str, Any]", shape)
    group = whole_number(entry.get("group_id"))
    return Item(identifier, entry.get("label"), where, lambda: _segmentation(entry, width, height), group=group)


def _segmentation(shape: dict[str, Any], width: int, height: int) -> Segmentation:
    kind = shape.get("shape_type") or "polygon"
    raw = shape.get("points")
    points = [numbers(point) for point in cast("list[Any]", raw)] if isinstance(raw, list) else []
    if not points or any(point is None or len(point) != 2 for point in points):
        raise unusable("polygon-coordinates", "points that are not pairs of finite numbers")
    flat = tuple(value for point in points if point is not None for value in point)
    if kind in ("polygon", "rotation", "quadrilateral") and len(points) >= 3:
        return Polygons((flat,))
    if kind == "rectangle" and len(points) in (2, 4):
        return Polygons((rectangle((min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2]))),))
    if kind == "circle" and len(points) == 2:
        radius = math.dist(flat[:2], flat[2:])
        return Polygons((ellipse(flat[0], flat[1], radius, radius),))
    if kind == "mask":
        return paste(png_mask(decode_base64(shape.get("mask")), width, height), flat[0], flat[1], width, height)
    if kind in ("line", "linestrip", "point", "points"):
        raise unusable("shape-without-area", f"a {kind}, which has no area")
    raise unusable("polygon-points", f"a {kind} of {len(points)} points")


FORMAT = JsonFormat("labelme", "LabelMe", _parse, join=join_groups)
