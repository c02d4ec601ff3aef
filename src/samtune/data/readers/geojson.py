"""GeoJSON polygons in pixels, as QuPath exports them and QGIS draws them on an image without a place on a map.

QGIS counts an image's rows downwards from 0, so that y is negative. Coordinates on a map are not read.
A file is about the image of its name. The category is QuPath's `classification`, else the property that most features
fill in, those called `class`, `category`, `label` or `type` before others.
Source: RFC 7946; qupath.readthedocs.io, "Exporting annotations".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from samtune.data.images import SUFFIXES
from samtune.data.readers.common import DEFAULT_CATEGORY, OnIssue, category_name
from samtune.data.readers.files import visible
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat
from samtune.data.readers.shapes import ring_of, unusable
from samtune.errors import DataError
from samtune.types import Issue, Polygons, Segmentation, Severity

_MOST_COORDINATE = 65_500
_NAMES = ("class", "classification", "category", "label", "type", "name", "kind")


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    raw = content
    if isinstance(content, dict):
        entry = cast("dict[str, Any]", content)
        raw = entry.get("features", [entry] if entry.get("type") == "Feature" else None)
    if not isinstance(raw, list):
        raise DataError.of(expected="GeoJSON with a list of features", found="none")
    features = [cast("dict[str, Any]", one) if isinstance(one, dict) else {} for one in cast("list[Any]", raw)]
    upwards = _check_pixels(features, file)
    if upwards:
        text = "Rows are counted as negative y, as QGIS does on an image without a place on a map."
        on_issue(Issue("rows-negative", Severity.INFO, text, "They are read as rows of the image.", str(file)))
    key = _category_key(features)
    items = [
        Item(
            str(feature.get("id") or position + 1) + f"-{position + 1}",
            _category(feature, key),
            f"features[{position}]",
            partial(_shape, feature.get("geometry"), upwards),
        )
        for position, feature in enumerate(features)
    ]
    yield ImageItems(_image_name(file), 0, 0, items)


def _image_name(file: Path) -> str:
    """The image of a file: `slide.geojson` or `slide.tif.geojson` of slide.tif."""
    stem = Path(file.stem)
    if stem.suffix.lower() in SUFFIXES:
        return file.stem
    same = [path.name for path in visible(file.parent) if path.stem == file.stem and path.suffix.lower() in SUFFIXES]
    return same[0] if same else f"{file.stem}.tif"


def _check_pixels(features: list[dict[str, Any]], file: Path) -> bool:
    """Whether rows are negative.

    Raises:
        DataError: coordinates are those of a map.
    """
    found: list[tuple[float, float]] = []
    for feature in features:
        geometry = feature.get("geometry")
        if isinstance(geometry, dict):
            found += _points(cast("dict[str, Any]", geometry).get("coordinates"), 0)
    if not found:
        return False
    points = np.asarray(found, np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    upwards = bool(high[1] <= 0 and low[1] < -1)
    on_a_map = bool(np.abs(points).max() > _MOST_COORDINATE or (low[0] < 0 and high[0] <= 0))
    degrees = bool(np.abs(points[:, 0]).max() <= 180 and np.abs(points[:, 1]).max() <= 90 and _extent(points) < 2)
    if on_a_map or degrees:
        raise DataError.of(
            expected="coordinates in pixels of the image",
            found=f"x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}, as on a map",
            where=str(file),
            do="save the layer in pixels of the image, or make masks in the GIS; samgeo tunes on maps",
        )
    return upwards


def _extent(points: NDArray[np.float64]) -> float:
    return float((points.max(axis=0) - points.min(axis=0)).max())


def _points(value: Any, depth: int) -> list[tuple[float, float]]:
    """The points of nested lists of coordinates; what is no number is left to the outline's own check."""
    if not isinstance(value, list) or depth > 4 or not value:
        return []
    listed = cast("list[Any]", value)
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in listed[:2]):
        plain = len(listed) > 1 and all(abs(item) < 1e15 for item in listed[:2])
        return [(float(listed[0]), float(listed[1]))] if plain else []
    return [point for item in listed for point in _points(item, depth + 1)]


def _shape(geometry: Any, upwards: bool) -> Segmentation:
    entry = cast("dict[str, Any]", geometry) if isinstance(geometry, dict) else {}
    kind, coordinates = entry.get("type"), entry.get("coordinates")
    parts = cast("list[Any]", coordinates) if isinstance(coordinates, list) else []
    if kind == "Polygon":
        parts = [parts]
    elif kind == "GeometryCollection":
        inner = entry.get("geometries")
        shapes = [_shape(one, upwards) for one in cast("list[Any]", inner)] if isinstance(inner, list) else []
        polygons = [shape for shape in shapes if isinstance(shape, Polygons)]
        rings = tuple(ring for shape in polygons for ring in shape.rings)
        return Polygons(rings, tuple(ring for shape in polygons for ring in shape.holes))
    elif kind != "MultiPolygon":
        raise unusable("shape-without-area", f"a {kind}, which has no area")
    rings: tuple[tuple[float, ...], ...] = ()
    holes: tuple[tuple[float, ...], ...] = ()
    for part in parts:
        outer, *inside = cast("list[Any]", part) if isinstance(part, list) and part else [None]
        cut = tuple(_ring(ring, upwards) for ring in inside)
        if len(parts) > 1:
            rings += (_keyhole(_ring(outer, upwards), cut),)
        else:
            rings, holes = (_ring(outer, upwards),), cut
    if not rings:
        raise unusable("polygon-points", f"a {kind} without points")
    return Polygons(rings, holes)


def _keyhole(outer: tuple[float, ...], holes: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """A ring that goes into its holes and back, so that an island of another part in a hole stays."""
    joined = outer
    for hole in holes:
        joined += (*outer[:2], *hole, *hole[:2])
    return (*joined, *outer[:2]) if joined != outer else outer


def _ring(points: Any, upwards: bool) -> tuple[float, ...]:
    listed = cast("list[Any]", points) if isinstance(points, list) else []
    plain = [cast("list[Any]", point)[:2] if isinstance(point, list) else point for point in listed]  # heights follow
    ring = ring_of(plain)
    return tuple(-value if place % 2 and upwards else value for place, value in enumerate(ring))


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _value(feature: dict[str, Any], key: str) -> str | None:
    """A property as text; QuPath's classification is an object with a name, in older versions a text."""
    value = _properties(feature).get(key)
    if isinstance(value, dict):
        entry = cast("dict[str, Any]", value)
        names = entry.get("names")
        value = entry.get("name") or (
            ": ".join(map(str, cast("list[Any]", names))) if isinstance(names, list) else None
        )
    return category_name(value) if isinstance(value, str) else None


def _category_key(features: list[dict[str, Any]]) -> str | None:
    filled: Counter[str] = Counter()
    for feature in features:
        filled.update(key for key in _properties(feature) if _value(feature, key))
    if filled["classification"]:
        return "classification"
    known = [key for key in filled if key.lower() in _NAMES]
    return min(known, key=lambda key: (_NAMES.index(key.lower()), key), default=None)


def _category(feature: dict[str, Any], key: str | None) -> str:
    return (_value(feature, key) if key else None) or DEFAULT_CATEGORY


FORMAT = JsonFormat("geojson", "GeoJSON", _parse, (".geojson", ".json"))
