"""COCO instance annotations: a Roboflow export folder, or one JSON with an image folder beside, below or elsewhere.

The file is read twice. The first pass keeps the image entries and where each annotation stands; the second fetches the
annotations image by image. So memory grows with the number of images and 20 bytes an annotation, not with the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from samtune.data.masks import SegmentationError, parse_counts
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    ImageFinder,
    OnIssue,
    category_name,
    holds_text,
    number,
    numbers,
    rectangle,
    require_source,
    split_folders,
    split_named,
    unique,
    whole_number,
    xywh_to_box,
)
from samtune.data.readers.detect import ROBOFLOW_NAME, json_files, json_kind
from samtune.data.readers.stream import decode, open_json, parts
from samtune.errors import DataError
from samtune.types import Annotation, Box, ImageRecord, Issue, Polygons, RunLengths, Segmentation, Severity, Split

_REQUIRED = ("images", "annotations", "categories")


def read_coco(path: Path, *, images: Path | None = None, on_issue: OnIssue) -> Iterator[ImageRecord]:
    """Read a COCO dataset.

    Args:
        path: a Roboflow export (`train|valid|test/_annotations.coco.json`), another folder with COCO files, or a file.
        images: folder that `file_name` is relative to, when the images stand elsewhere.
        on_issue: called for each finding; annotations reported as errors are left out.

    Yields:
        The images in the file's order with their annotations in the file's order.

    Raises:
        DataError: no file, not COCO, broken JSON; the message names file, field and line.
    """
    require_source(path)
    files = coco_files(path)
    if not files:
        raise DataError.of(expected=f"COCO annotations: {ROBOFLOW_NAME} or another JSON", found="none", where=str(path))
    ids: dict[str, object] = {}
    for split, file in files:
        index = _Index.of(file, on_issue)
        _compare_ids(ids, index, on_issue)
        finder = ImageFinder([images] if images else _image_folders(file, path))
        yield from _Reader(index, finder, split, on_issue).records()


def coco_files(path: Path) -> list[tuple[Split, Path]]:
    """The COCO files of a source with the split each stands for; train where nothing tells.

    Looks for Roboflow's name first, then for any JSON, in the folders named after splits, in `annotations`, and in the
    folder itself.
    """
    if path.is_file():
        return [(split_named(path.stem) or split_named(path.parent.name) or Split.TRAIN, path)]
    roboflow = [(split, folder / ROBOFLOW_NAME) for split, folder in split_folders(path)]
    roboflow = [(split, file) for split, file in roboflow if file.is_file()]
    if roboflow:
        return roboflow
    if (path / ROBOFLOW_NAME).is_file():
        return [(split_named(path.name) or Split.TRAIN, path / ROBOFLOW_NAME)]
    found: list[tuple[Split, Path]] = []
    for split, folder in split_folders(path):
        found += [(split, file) for file in json_files(folder)]
    for folder in (path / "annotations", path):
        if not found and folder.is_dir():
            found = [(split_named(file.stem) or Split.TRAIN, file) for file in json_files(folder)]
    return [(split, file) for split, file in found if json_kind(file) == "coco"]


def _image_folders(file: Path, source: Path) -> list[Path]:
    """Where images of a JSON may be, likeliest first, all within the source or, for a single file, beside it."""
    above = file.parent.parent
    name = split_named(file.stem)
    folders = [file.parent, file.parent / "images"]
    if source.is_file() or file.parent != source:
        named = sorted(folder for folder in (above, above / "images") if folder.is_dir())
        for folder in named:
            folders += [
                inner
                for inner in sorted(folder.iterdir())
                if inner.is_dir() and name and split_named(inner.name) is name
            ]
        folders += [above / "images", above]
    return [folder for folder in folders if folder.is_dir()]


@dataclass
class _Entry:
    """An image as listed."""

    image_id: str
    name: object
    width: int
    height: int
    where: str


@dataclass
class _Index:
    """What the first pass keeps of a file."""

    file: Path
    entries: list[_Entry] = field(default_factory=lambda: list[_Entry]())
    categories: dict[object, str] = field(default_factory=lambda: dict[object, str]())
    position_of: dict[object, int] = field(default_factory=lambda: dict[object, int]())
    owner: array[int] = field(default_factory=lambda: array("q"))
    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    used: set[object] = field(default_factory=lambda: set[object]())

    @classmethod
    def of(cls, file: Path, on_issue: OnIssue) -> _Index:
        index = cls(file)
        missing = set(_REQUIRED)
        names: dict[object, int] = {}
        image_keys: dict[object, int] = {}
        owners: list[object] = []
        owner_number: dict[object, int] = {}
        for part in parts(file):
            missing.discard(part.key)
            if part.key not in _REQUIRED:
                continue
            if part.index is None:
                if part.value != []:
                    raise _bad_field(file, part.key, f"a {_type_name(part.value)}")
                continue
            where = f"{part.key}[{part.index}]"
            value = cast("object", part.value)
            if not isinstance(value, dict):
                text = f"The entry is a {type(value).__name__}, not an object."
                on_issue(_issue(file, f"{part.key}-entry", text, where))
                continue
            entry = cast("dict[str, Any]", value)
            if part.key == "categories":
                index._add_category(entry, where, on_issue)
            elif part.key == "images":
                index._add_image(entry, where, names, image_keys, on_issue)
            else:
                key = id_key(entry.get("image_id"))
                if key not in owner_number:
                    owner_number[key] = len(owners)
                    owners.append(key)
                index.owner.append(owner_number[key])
                index.start.append(part.start)
                index.length.append(part.end - part.start)
                index.used.add(id_key(entry.get("category_id")))
        if missing:
            raise _bad_field(file, sorted(missing)[0], "no such field")
        index._settle(owners, image_keys)
        index._report_categories(on_issue)
        return index

    def _add_category(self, entry: dict[str, Any], where: str, on_issue: OnIssue) -> None:
        key, name = id_key(entry.get("id")), category_name(entry.get("name"))
        if key is None or name is None:
            on_issue(_issue(self.file, "category-invalid", "The category has no id or no name.", where))
        elif key in self.categories and self.categories[key] != name:
            text = f"Category id {key} stands for {self.categories[key]!r} and again for {name!r}."
            on_issue(_issue(self.file, "category-id-duplicate", text, where, repair="The first name is used.",
                            severity=Severity.WARNING))  # fmt: skip
        else:
            self.categories[key] = name

    def _add_image(
        self, entry: dict[str, Any], where: str, names: dict[object, int], keys: dict[object, int], on_issue: OnIssue
    ) -> None:
        key, name = id_key(entry.get("id")), entry.get("file_name")
        label = name if isinstance(name, str) else None
        if key is None:
            on_issue(
                _issue(self.file, "image-id-invalid", f"The image's id is {entry.get('id')!r}.", where, image=label)
            )
            return
        if key in keys:
            same = self.entries[keys[key]].name == name
            text = f"Image id {key} is listed twice" + ("." if same else f", for {self.entries[keys[key]].name!r} too.")
            repair = "The second entry is left out."
            severity = Severity.WARNING if same else Severity.ERROR
            on_issue(
                _issue(self.file, "image-id-duplicate", text, where, image=label, repair=repair, severity=severity)
            )
            return
        if isinstance(name, str) and name in names:
            text = f"The file is listed twice, as image {self.entries[names[name]].image_id} and {key}."
            on_issue(_issue(self.file, "image-duplicate", text, where, image=label, severity=Severity.WARNING,
                            repair="Both entries' objects are taken as one image's."))  # fmt: skip
            keys[key] = names[name]
            return
        width, height = _size(entry.get("width")), _size(entry.get("height"))
        if not width or not height:
            text = f"The size is given as {entry.get('width')!r} x {entry.get('height')!r}."
            on_issue(_issue(self.file, "image-size-invalid", text, where, image=label, severity=Severity.WARNING,
                            repair="The size of the image file is used."))  # fmt: skip
            width = height = 0
        keys[key] = len(self.entries)
        if isinstance(name, str):
            names[name] = len(self.entries)
        self.entries.append(_Entry(str(key), name, width, height, where))

    def _settle(self, owners: list[object], image_keys: dict[object, int]) -> None:
        """Turn owners numbered as they came into positions of images, -1 for those that no image has."""
        if self.owner:
            table = np.array([image_keys.get(key, -1) for key in owners], np.int64)
            self.owner = array("q", table[np.frombuffer(self.owner, np.int64)].tobytes())

    def _report_categories(self, on_issue: OnIssue) -> None:
        by_name: dict[str, list[object]] = {}
        for key, name in self.categories.items():
            if key in self.used:
                by_name.setdefault(name, []).append(key)
            elif key == 0:
                text = f"Category 0, {name!r}, has no annotation; exporters write it as a placeholder."
                on_issue(_issue(self.file, "category-placeholder", text, "categories", repair="It is dropped.",
                                severity=Severity.INFO))  # fmt: skip
            else:
                text = f"Category {key}, {name!r}, has no annotation."
                on_issue(_issue(self.file, "category-unused", text, "categories", severity=Severity.INFO))
        self._report_gaps(on_issue)
        for name, keys in by_name.items():
            if len(keys) > 1:
                text = f"Categories {', '.join(map(str, keys))} are all named {name!r}."
                on_issue(_issue(self.file, "category-name-duplicate", text, "categories", severity=Severity.WARNING,
                                repair="They are taken as one."))  # fmt: skip

    def _report_gaps(self, on_issue: OnIssue) -> None:
        """Report ids that are not consecutive: programs that take an id for a position mix up the classes."""
        ids = sorted(key for key in self.categories if isinstance(key, int))
        gaps = [(low + 1, high - 1) for low, high in pairwise(ids) if high - low > 1]
        if gaps:
            low, high = gaps[0]
            text = f"Category ids run from {ids[0]} to {ids[-1]} with gaps, the first from {low} to {high}."
            on_issue(_issue(self.file, "category-id-gaps", text, "categories", severity=Severity.INFO,
                            repair="Categories are told apart by name."))  # fmt: skip


class _Reader:
    """The second pass: one record per image."""

    def __init__(self, index: _Index, finder: ImageFinder, split: Split, on_issue: OnIssue) -> None:
        self._index, self._finder, self._split, self._on_issue = index, finder, split, on_issue
        self._ids: set[str] = set()

    def records(self) -> Iterator[ImageRecord]:
        index = self._index
        owner = np.frombuffer(index.owner, np.int64) if index.owner else np.empty(0, np.int64)
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(-1, len(index.entries) + 1))
        with open_json(index.file) as file:
            for place in order[: bounds[1]].tolist():
                self._report_orphan(self._fetch(file, place), place)
            for position, entry in enumerate(index.entries):
                places = order[bounds[position + 1] : bounds[position + 2]].tolist()
                record = self._record(entry, [(place, self._fetch(file, place)) for place in places])
                if record is not None:
                    yield record

    def _fetch(self, file: BinaryIO, place: int) -> dict[str, Any]:
        file.seek(self._index.start[place])
        return decode(file.read(self._index.length[place]), self._index.file)

    def _report_orphan(self, raw: dict[str, Any], place: int) -> None:
        text = f"The annotation is for image {raw.get('image_id')!r}, which the file does not list."
        self._report("annotation-without-image", text, f"annotations[{place}].image_id", None, raw)

    def _report(self, code: str, message: str, where: str, image: str | None, raw: dict[str, Any], **more: Any) -> None:
        severity: Severity = more.get("severity", Severity.ERROR)
        repair: str = more.get("repair", "The object is left out." if severity is Severity.ERROR else "")
        identifier = str(id_key(raw.get("id")) or place_number(where))
        issue = _issue(self._index.file, code, message, where, image=image, annotation=identifier,
                       repair=repair, severity=severity)  # fmt: skip
        self._on_issue(issue.caused_by(more["error"]) if "error" in more else issue)

    def _record(self, entry: _Entry, found: list[tuple[int, dict[str, Any]]]) -> ImageRecord | None:
        name = entry.name if isinstance(entry.name, str) else None
        try:
            path = self._finder.find(entry.name, where=f"{self._index.file}, {entry.where}.file_name")
        except DataError as error:
            text = f"The image's file name cannot be used: {error.found}."
            repair = f"The image and its {len(found)} objects are left out."
            where = f"{entry.where}.file_name"
            issue = _issue(self._index.file, "image-path", text, where, image=name, repair=repair)
            self._on_issue(issue.caused_by(error))
            for place, raw in found:
                self._report("image-path", "The object's image cannot be used.", f"annotations[{place}]", name, raw)
            return None
        annotations = [self._annotation(raw, place, name) for place, raw in found]
        return ImageRecord(
            image_id=entry.image_id,
            path=path,
            width=entry.width,
            height=entry.height,
            split=self._split,
            annotations=tuple(annotation for annotation in annotations if annotation is not None),
            group=group_of(str(entry.name).replace("\\", "/")),
            source=self._index.file,
        )

    def _annotation(self, raw: dict[str, Any], place: int, image: str | None) -> Annotation | None:
        where = f"annotations[{place}]"
        category = self._index.categories.get(id_key(raw.get("category_id")))
        if category is None:
            text = f"The category is {raw.get('category_id')!r}, which the file does not list."
            self._report("category-unknown", text, f"{where}.category_id", image, raw)
            return None
        box = xywh_to_box(raw.get("bbox"))
        if box is None and raw.get("bbox") not in (None, []):
            text = f"The box is {_short(raw.get('bbox'))}, not four numbers."
            self._report("box-invalid", text, f"{where}.bbox", image, raw, severity=Severity.WARNING,
                         repair="The box is computed from the mask.")  # fmt: skip
        notes: list[tuple[str, str, str]] = []
        if holds_text(raw.get("bbox")):
            notes.append(("numbers-as-text", "Box values are texts, not numbers.", f"{where}.bbox"))
        try:
            segmentation = parse_segmentation(raw.get("segmentation"), box, where, notes)
        except SegmentationError as error:
            text = f"The shape cannot be read: {error.found}."
            self._report(error.code, text, f"{where}.segmentation", image, raw, error=error)
            return None
        for code, text, spot in notes:
            self._report(code, text, spot, image, raw, severity=Severity.WARNING, repair="Read as described.")
        return Annotation(
            annotation_id=self._identifier(raw, place, image),
            category=category,
            segmentation=segmentation,
            box=box,
            area=number(raw.get("area")),
            iscrowd=_truth(raw.get("iscrowd")),
            where=where,
        )

    def _identifier(self, raw: dict[str, Any], place: int, image: str | None) -> str:
        key = id_key(raw.get("id"))
        wanted = str(place if key is None else key)
        chosen = unique(wanted, self._ids)
        if key is None or chosen != wanted:
            text = "The annotation has no id." if key is None else f"Annotation id {wanted} is used twice."
            self._report("annotation-id", text, f"annotations[{place}].id", image, raw, severity=Severity.WARNING,
                         repair=f"It is called {chosen}.")  # fmt: skip
        return chosen


def parse_segmentation(
    value: Any, box: Box | None, where: str, notes: list[tuple[str, str, str]]
) -> Segmentation | None:
    """Read COCO's `segmentation`: polygons, run lengths as a list or compressed, or nothing.

    Args:
        value: as parsed from JSON.
        box: the annotation's box xyxy, to tell a box that was written as a polygon of four numbers.
        where: place of the annotation in its file.
        notes: gets (code, message, place) for what was read although it is not as it should be.

    Returns:
        None where there is no shape, which means the object has a box only.

    Raises:
        SegmentationError: a shape that cannot be read.
    """
    if value is None or value in ([], {}):
        return None
    if isinstance(value, dict):
        return _run_lengths(cast("dict[str, Any]", value))
    if not isinstance(value, list):
        raise _unreadable("segmentation-invalid", f"a {type(value).__name__}")
    return _polygons(cast("list[Any]", value), box, f"{where}.segmentation", notes)


def _run_lengths(value: dict[str, Any]) -> RunLengths:
    size = value.get("size")
    sides = [whole_number(side) for side in cast("list[Any]", size)] if isinstance(size, list) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        raise _unreadable("rle-size", f"size {_short(size)}, not [height, width]")
    height, width = sides[0], sides[1]
    counts: Any = value.get("counts")
    if isinstance(counts, str):
        return parse_counts(counts, height, width)
    if not isinstance(counts, list):
        raise _unreadable("rle-counts", f"counts of type {type(counts).__name__}")
    whole = [whole_number(count) for count in cast("list[Any]", counts)]
    if any(count is None for count in whole):
        raise _unreadable("rle-counts", "counts that are not whole numbers")
    return RunLengths(tuple(count for count in whole if count is not None), height, width)


def _polygons(value: list[Any], box: Box | None, where: str, notes: list[tuple[str, str, str]]) -> Polygons:
    rings: list[Any] = value
    if not any(isinstance(item, list) for item in value):
        notes.append(("polygon-flat", "The polygon is not in a list of polygons; taken as the only one.", where))
        rings = [value]
    elif len(value) >= 3 and all(isinstance(item, list) and len(cast("list[Any]", item)) == 2 for item in value):
        notes.append(("polygon-pairs", "The points are pairs; taken as one polygon.", where))
        rings = [[coordinate for point in value for coordinate in point]]
    elif isinstance(value[0], list) and any(isinstance(item, list) for item in cast("list[Any]", value[0])):
        raise _unreadable("segmentation-invalid", "lists nested deeper than polygons")
    usable: list[tuple[float, ...]] = []
    problems: list[SegmentationError] = []
    for position, ring in enumerate(rings):
        spot = f"{where}[{position}]"
        try:
            usable.append(_ring(ring, box, spot, notes))
        except SegmentationError as error:
            problems.append(error)
            notes.append(("polygon-dropped", f"One of {len(rings)} polygons is left out: {error.found}.", spot))
    if not usable:
        raise problems[0]
    return Polygons(tuple(usable))


def _ring(ring: Any, box: Box | None, where: str, notes: list[tuple[str, str, str]]) -> tuple[float, ...]:
    values = numbers(ring)
    if values is None:
        raise _unreadable("polygon-coordinates", "a value that is not a finite number", where)
    if holds_text(ring):
        notes.append(("numbers-as-text", "Coordinates are texts, not numbers.", where))
    if len(values) == 4 and box is not None:
        x, y, third, fourth = values
        for corners in ((x, y, x + third, y + fourth), (x, y, third, fourth)):
            if max(abs(one - other) for one, other in zip(corners, box, strict=True)) <= 1:
                notes.append(("polygon-is-box", "The polygon is the box written as four numbers.", where))
                return rectangle(corners)
    if len(values) < 6 or len(values) % 2:
        raise _unreadable("polygon-points", f"{len(values)} numbers, not at least 3 points of two", where)
    return values


def id_key(value: Any) -> int | str | None:
    """An id that compares equal however it was written: 7, "7" and 7.0 are one; None for what is no id."""
    whole = whole_number(value) if not isinstance(value, str) or value.strip().isdigit() else None
    if whole is not None:
        return whole
    return value if isinstance(value, str) and value else None


def place_number(where: str) -> str:
    """The number in a place such as `annotations[17].id`."""
    return where.partition("[")[2].partition("]")[0]


def _size(value: Any) -> int:
    side = whole_number(value)
    return side if side is not None and 0 < side < 1 << 31 else 0


def _truth(value: Any) -> bool:
    return value is True or number(value) not in (None, 0.0) or (isinstance(value, str) and value.lower() == "true")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unreadable(code: str, found: str, where: str | None = None) -> SegmentationError:
    error = SegmentationError.of(expected="a COCO segmentation", found=found, where=where)
    error.code = code
    return error


def _issue(
    file: Path,
    code: str,
    message: str,
    where: str,
    *,
    image: str | None = None,
    annotation: str | None = None,
    repair: str = "",
    severity: Severity = Severity.ERROR,
) -> Issue:
    return Issue(code, severity, message, repair, str(file), image, annotation, where)


def _bad_field(file: Path, key: str, found: str) -> DataError:
    return DataError.of(
        expected=f"a COCO file with a list {key!r}",
        found=found,
        where=str(file),
        do="check the export, or --source-format",
    )


def _compare_ids(ids: dict[str, object], index: _Index, on_issue: OnIssue) -> None:
    """Report a category name that has another id in an earlier split's file."""
    for key, name in index.categories.items():
        if key not in index.used:
            continue
        if ids.setdefault(name, key) != key:
            text = f"Category {name!r} has id {key} here and {ids[name]} in another split."
            on_issue(_issue(index.file, "category-id-differs", text, "categories", severity=Severity.WARNING,
                            repair="Categories are told apart by name."))  # fmt: skip


def _type_name(value: object) -> str:
    return type(value).__name__
