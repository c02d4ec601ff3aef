"""LabelMe: one JSON per image, with shapes drawn on it."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from samtune.data.images import SUFFIXES
from samtune.data.masks import SegmentationError, encode_rle
from samtune.data.paths import confine
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    OnIssue,
    category_name,
    ellipse,
    numbers,
    rectangle,
    require_source,
    subfolders,
    unique,
    whole_number,
)
from samtune.data.readers.detect import json_files, json_kind
from samtune.data.readers.stream import load_json
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, Polygons, RunLengths, Segmentation, Severity, Split

_MAX_MASK = 16 << 20


def read_labelme(path: Path, *, images: Path | None = None, on_issue: OnIssue) -> Iterator[ImageRecord]:
    """Read LabelMe annotations.

    Polygons, rectangles, circles and painted masks are objects; polygons of one label and group are one object. Lines
    and points have no area and are reported.

    Args:
        path: folder of JSON files, with or without folders named after splits, or one JSON file.
        images: folder of the images, when they do not stand beside the JSON files.
        on_issue: called for each finding; shapes and files reported as errors are left out.

    Yields:
        The images by split and name.

    Raises:
        DataError: no such folder, no LabelMe file in it.
    """
    require_source(path)
    sources = [(Split.TRAIN, path.parent)] if path.is_file() else list(subfolders(path))
    found = False
    for split, folder in sources:
        ids: set[str] = set()
        for file in [path] if path.is_file() else json_files(folder):
            reader = _Reader(file, split, images, on_issue)
            record = reader.record()
            if record is not None:
                found = True
                yield replace(record, image_id=unique(record.image_id, ids))
    if not found:
        raise DataError.of(expected="LabelMe files, one JSON per image", found="none", where=str(path))


class _Reader:
    """Turns one file into a record."""

    def __init__(self, file: Path, split: Split, images: Path | None, on_issue: OnIssue) -> None:
        self._file, self._split, self._on_issue = file, split, on_issue
        self._images = images or file.parent
        self._name: str | None = None

    def record(self) -> ImageRecord | None:
        try:
            raw = load_json(self._file)
        except DataError as error:
            text = f"The file cannot be read: {error.found}."
            self._report("file-broken", text, "", None, "The file is left out.", error)
            return None
        if not isinstance(raw, dict) or not isinstance(cast("dict[str, Any]", raw).get("shapes"), list):
            if json_kind(self._file) != "labelme":
                return None  # another program's file in the folder
            self._report("file-broken", "The field 'shapes' is no list.", "shapes", None, "The file is left out.")
            return None
        content = cast("dict[str, Any]", raw)
        image = self._image(content.get("imagePath"))
        self._name = image.name
        return ImageRecord(
            image_id=self._file.stem,
            path=image,
            width=_side(content.get("imageWidth")),
            height=_side(content.get("imageHeight")),
            split=self._split,
            annotations=tuple(self._annotations(content)),
            group=group_of(image.name),
            source=self._file,
        )

    def _image(self, name: Any) -> Path:
        """The image: where `imagePath` says if that is inside the folder, else the image of the file's own name."""
        text = name if isinstance(name, str) and name else f"{self._file.stem}.jpg"
        for candidate in (text, text.replace("\\", "/").rpartition("/")[2]):
            try:
                path = confine(self._images, candidate)
            except DataError:
                continue
            if path.is_file():
                return path
        beside = (self._images / f"{self._file.stem}{suffix}" for suffix in sorted(SUFFIXES))
        fallback = self._images / (
            text.replace("\\", "/").rpartition("/")[2].replace("\0", "") or f"{self._file.stem}.jpg"
        )
        return next((path for path in beside if path.is_file()), fallback)

    def _annotations(self, content: dict[str, Any]) -> Iterator[Annotation]:
        """Shapes in order; those of one label and group become one object at the place of the first."""
        groups: dict[tuple[str, int], int] = {}
        found: list[Annotation] = []
        for position, shape in enumerate(cast("list[Any]", content["shapes"])):
            where = f"shapes[{position}]"
            annotation = self._annotation(shape, where, position, content)
            if annotation is None:
                continue
            group = whole_number(shape.get("group_id"))
            key = (annotation.category, group if group is not None else -1 - position)
            if key in groups and isinstance(annotation.segmentation, Polygons):
                first = found[groups[key]]
                if isinstance(first.segmentation, Polygons):
                    joined = Polygons(first.segmentation.rings + annotation.segmentation.rings)
                    found[groups[key]] = replace(first, segmentation=joined)
                    continue
            groups[key] = len(found)
            found.append(annotation)
        yield from found

    def _annotation(self, shape: Any, where: str, position: int, content: dict[str, Any]) -> Annotation | None:
        identifier = str(position + 1)
        if not isinstance(shape, dict):
            self._report("shape-invalid", f"The shape is a {type(shape).__name__}.", where, identifier)
            return None
        entry = cast("dict[str, Any]", shape)
        category = category_name(entry.get("label"))
        if category is None:
            self._report("category-unknown", "The shape has no label.", f"{where}.label", identifier)
            return None
        try:
            segmentation = _segmentation(entry, content)
        except SegmentationError as error:
            self._report(error.code, f"The shape cannot be used: {error.found}.", where, identifier, error=error)
            return None
        return Annotation(identifier, category, segmentation, where=where)

    def _report(
        self,
        code: str,
        message: str,
        where: str,
        annotation: str | None,
        repair: str = "The object is left out.",
        error: DataError | None = None,
    ) -> None:
        issue = Issue(code, Severity.ERROR, message, repair, str(self._file), self._name, annotation, where)
        self._on_issue(issue.caused_by(error) if error else issue)


