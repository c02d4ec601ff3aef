"""V7 Darwin JSON, versions 1 and 2: one file per image, polygons of several paths, and raster layers.

Source: docs.v7labs.com, "Darwin JSON"; a raster layer is `[value, count, ...]`, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import encode_rle
from samtune.data.readers.common import OnIssue, number, whole_number
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat
from samtune.data.readers.shapes import ring_of, side, unusable
from samtune.errors import DataError
from samtune.types import Polygons, Segmentation


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    del on_issue
    entry = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    about, annotations = entry.get("item", entry.get("image")), entry.get("annotations")
    if not isinstance(about, dict) or not isinstance(annotations, list):
        raise DataError.of(expected="a Darwin file with 'item' and 'annotations'", found="another one")
    item = cast("dict[str, Any]", about)
    slots = item.get("slots")
    slot = cast("list[Any]", slots)[0] if isinstance(slots, list) and slots else item
    sizes = cast("dict[str, Any]", slot) if isinstance(slot, dict) else {}
    width, height = side(sizes.get("width")), side(sizes.get("height"))
    listed = [cast("dict[str, Any]", one) if isinstance(one, dict) else {} for one in cast("list[Any]", annotations)]
    layer = next((one["raster_layer"] for one in listed if isinstance(one.get("raster_layer"), dict)), None)
    items = [
        Item(
            str(one.get("id") or position + 1),
            one.get("name"),
            f"annotations[{position}]",
            partial(_shape, one, layer, width, height),
        )
        for position, one in enumerate(listed)
        if "raster_layer" not in one and "tag" not in one
    ]
    name = item.get("name") or item.get("original_filename") or item.get("filename")
    yield ImageItems(name or f"{file.stem}.jpg", width, height, items)


def _shape(entry: dict[str, Any], layer: Any, width: int, height: int) -> Segmentation | None:
    polygon = entry.get("polygon", entry.get("complex_polygon"))
    if isinstance(polygon, dict):
        drawn = cast("dict[str, Any]", polygon)
        paths = drawn.get("paths", drawn.get("path"))
        listed = cast("list[Any]", paths) if isinstance(paths, list) else []
        rings = listed if listed and isinstance(listed[0], list) else [listed]
        more = drawn.get("additional_paths")
        rings += cast("list[Any]", more) if isinstance(more, list) else []
        return Polygons(tuple(ring_of(ring) for ring in rings))
    if "mask" in entry:
        return _of_layer(layer, entry.get("id"), width, height)
    if "ellipse" in entry or "bounding_box" in entry:
        kind = "an ellipse" if "ellipse" in entry else "a bounding box"
        raise unusable("no-segmentation", f"{kind}, no outline", do="draw polygons or masks in Darwin")
    raise unusable("shape-without-area", "a shape without an area that is read")


def _of_layer(layer: Any, identifier: Any, width: int, height: int) -> Segmentation:
    """A mask out of the raster layer that all masks of an image share."""
    stored = cast("dict[str, Any]", layer) if isinstance(layer, dict) else {}
    mapping, runs = stored.get("mask_annotation_ids_mapping"), stored.get("dense_rle")
    value = whole_number(cast("dict[Any, Any]", mapping).get(identifier)) if isinstance(mapping, dict) else None
    if value is None or not isinstance(runs, list) or not width or not height:
        raise unusable("mask-unreadable", "a mask without its raster layer, or without the image's size")
    pixels = _dense(cast("list[Any]", runs), width * height)
    return encode_rle(np.asarray(pixels.reshape(height, width) == value))


def _dense(runs: list[Any], size: int) -> NDArray[np.int64]:
    plain = [number(value) for value in runs]
    if not plain or len(plain) % 2 or any(value is None or value < 0 or value != int(value) for value in plain):
        raise unusable("rle-counts", "a raster layer of something else than values and counts")
    pairs = np.array(plain, np.float64).reshape(-1, 2)
    if pairs[:, 1].sum() != size or pairs.max() > 1 << 31:
        raise unusable("rle-sum", f"a raster layer of {pairs[:, 1].sum():.0f} pixels for an image of {size}")
    return np.repeat(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64))


FORMAT = JsonFormat("darwin", "Darwin", _parse)
