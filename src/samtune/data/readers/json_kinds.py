"""Which tool wrote a JSON file, told from its first members."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, cast

from samtune.data.readers.stream import parts
from samtune.errors import DataError

_TAIL = 1 << 20
_MEMBERS = 200
"""Members looked at; a COCO file may list many licences first."""


def json_kind(file: Path) -> str | None:
    """The format of one JSON file; None if it is none that is read, or cannot be parsed."""
    found: str | None = None
    try:
        for part in islice(parts(file, lists=True), _MEMBERS):
            kind = _of_element(part.value) if part.key == "" and part.index is not None else None
            kind = kind or _of_member(part.key, part.index, part.value)
            if kind and kind != "coco":
                return kind
            found = kind or found
            if found and part.key == "annotations":
                return found
    except DataError:
        return found
    return "coco-panoptic" if found and _has_segments(file) else found


def _has_segments(file: Path) -> bool:
    """Whether a COCO file's last annotations are panoptic ones."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL))
        return b'"segments_info"' in opened.read()


def _of_element(value: Any) -> str | None:
    """The kind of a file that is a list, by an element of it."""
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if entry.get("type") == "Feature" and "geometry" in entry:
        return "geojson"
    if isinstance(entry.get("data"), dict) and ("annotations" in entry or "completions" in entry):
        return "label-studio"
    for inner in entry.values():
        regions = cast("list[Any]", inner) if isinstance(inner, list) else []
        if any(isinstance(region, dict) and "original_width" in region for region in regions):
            return "label-studio"
    return None


def _of_member(key: str, index: int | None, value: Any) -> str | None:
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if key in ("shapes", "imagePath", "imageData"):
        return "labelme"
    if key.startswith("_via_") or ("regions" in entry and "filename" in entry):
        return "via"
    if key == "features" or (key == "type" and value in ("FeatureCollection", "Feature")):
        return "geojson"
    if key == "objects":
        return _of_object(entry)
    if key == "info" and str(entry.get("description", "")).upper() == "ISAT":
        return "isat"
    if key == "item" and ("slots" in entry or "name" in entry):
        return "darwin"
    if key == "image" and index is None and entry:
        return "darwin" if "file_name" not in entry and "filename" in entry else "sa1b"
    if key == "categories" and isinstance(entry.get("label"), dict):
        return "datumaro"
    if (key in ("annotations", "completions") and "result" in entry) or (key == "task" and "data" in entry):
        return "label-studio"
    if key == "annotations" and "segments_info" in entry:
        return "coco-panoptic"
    telling = {"images": "file_name", "annotations": "image_id", "categories": "name"}.get(key)
    if telling and ((index is not None and telling in entry) or value == []):
        return "coco"
    return None


def _of_object(entry: dict[str, Any]) -> str | None:
    if "classTitle" in entry or "geometryType" in entry:
        return "supervisely"
    return "isat" if "segmentation" in entry and "category" in entry else None