def _segmentation(shape: dict[str, Any], content: dict[str, Any]) -> Segmentation:
    kind = shape.get("shape_type") or "polygon"
    raw = shape.get("points")
    points = [numbers(point) for point in cast("list[Any]", raw)] if isinstance(raw, list) else []
    if not points or any(point is None or len(point) != 2 for point in points):
        raise _unusable("polygon-coordinates", "points that are not pairs of finite numbers")
    flat = tuple(value for point in points if point is not None for value in point)
    if kind == "polygon" and len(points) >= 3:
        return Polygons((flat,))
    if kind == "rectangle" and len(points) in (2, 4):
        return Polygons((rectangle((min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2]))),))
    if kind == "circle" and len(points) == 2:
        radius = math.dist(flat[:2], flat[2:])
        return Polygons((ellipse(flat[0], flat[1], radius, radius),))
    if kind == "mask":
        return _painted(shape.get("mask"), flat, _side(content.get("imageWidth")), _side(content.get("imageHeight")))
    if kind in ("line", "linestrip", "point", "points"):
        raise _unusable("shape-without-area", f"a {kind}, which has no area")
    raise _unusable("polygon-points", f"a {kind} of {len(points)} points")


def _painted(data: Any, corners: tuple[float, ...], width: int, height: int) -> RunLengths:
    """A painted mask: a PNG in base64 that covers the pixels from the first corner on."""
    if not isinstance(data, str) or len(data) > _MAX_MASK or not width or not height or len(corners) < 2:
        raise _unusable("mask-unreadable", "a mask without data, or without the image's size")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as image:
            if image.width > width or image.height > height:
                raise _unusable(
                    "mask-size", f"a mask of {image.width} x {image.height} in an image of {width} x {height}"
                )
            part = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise _unusable("mask-unreadable", str(error) or type(error).__name__) from error
    x, y = round(corners[0]), round(corners[1])
    if x < 0 or y < 0 or x + part.shape[1] > width or y + part.shape[0] > height:
        raise _unusable("mask-size", "a mask that reaches out of the image")
    whole = np.zeros((height, width), bool)
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return encode_rle(whole)


def _side(value: Any) -> int:
    side = whole_number(value)
    return side if side is not None and 0 < side <= 65_500 else 0


def _unusable(code: str, found: str) -> SegmentationError:
    error = SegmentationError.of(expected="a shape with an area", found=found)
    error.code = code
    return error
