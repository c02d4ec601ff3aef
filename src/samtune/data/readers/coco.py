"""COCO JSON: Roboflow export folders, or one annotation file with an image folder, with the habits of real exporters.

Known habits: a placeholder category 0 that nothing uses; boxes with numbers as text; polygons, several polygons,
compressed and uncompressed RLE in one file; `[]`; a polygon of four numbers that is a box; `iscrowd: true`; ids that
repeat; annotations of images or categories that do not exist.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from samtune.data.masks import parse_counts
from samtune.data.paths import confine
from samtune.data.split import group_of
from samtune.errors import DataError
from samtune.types import Annotation, Box, ImageRecord, Issue, Polygons, RunLengths, Segmentation, Severity, Split

ANNOTATIONS = "_annotations.coco.json"
SPLIT_FOLDERS = {
    "train": Split.TRAIN,
    "valid": Split.VALID,
    "val": Split.VALID,
    "validation": Split.VALID,
    "test": Split.TEST,
}
MAX_JSON_BYTES = 4 << 30

OnIssue = Callable[[Issue], None]
_Json = Mapping[str, Any]


def is_coco(source: Path) -> bool:
    """Whether a source looks like COCO: an export's split folders, or one JSON file with COCO's lists."""
    if source.is_dir() and any((source / name / ANNOTATIONS).is_file() for name in SPLIT_FOLDERS):
        return True
    file = _single_file(source)
    return file is not None and _looks_like_coco(file)


def read_coco(source: Path, images: Path | None, on_issue: OnIssue) -> Iterator[ImageRecord]:
    """Read COCO annotations.

    Args:
        source: export folder, folder with one JSON file, or the JSON file itself.
        images: image folder, when the JSON file stands elsewhere.
        on_issue: told of every image and annotation that could not be read, and why.

    Yields:
        Every image, in the file's order, with the annotations that could be read.

    Raises:
        DataError: a file that is missing, no JSON, or no COCO.
    """
    splits = {name: source / name / ANNOTATIONS for name in SPLIT_FOLDERS} if source.is_dir() else {}
    found = {name: file for name, file in splits.items() if file.is_file()}
    if not found:
        file = _single_file(source)
        if file is None:
            raise DataError.of(
                expected="a COCO export folder, or one JSON file",
                found="neither",
                where=str(source),
                do="give the JSON file itself",
            )
        root = images or _image_folder(file)
        yield from _Reader(file, root, Split.TRAIN, on_issue).records()
        return
    for name, file in found.items():
        yield from _Reader(file, images or file.parent, SPLIT_FOLDERS[name], on_issue).records()


@dataclass(frozen=True, slots=True)
class _Reader:
    """One annotation file."""

    file: Path
    root: Path
    split: Split
    on_issue: OnIssue

    def records(self) -> Iterator[ImageRecord]:
        content = _load(self.file)
        categories = self._categories(_list(content, "categories", self.file, required=False))
        images = _list(content, "images", self.file)
        known = {_key(image.get("id")) for image in images}
        by_image: dict[str, list[Annotation]] = {}
        seen: set[str] = set()
        for index, entry in enumerate(_list(content, "annotations", self.file, required=False)):
            where = f"annotations[{index}]"
            image_id = _key(entry.get("image_id"))
            if image_id not in known:
                self._issue(
                    "unknown-image", f"names image {entry.get('image_id')!r}, which is not listed", entry, where
                )
                continue
            annotation = self._annotation(entry, where, categories, seen)
            if annotation is not None:
                by_image.setdefault(image_id, []).append(annotation)
        taken: set[str] = set()
        for index, image in enumerate(images):
            record = self._image(image, f"images[{index}]", by_image, taken)
            if record is not None:
                yield record

    def _image(
        self, image: _Json, where: str, by_image: Mapping[str, list[Annotation]], taken: set[str]
    ) -> ImageRecord | None:
        image_id = _key(image.get("id"))
        if image_id in taken:
            self._issue("duplicate-image-id", f"has the id {image_id} of an earlier image", None, where)
            return None
        taken.add(image_id)
        try:
            path = confine(self.root, image.get("file_name"), where=f"{self.file}, {where}.file_name")
        except DataError as error:
            self._issue("unsafe-file-name", str(error).splitlines()[1].removeprefix("found    "), None, where)
            return None
        name = str(image["file_name"])
        return ImageRecord(
            image_id=image_id,
            path=path,
            width=_size(image.get("width")),
            height=_size(image.get("height")),
            split=self.split,
            annotations=tuple(by_image.get(image_id, ())),
            group=group_of(name.replace("\\", "/")),
            source=self.file,
        )

    def _annotation(self, entry: _Json, where: str, categories: Mapping[str, str], seen: set[str]) -> Annotation | None:
        category = categories.get(_key(entry.get("category_id")))
        if category is None:
            self._issue(
                "unknown-category", f"names category {entry.get('category_id')!r}, which is not listed", entry, where
            )
            return None
        try:
            segmentation = _segmentation(entry.get("segmentation"))
        except _UnreadableError as error:
            self._issue(error.code, str(error), entry, f"{where}.segmentation")
            return None
        except DataError as error:
            self._issue("bad-segmentation", str(error).splitlines()[1].removeprefix("found    "), entry, where)
            return None
        annotation_id = _key(entry.get("id"))
        if "id" not in entry or annotation_id in seen:
            annotation_id = f"{annotation_id}@{where.removeprefix('annotations')[1:-1]}"
        seen.add(annotation_id)
        return Annotation(
            annotation_id=annotation_id,
            category=category,
            segmentation=segmentation,
            box=_box(entry.get("bbox")),
            area=_number(entry.get("area")),
            iscrowd=bool(_number(entry.get("iscrowd", 0))),
            where=where,
        )

    def _categories(self, entries: Sequence[_Json]) -> dict[str, str]:
        names: dict[str, str] = {}
        for index, entry in enumerate(entries):
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                self._issue("category-without-name", f"has the name {name!r}", None, f"categories[{index}]")
                continue
            names[_key(entry.get("id"))] = name
        return names

    def _issue(self, code: str, found: str, annotation: _Json | None, where: str) -> None:
        subject = "image" if where.startswith("images") else "category" if where.startswith("cat") else "annotation"
        self.on_issue(
            Issue(
                code=code,
                severity=Severity.ERROR,
                message=f"This {subject} {found}.",
                repair=f"The {subject} is left out.",
                file=str(self.file),
                annotation=_key(annotation.get("id")) if annotation is not None else None,
                where=where,
            )
        )


class _UnreadableError(Exception):
    """A segmentation that is none; `code` is the issue's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _segmentation(value: Any) -> Segmentation:
    if isinstance(value, Mapping):
        return _run_lengths(cast("_Json", value))
    if not isinstance(value, list) or not value:
        raise _UnreadableError("no-segmentation", "has no outline, only a box" if not value else "has no outline")
    rings = cast("list[Any]", value)
    if not any(isinstance(ring, list) for ring in rings):
        rings = [rings]
    return Polygons(tuple(_ring(ring) for ring in rings))


