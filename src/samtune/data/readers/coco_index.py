"""The first pass over a COCO file: its image entries and categories, and where in the file each annotation stands.

Of an annotation 29 bytes are kept, whatever it holds, so memory grows with the number of images, not with the file.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from samtune.data.readers.common import DEFAULT_CATEGORY, OnIssue, category_name, number, whole_number
from samtune.data.readers.files import spellings
from samtune.data.readers.stream import decode, parts
from samtune.errors import DataError
from samtune.types import Issue, Severity

_REQUIRED = ("images", "annotations", "categories")


@dataclass(frozen=True, slots=True)
class CocoImageEntry:
    """An image as listed.

    Attributes:
        image_id: its id as text.
        name: `file_name`, whatever that holds.
        width, height: pixels as stated, 0 where that is no size.
        where: its place in the file, such as `images[3]`.
    """

    image_id: str
    name: object
    width: int
    height: int
    where: str


@dataclass
class CocoIndex:
    """What the first pass keeps of a file; built by `read_index`.

    Attributes:
        file: the COCO file.
        entries: the images in the file's order, each file name once.
        categories: names by id.
        used: category ids that annotations have.
        owner: by annotation, the position of its image in `entries`, -1 where the file does not list that image.
        category: by annotation, the position of its category id in `category_ids`.
        crowd: by annotation, 1 where `iscrowd` is set.
        start, length: by annotation, its place in the file, in bytes.
        from_cvat: annotations carry `attributes.occluded`, which CVAT writes and COCO does not know.
        issues: findings about images and categories.
    """

    file: Path
    entries: list[CocoImageEntry] = field(default_factory=lambda: list[CocoImageEntry]())
    categories: dict[object, str] = field(default_factory=lambda: dict[object, str]())
    category_ids: list[object] = field(default_factory=lambda: list[object]())
    owner: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("i"))
    crowd: bytearray = field(default_factory=bytearray)
    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    from_cvat: bool = False
    issues: list[Issue] = field(default_factory=lambda: list[Issue]())

    @property
    def used(self) -> set[object]:
        """Ids of the categories that annotations have."""
        return set(self.category_ids)

    @property
    def used_names(self) -> set[str]:
        """Names of the categories that annotations have."""
        return {name for name in map(self.category_name, self.category_ids) if name is not None}

    def category_name(self, value: object) -> str | None:
        """A category's name by its id as written; None where the file lists categories, but not this one."""
        key = id_key(value)
        if self.categories:
            return self.categories.get(key)
        return DEFAULT_CATEGORY if len(self.category_ids) < 2 or key is None else str(key)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Annotations sorted by image, and where in that order each image begins; in front those without an image."""
        owner = np.frombuffer(self.owner, np.int64) if self.owner else np.empty(0, np.int64)
        order = np.argsort(owner, kind="stable")
        return order, np.searchsorted(owner[order], np.arange(-1, len(self.entries) + 1))

    def places(self, position: int) -> list[int]:
        """Positions of the annotations of the image at a position; of those without an image for -1."""
        order, bounds = self._sorted
        found: list[int] = order[bounds[position + 1] : bounds[position + 2]].tolist()
        return found

    def fetch(self, file: BinaryIO, position: int) -> dict[str, Any]:
        """One annotation as it stands in the file."""
        file.seek(self.start[position])
        return decode(file.read(self.length[position]), self.file)


def read_index(file: Path) -> CocoIndex:
    """Read a COCO file for the first time.

    Raises:
        DataError: not COCO, or broken JSON; the message names file, field and line.
    """
    builder = _Builder(CocoIndex(file))
    missing = set(_REQUIRED)
    for part in parts(file):
        missing.discard(part.key)
        if part.key not in _REQUIRED:
            continue
        if part.index is None:
            if part.value != []:
                raise _bad_field(file, part.key, f"a {type(part.value).__name__}")
            continue
        where = f"{part.key}[{part.index}]"
        value = cast("object", part.value)
        if not isinstance(value, dict):
            builder.report(f"{part.key}-entry", f"The entry is a {type(value).__name__}, not an object.", where)
            continue
        entry = cast("dict[str, Any]", value)
        if part.key == "categories":
            builder.add_category(entry, where)
        elif part.key == "images":
            builder.add_image(entry, where)
        else:
            builder.add_annotation(entry, part.start, part.end)
    if builder.index.owner:
        missing.discard("categories")
    if missing:
        raise _bad_field(file, sorted(missing)[0], "no such field")
    return builder.finished()


class _Builder:
    """Fills an index entry by entry."""

    def __init__(self, index: CocoIndex) -> None:
        self.index = index
        self._names: dict[object, int] = {}
        self._keys: dict[object, int] = {}
        self._owners: dict[object, int] = {}
        self._categories: dict[object, int] = {}

    def report(self, code: str, message: str, where: str, **more: Any) -> None:
        """Keep a finding; `image`, `repair` and `severity` may be given."""
        self.index.issues.append(coco_issue(self.index.file, code, message, where, **more))

    def add_category(self, entry: dict[str, Any], where: str) -> None:
        """Take an entry of `categories`."""
        known = self.index.categories
        key, name = id_key(entry.get("id")), category_name(entry.get("name"))
        if key is None or name is None:
            self.report("category-invalid", "The category has no id or no name.", where)
        elif key in known and known[key] != name:
            text = f"Category id {key} stands for {known[key]!r} and again for {name!r}."
            self.report("category-id-duplicate", text, where, repair="The first name is used.",
                        severity=Severity.WARNING)  # fmt: skip
        else:
            known[key] = name

    def add_annotation(self, entry: dict[str, Any], start: int, end: int) -> None:
        """Take the place of an entry of `annotations`."""
        index = self.index
        category = id_key(entry.get("category_id"))
        index.owner.append(self._owners.setdefault(id_key(entry.get("image_id")), len(self._owners)))
        index.category.append(self._categories.setdefault(category, len(self._categories)))
        index.crowd.append(is_crowd(entry.get("iscrowd")))
        index.start.append(start)
        index.length.append(end - start)
        attributes = entry.get("attributes")
        index.from_cvat = index.from_cvat or (isinstance(attributes, dict) and "occluded" in attributes)

    def add_image(self, entry: dict[str, Any], where: str) -> None:
        """Take an entry of `images`."""
        entries, keys = self.index.entries, self._keys
        key, name = id_key(entry.get("id")), _file_name(entry)
        label = name if isinstance(name, str) else None
        if key is None:
            self.report("image-id-invalid", f"The image's id is {entry.get('id')!r}.", where, image=label)
        elif key in keys:
            first = entries[keys[key]].name
            text = f"Image id {key} is listed twice" + ("." if first == name else f", for {first!r} too.")
            severity = Severity.WARNING if first == name else Severity.ERROR
            self.report("image-id-duplicate", text, where, image=label, repair="The second entry is left out.",
                        severity=severity)  # fmt: skip
        elif isinstance(name, str) and (same := _same_name(name)) in self._names:
            text = f"The file is listed twice, as image {entries[self._names[same]].image_id} and {key}."
            self.report("image-duplicate", text, where, image=label, severity=Severity.WARNING,
                        repair="Both entries' objects are taken as one image's.")  # fmt: skip
            keys[key] = self._names[same]
        else:
            width, height = _size(entry.get("width")), _size(entry.get("height"))
            if not width or not height:
                text = f"The size is given as {entry.get('width')!r} x {entry.get('height')!r}."
                self.report("image-size-invalid", text, where, image=label, severity=Severity.WARNING,
                            repair="The size of the image file is used.")  # fmt: skip
                width = height = 0
            keys[key] = len(entries)
            if isinstance(name, str):
                self._names[_same_name(name)] = len(entries)
            entries.append(CocoImageEntry(str(key), name, width, height, where))

    def finished(self) -> CocoIndex:
        """The index, annotations linked to images, findings about categories added."""
        index = self.index
        if index.owner:
            table = np.array([self._keys.get(key, -1) for key in self._owners], np.int64)
            index.owner = array("q", table[np.frombuffer(index.owner, np.int64)].tobytes())
        index.category_ids = list(self._categories)
        if index.categories or not index.owner:
            self._report_categories()
        else:
            named = f"all are called {DEFAULT_CATEGORY!r}" if len(index.category_ids) < 2 else "ids are the names"
            text = "The file lists no categories, as VIA's COCO export and some scripts leave them out."
            self.report("categories-missing", text, "categories", severity=Severity.WARNING,
                        repair=f"Objects are told apart by category_id; {named}.")  # fmt: skip
        return index

    def _report_categories(self) -> None:
        index = self.index
        used = index.used
        by_name: dict[str, list[object]] = {}
        for key, name in index.categories.items():
            if key in used:
                by_name.setdefault(name, []).append(key)
            elif key == 0:
                text = f"Category 0, {name!r}, has no annotation; exporters write it as a placeholder."
                self.report("category-placeholder", text, "categories", repair="It is dropped.",
                            severity=Severity.INFO)  # fmt: skip
            else:
                text = f"Category {key}, {name!r}, has no annotation."
                self.report("category-unused", text, "categories", severity=Severity.INFO)
        self._report_gaps()
        for name, keys in by_name.items():
            if len(keys) > 1:
                text = f"Categories {', '.join(map(str, keys))} are all named {name!r}."
                self.report("category-name-duplicate", text, "categories", severity=Severity.WARNING,
                            repair="They are taken as one.")  # fmt: skip

    def _report_gaps(self) -> None:
        """Report ids that are not consecutive: programs that take an id for a position mix up the classes."""
        ids = sorted(key for key in self.index.categories if isinstance(key, int))
        gaps = [(low + 1, high - 1) for low, high in pairwise(ids) if high - low > 1]
        if gaps:
            low, high = gaps[0]
            text = f"Category ids run from {ids[0]} to {ids[-1]} with gaps, the first from {low} to {high}."
            self.report("category-id-gaps", text, "categories", severity=Severity.INFO,
                        repair="Categories are told apart by name.")  # fmt: skip


def compare_category_ids(ids: dict[str, object], index: CocoIndex, on_issue: OnIssue) -> None:
    """Report a category name that has another id in an earlier file; `ids` learns this file's."""
    used = index.used
    for key, name in index.categories.items():
        if key in used and ids.setdefault(name, key) != key:
            text = f"Category {name!r} has id {key} here and {ids[name]} in another split."
            on_issue(coco_issue(index.file, "category-id-differs", text, "categories", severity=Severity.WARNING,
                                repair="Categories are told apart by name."))  # fmt: skip


