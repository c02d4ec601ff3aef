"""VGG Image Annotator: one JSON for a folder of images, exported (`via_region_data.json`) or saved as a project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from samtune.data.masks import SegmentationError
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    AUTO,
    DEFAULT_CATEGORY,
    OnIssue,
    ReadOptions,
    category_name,
    ellipse,
    number,
    numbers,
    rectangle,
    require_source,
    split_named,
    unique,
)
from samtune.data.readers.files import ImageFinder, files_below
from samtune.data.readers.json_kinds import json_kind
from samtune.data.readers.stream import load_json
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, Polygons, Severity, Split


def read_via(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read VIA annotations.

    The category is the region attribute that most regions fill in; regions that leave it empty are reported and called
    `object`. VIA does not store the images' sizes.

    Args:
        path: folder of VIA files, with or without folders named after splits, or one JSON file.
        images: folder of the images, when they do not stand beside the JSON file.
        on_issue: called for each finding; regions reported as errors are left out.
        options: not used.

    Yields:
        The images in the file's order.

    Raises:
        DataError: no such folder, no VIA file in it, broken JSON.
    """
    del options
    require_source(path)
    if path.is_file():
        sources = [(split_named(path.stem) or split_named(path.parent.name) or Split.TRAIN, path)]
    else:
        files = (file for file in files_below(path, (".json",)) if json_kind(file) == "via")
        sources = [(_split_of(file, path), file) for file in files]
    if not sources:
        raise DataError.of(expected="a VIA annotation file", found="none", where=str(path))
    ids: dict[Split, set[str]] = {split: set() for split in Split}
    root = path.parent if path.is_file() else path
    for split, file in sources:
        finder = ImageFinder([images or file.parent, (images or file.parent) / "images"], images or root)
        yield from _Reader(file, split, finder, ids[split], on_issue).records()


def _split_of(file: Path, root: Path) -> Split:
    return next((split for part in file.parent.relative_to(root).parts if (split := split_named(part))), Split.TRAIN)


class _Reader:
    """Turns one file into records."""

    def __init__(self, file: Path, split: Split, finder: ImageFinder, ids: set[str], on_issue: OnIssue) -> None:
        self._file, self._split, self._ids, self._on_issue = file, split, ids, on_issue
        self._finder = finder

    def records(self) -> Iterator[ImageRecord]:
        raw = load_json(self._file)
        content = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
        entries = content.get("_via_img_metadata", content)
        if not isinstance(entries, dict) or not entries:
            raise DataError.of(expected="a VIA file, an object of images", found="none in it", where=str(self._file))
        images = {key: value for key, value in cast("dict[str, Any]", entries).items() if not key.startswith("_via_")}
        attribute = _category_attribute(images)
        for key, entry in images.items():
            record = self._record(key, entry, attribute)
            if record is not None:
                yield record

    def _record(self, key: str, entry: Any, attribute: str | None) -> ImageRecord | None:
        where = f"[{key!r}]"
        if not isinstance(entry, dict):
            self._report("image-entry", f"The entry is a {type(entry).__name__}.", where, None, None, "It is left out.")
            return None
        content = cast("dict[str, Any]", entry)
        name = content.get("filename")
        try:
            path = self._finder.find(name, where=f"{self._file}, {where}.filename")
        except DataError as error:
            text = f"The image's file name cannot be used: {error.found}."
            self._report("image-path", text, f"{where}.filename", str(name)[:80], None, "The image is left out.", error)
            return None
        regions = _regions(content.get("regions"))
        annotations = (
            self._annotation(region, position, f"{where}.regions[{position}]", path.name, attribute)
            for position, region in enumerate(regions)
        )
        return ImageRecord(
            image_id=unique(str(name), self._ids),
            path=path,
            width=0,
            height=0,
            split=self._split,
            annotations=tuple(annotation for annotation in annotations if annotation is not None),
            group=group_of(str(name)),
            source=self._file,
        )

    def _annotation(
        self, region: Any, position: int, where: str, image: str, attribute: str | None
    ) -> Annotation | None:
        identifier = f"{image}-{position + 1}"
        content = cast("dict[str, Any]", region) if isinstance(region, dict) else {}
        shape = content.get("shape_attributes")
        try:
            ring = _ring(cast("dict[str, Any]", shape) if isinstance(shape, dict) else {})
        except SegmentationError as error:
            text = f"The shape cannot be used: {error.found}."
            self._report(
                error.code, text, f"{where}.shape_attributes", image, identifier, "The object is left out.", error
            )
            return None
        category = _category(content.get("region_attributes"), attribute)
        if category is None:
            text = "The region has no category" + (f", the attribute {attribute!r} is empty." if attribute else ".")
            self._report("category-missing", text, f"{where}.region_attributes", image, identifier,
                         f"It is called {DEFAULT_CATEGORY!r}.", severity=Severity.WARNING)  # fmt: skip
        return Annotation(identifier, category or DEFAULT_CATEGORY, Polygons((ring,)), where=where)

    def _report(
        self,
        code: str,
        message: str,
        where: str,
        image: str | None,
        annotation: str | None,
        repair: str,
        error: DataError | None = None,
        severity: Severity = Severity.ERROR,
    ) -> None:
        issue = Issue(code, severity, message, repair, str(self._file), image, annotation, where)
        self._on_issue(issue.caused_by(error) if error else issue)


