"""Label Studio's own JSON, whole or minimal: polygons, boxes and ellipses in percent of the image, and brushes.

Of several people's annotations of a task the first that was not cancelled counts, and that is reported; so are tasks
that nobody has annotated, which are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from samtune.data.masks import encode_rle
from samtune.data.readers.brush import decode_brush
from samtune.data.readers.common import OnIssue, ellipse, number, numbers
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat
from samtune.data.readers.shapes import decode_base64, paste, png_mask, side, turned_rectangle, unusable
from samtune.errors import DataError
from samtune.types import Issue, Polygons, Segmentation, Severity

_KINDS = ("polygon", "rectangle", "ellipse", "brush", "bitmask", "keypoint", "vector")


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    tasks = cast("list[Any]", content) if isinstance(content, list) else [content]
    for position, value in enumerate(tasks):
        where = f"[{position}]"
        task = _task(cast("dict[str, Any]", value) if isinstance(value, dict) else {})
        data = task.get("data")
        if isinstance(data, dict):
            name = _image_name(cast("dict[str, Any]", data))
            regions = _chosen(task, file, where, name, on_issue)
        else:
            name = _image_name(task)
            lists = [cast("list[Any]", inner) for inner in task.values() if isinstance(inner, list)]
            regions = [_flat(region) for inner in lists for region in inner]
        if name is None:
            raise DataError.of(expected="tasks with an image", found="one without", where=f"{file}, {where}")
        if regions is None:
            on_issue(Issue("task-unlabelled", Severity.WARNING, "Nobody has annotated the task.", "It is left out.",
                           str(file), name, None, where))  # fmt: skip
            continue
        width, height = next(
            ((w, h) for region in regions if (w := side(region.get("original_width")))
             and (h := side(region.get("original_height")))), (0, 0),
        )  # fmt: skip
        yield ImageItems(name, width, height, list(_items(regions, where)), where)


def _task(entry: dict[str, Any]) -> dict[str, Any]:
    """A task with its annotations; storages are given annotations with their task, one by one."""
    task = entry.get("task")
    return {**cast("dict[str, Any]", task), "annotations": [entry]} if isinstance(task, dict) else entry


def _image_name(data: dict[str, Any]) -> str | None:
    """The field that holds the image: the first text that ends like a path, those called image before others."""
    texts = [(key, value) for key, value in data.items() if isinstance(value, str)]
    named = [value for key, value in texts if key in ("image", "img", "ocr", "captioning", "url", "image_url")]
    return next(iter([*named, *(value for _, value in texts if "/" in value or "." in value)]), None)


def _chosen(
    task: dict[str, Any], file: Path, where: str, name: str | None, on_issue: OnIssue
) -> list[dict[str, Any]] | None:
    """The regions of a task; None where nobody has annotated it."""
    raw = task.get("annotations", task.get("completions"))
    listed = cast("list[Any]", raw) if isinstance(raw, list) else []
    found = [cast("dict[str, Any]", one) for one in listed if isinstance(one, dict)]
    done = [one for one in found if not one.get("was_cancelled")]
    if len(done) > 1:
        text = f"The task was annotated {len(done)} times."
        on_issue(Issue("annotated-twice", Severity.WARNING, text, "The first annotation counts.", str(file), name,
                       None, where))  # fmt: skip
    if not done:
        return None
    result = done[0].get("result")
    return [_flat(region) for region in cast("list[Any]", result)] if isinstance(result, list) else []


def _flat(region: Any) -> dict[str, Any]:
    """A region with its `value` beside the other fields, as JSON-MIN writes it."""
    entry = cast("dict[str, Any]", region) if isinstance(region, dict) else {}
    value = entry.get("value")
    return {**entry, **cast("dict[str, Any]", value)} if isinstance(value, dict) else entry


def _items(regions: list[dict[str, Any]], where: str) -> Iterator[Item]:
    """The regions with an outline; a label that stands in a region of its own belongs to the one of the same id."""
    labels = {region.get("id"): label for region in regions if (label := _label(region)) and region.get("id")}
    for position, region in enumerate(regions):
        kind = _kind(region)
        if kind is None:
            continue
        identifier = region.get("id")
        label = _label(region) or labels.get(identifier) or "object"
        name = identifier if isinstance(identifier, str) and identifier else str(position + 1)
        yield Item(f"{name}-{position + 1}", label, f"{where}.result[{position}]", partial(_shape, kind, region))


def _kind(region: dict[str, Any]) -> str | None:
    written = str(region.get("type", ""))
    for kind in _KINDS:
        if written.startswith(kind) or any(str(key).startswith(kind + "labels") for key in region):
            return kind
    if "points" in region:
        return "polygon"
    if "rle" in region:
        return "brush"
    if "radiusX" in region:
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= set(region) else None


def _label(region: dict[str, Any]) -> str | None:
    for key, value in region.items():
        if str(key).endswith("labels") and isinstance(value, list):
            texts = [text for text in cast("list[Any]", value) if isinstance(text, str) and text.strip()]
            if texts:
                return "+".join(texts)
    return None


def _shape(kind: str, region: dict[str, Any]) -> Segmentation:
    width, height = side(region.get("original_width")), side(region.get("original_height"))
    if not width or not height:
        raise unusable("polygon-coordinates", "a region without original_width and original_height")
    if kind == "brush":
        return encode_rle(decode_brush(region.get("rle"), height, width))
    if kind == "bitmask":
        part = png_mask(decode_base64(region.get("imageDataURL")), width, height)
        return paste(part, 0, 0, width, height)
    if kind == "polygon":
        raw = region.get("points")
        points = [numbers(point) for point in cast("list[Any]", raw)] if isinstance(raw, list) else []
        if any(point is None or len(point) != 2 for point in points):
            raise unusable("polygon-coordinates", "points that are not pairs of finite numbers")
        if len(points) < 3:
            raise unusable("polygon-points", f"a polygon of {len(points)} points")
        pairs = (point for point in points if point is not None)
        return Polygons((tuple(value for x, y in pairs for value in (x / 100 * width, y / 100 * height)),))
    if kind not in ("rectangle", "ellipse"):
        raise unusable("shape-without-area", f"a {kind}, which has no area")
    keys = ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    values = [number(region.get(key)) for key in keys]
    if any(value is None for value in values):
        raise unusable("polygon-coordinates", f"a {kind} without the numbers {', '.join(keys)}")
    x, y, across, down = (value / 100 for value in values if value is not None)
    turn = number(region.get("rotation")) or 0.0
    if kind == "rectangle":
        return Polygons((turned_rectangle(x * width, y * height, across * width, down * height, turn),))
    return Polygons((ellipse(x * width, y * height, across * width, down * height, math.radians(turn)),))


FORMAT = JsonFormat("label-studio", "Label Studio", _parse)
