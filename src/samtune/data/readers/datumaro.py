"""Datumaro's own JSON, as Datumaro and CVAT export it: `annotations/SUBSET.json` beside `images/SUBSET/`.

Polygons of one group and label are one object.

Source: open-edge-platform.github.io/datumaro, "Datumaro format".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from samtune.data.masks import parse_counts
from samtune.data.readers.common import OnIssue, numbers, split_named, whole_number
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat, join_groups
from samtune.data.readers.shapes import side, unusable
from samtune.errors import DataError
from samtune.types import Polygons, Segmentation


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    del on_issue
    entry = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    listed = entry.get("items")
    if not isinstance(listed, list):
        raise DataError.of(expected="a Datumaro file with 'items'", found="another one")
    names = _label_names(entry.get("categories"))
    for position, value in enumerate(cast("list[Any]", listed)):
        item = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        where = f"items[{position}]"
        stored = item.get("image")
        image = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
        sizes = numbers(image.get("size")) or (0, 0)
        height, width = (side(sizes[0]), side(sizes[1])) if len(sizes) == 2 else (0, 0)
        raw = item.get("annotations")
        annotations = cast("list[Any]", raw) if isinstance(raw, list) else []
        items = [
            found
            for number, one in enumerate(annotations)
            if (found := _item(one, names, number, f"{where}.annotations[{number}]")) is not None
        ]
        name = image.get("path") or f"{item.get('id')}.jpg"
        yield ImageItems(name, width, height, items, where, split=split_named(file.stem))


def _label_names(categories: Any) -> dict[int, Any]:
    labels = cast("dict[str, Any]", categories).get("label") if isinstance(categories, dict) else None
    listed = cast("dict[str, Any]", labels).get("labels") if isinstance(labels, dict) else None
    entries = cast("list[Any]", listed) if isinstance(listed, list) else []
    return {
        position: cast("dict[str, Any]", entry).get("name") for position, entry in enumerate(entries)
        if isinstance(entry, dict)
    }  # fmt: skip


def _item(value: Any, names: dict[int, Any], number: int, where: str) -> Item | None:
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    kind = str(entry.get("type"))
    if kind in ("label", "caption"):
        return None  # about the image, not an object
    label = whole_number(entry.get("label_id"))
    group = whole_number(entry.get("group")) or None
    category = names.get(label) if label is not None else None
    return Item(str(number + 1), category, where, partial(_shape, kind, entry), group=group)


def _shape(kind: str, entry: dict[str, Any]) -> Segmentation | None:
    if kind == "polygon":
        ring = numbers(entry.get("points"))
        if ring is None or len(ring) < 6 or len(ring) % 2:
            raise unusable("polygon-points", "a polygon of something else than at least 3 points")
        return Polygons((ring,))
    if kind == "mask":
        stored = entry.get("rle")
        rle = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
        sizes = numbers(rle.get("size")) or ()
        counts = rle.get("counts")
        if len(sizes) != 2 or not isinstance(counts, str):
            raise unusable("rle-counts", "a mask without size and counts")
        return parse_counts(counts, side(sizes[0]), side(sizes[1]))
    if kind == "bbox":
        raise unusable("no-segmentation", "a box, no outline", do="draw polygons or masks")
    raise unusable("shape-without-area", f"a {kind}, which has no area that is read")


FORMAT = JsonFormat("datumaro", "Datumaro", _parse, join=join_groups)