def id_key(value: Any) -> int | str | None:
    """An id that compares equal however it was written: 7, "7" and 7.0 are one; None for what is no id."""
    whole = whole_number(value) if not isinstance(value, str) or value.strip().isdigit() else None
    if whole is not None:
        return whole
    return value if isinstance(value, str) and value else None


def is_crowd(value: Any) -> bool:
    """`iscrowd` as 1, `true`, "1" or "true"."""
    return value is True or number(value) not in (None, 0.0) or (isinstance(value, str) and value.lower() == "true")


def coco_issue(
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
    """A finding about a place in a COCO file."""
    return Issue(code, severity, message, repair, str(file), image, annotation, where)


def _file_name(entry: dict[str, Any]) -> object:
    """`file_name`, or what some exporters write instead of it."""
    for key in ("file_name", "filename", "path", "coco_url"):
        if key in entry:
            return entry[key]
    return None


def _same_name(name: str) -> str:
    """A file name so that spellings of one file are equal: backslashes, steps that stay, encodings."""
    return "/".join(min(spellings(part)) for part in name.replace("\\", "/").split("/") if part != ".")


def _size(value: Any) -> int:
    side = whole_number(value)
    return side if side is not None and 0 < side < 1 << 31 else 0


def _bad_field(file: Path, key: str, found: str) -> DataError:
    return DataError.of(
        expected=f"a COCO file with a list {key!r}",
        found=found,
        where=str(file),
        do="check the export, or --source-format",
    )