def _regions(value: Any) -> list[Any]:
    """A list in VIA 2, an object of numbered regions in VIA 1."""
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def _ring(shape: dict[str, Any]) -> tuple[float, ...]:
    kind = shape.get("name")
    if kind == "polygon":
        xs, ys = numbers(shape.get("all_points_x")), numbers(shape.get("all_points_y"))
        if xs is None or ys is None or len(xs) != len(ys):
            raise _unusable("polygon-coordinates", "coordinates that are not two lists of finite numbers, equally long")
        if len(xs) < 3:
            raise _unusable("polygon-points", f"a polygon of {len(xs)} points")
        return tuple(value for point in zip(xs, ys, strict=True) for value in point)
    wanted = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }.get(str(kind))
    if wanted is None:
        raise _unusable("shape-without-area", f"a {kind!r}, which has no area")
    values = [number(shape.get(name)) for name in wanted]
    if any(value is None for value in values):
        raise _unusable("polygon-coordinates", f"a {kind} without the numbers {', '.join(wanted)}")
    x, y, first, *second = (value for value in values if value is not None)
    if kind == "rect":
        return rectangle((x, y, x + first, y + second[0]))
    return ellipse(x, y, first, second[0] if second else first, number(shape.get("theta")) or 0.0)


def _category_attribute(images: dict[str, Any]) -> str | None:
    """The region attribute that most regions fill in; of equals the first in the alphabet."""
    filled: Counter[str] = Counter()
    for entry in images.values():
        for region in _regions(cast("dict[str, Any]", entry).get("regions")) if isinstance(entry, dict) else []:
            attributes = cast("dict[str, Any]", region).get("region_attributes") if isinstance(region, dict) else None
            if isinstance(attributes, dict):
                filled.update(key for key in cast("dict[str, Any]", attributes) if _category(attributes, key))
    return min(filled, key=lambda key: (-filled[key], key), default=None)


def _category(attributes: Any, attribute: str | None) -> str | None:
    """The value of an attribute; of a checkbox, which is an object of truths, the ticked names."""
    value: Any = cast("dict[str, Any]", attributes).get(attribute or "") if isinstance(attributes, dict) else None
    if isinstance(value, dict):
        ticked = [key for key, is_set in cast("dict[str, Any]", value).items() if is_set]
        return "+".join(sorted(ticked)) or None
    return category_name(value)


def _unusable(code: str, found: str) -> SegmentationError:
    error = SegmentationError.of(expected="a region with an area", found=found)
    error.code = code
    return error