def _ring(value: Any) -> tuple[float, ...]:
    numbers = [_number(part) for part in cast("list[Any]", value)] if isinstance(value, list) else []
    if not numbers or any(number is None for number in numbers):
        raise _UnreadableError("polygon-not-numbers", "has a polygon that is no list of numbers")
    ring = tuple(cast("list[float]", numbers))
    if len(ring) == 4:  # x, y, width, height, as some exporters write a box where a polygon belongs
        x, y, width, height = ring
        return (x, y, x + width, y, x + width, y + height, x, y + height)
    if len(ring) < 6 or len(ring) % 2:
        raise _UnreadableError("polygon-too-short", f"has a polygon of {len(ring)} numbers; three points are the least")
    return ring


def _run_lengths(value: _Json) -> RunLengths:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(cast("list[Any]", size)) != 2:
        raise _UnreadableError("rle-size", f"has run lengths of size {size!r}; height and width are needed")
    height, width = (_size(part) for part in cast("list[Any]", size))
    if isinstance(counts, str):
        return parse_counts(counts, height, width)
    if not isinstance(counts, list):
        raise _UnreadableError("rle-counts", "has run lengths without counts")
    numbers = [_number(part) for part in cast("list[Any]", counts)]
    if any(number is None or number != int(number) for number in numbers):
        raise _UnreadableError("rle-counts", "has run lengths that are no whole numbers")
    return RunLengths(tuple(int(cast("float", number)) for number in numbers), height, width)


def _number(value: Any) -> float | None:
    """A finite number; exporters also write them as text, and true for 1."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _size(value: Any) -> int:
    number = _number(value)
    return int(number) if number is not None and 0 < number <= 1 << 20 else 0


def _box(value: Any) -> Box | None:
    parts = [_number(part) for part in cast("list[Any]", value)] if isinstance(value, list) else []
    if len(parts) != 4 or any(part is None for part in parts):
        return None
    x, y, width, height = cast("list[float]", parts)
    return x, y, x + width, y + height


def _key(value: Any) -> str:
    """An id as text; 7, 7.0 and "7" are the same id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _load(file: Path) -> _Json:
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise DataError.of(expected="at most 4 GiB of JSON", found="more", where=str(file))
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        found = str(error) or type(error).__name__
        raise DataError.of(
            expected="a JSON file", found=found, where=str(file), do="export the annotations again"
        ) from error
    if not isinstance(content, dict):
        raise DataError.of(expected="a COCO file, an object with images and annotations", found="none", where=str(file))
    return cast("_Json", content)


def _list(content: _Json, name: str, file: Path, *, required: bool = True) -> list[_Json]:
    value = content.get(name, None if required else [])
    entries = cast("list[Any]", value) if isinstance(value, list) else None
    if entries is None or not all(isinstance(entry, dict) for entry in entries):
        raise DataError.of(expected="a list of objects", found=type(value).__name__, where=f"{file}, {name}")
    return cast("list[_Json]", entries)


def _single_file(source: Path) -> Path | None:
    if source.is_file() and source.suffix.lower() == ".json":
        return source
    if not source.is_dir():
        return None
    found = sorted(path for path in (*source.glob("*.json"), *source.glob("annotations/*.json")) if path.is_file())
    return found[0] if len(found) == 1 else None


def _image_folder(file: Path) -> Path:
    """Where the images of a single annotation file are: beside it, or in `images/` beside it or its folder."""
    for folder in (file.parent / "images", file.parent.parent / "images"):
        if folder.is_dir():
            return folder
    return file.parent


def _looks_like_coco(file: Path) -> bool:
    """A look at the start of the file: COCO files have `images`, and LabelMe's, VIA's and SA-1B's do not."""
    try:
        content = _load(file)
    except DataError:
        return False
    return isinstance(content.get("images"), list)
