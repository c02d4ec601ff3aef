"""SA-1B: one JSON per image with compressed run lengths and no categories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from samtune.data.masks import SegmentationError
from samtune.data.paths import confine
from samtune.data.prepare.split import group_of
from samtune.data.readers.coco_index import id_key
from samtune.data.readers.coco_shapes import parse_segmentation
from samtune.data.readers.common import (
    AUTO,
    DEFAULT_CATEGORY,
    OnIssue,
    ReadOptions,
    number,
    require_source,
    subfolders,
    unique,
    whole_number,
    xywh_to_box,
)
from samtune.data.readers.detect import json_files
from samtune.data.readers.stream import load_json
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, Severity, Split


def read_sa1b(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read SA-1B annotations; every object is of the category `object`.

    Args:
        path: folder of JSON files, or one of them.
        images: folder of the images, when they do not stand beside the JSON files.
        on_issue: called for each finding; objects and files reported as errors are left out.
        options: not used.

    Yields:
        The images by name.

    Raises:
        DataError: no such folder, no SA-1B file in it.
    """
    del options
    require_source(path)
    sources = [(Split.TRAIN, path.parent)] if path.is_file() else list(subfolders(path))
    found = False
    for split, folder in sources:
        ids: set[str] = set()
        for file in [path] if path.is_file() else json_files(folder):
            record = _Reader(file, split, images or file.parent, on_issue).record()
            if record is not None:
                found = True
                yield replace(record, image_id=unique(record.image_id, ids))
    if not found:
        raise DataError.of(expected="SA-1B files, one JSON per image", found="none", where=str(path))


class _Reader:
    """Turns one file into a record."""

    def __init__(self, file: Path, split: Split, images: Path, on_issue: OnIssue) -> None:
        self._file, self._split, self._images, self._on_issue = file, split, images, on_issue
        self._name: str | None = None

    def record(self) -> ImageRecord | None:
        try:
            raw = load_json(self._file)
            content = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
            image, objects = content.get("image"), content.get("annotations")
            if not isinstance(image, dict) or not isinstance(objects, list):
                raise DataError.of(expected="SA-1B", found="a file without 'image' and 'annotations'")
            entry = cast("dict[str, Any]", image)
            path = confine(self._images, entry.get("file_name"))
        except DataError as error:
            text = f"The file cannot be used: {error.found}."
            self._report("file-broken", text, "", None, repair="The file is left out.", error=error)
            return None
        self._name = path.name
        identifier = id_key(entry.get("image_id"))
        annotations = (self._annotation(value, place) for place, value in enumerate(cast("list[Any]", objects)))
        return ImageRecord(
            image_id=str(self._file.stem if identifier is None else identifier),
            path=path,
            width=max(0, whole_number(entry.get("width")) or 0),
            height=max(0, whole_number(entry.get("height")) or 0),
            split=self._split,
            annotations=tuple(annotation for annotation in annotations if annotation is not None),
            group=group_of(path.name),
            source=self._file,
        )

    def _annotation(self, value: Any, place: int) -> Annotation | None:
        where = f"annotations[{place}]"
        if not isinstance(value, dict):
            self._report("annotations-entry", f"The entry is a {type(value).__name__}.", where, str(place))
            return None
        raw = cast("dict[str, Any]", value)
        key = id_key(raw.get("id"))
        identifier = str(place if key is None else key)
        box = xywh_to_box(raw.get("bbox"))
        notes: list[tuple[str, str, str]] = []
        try:
            segmentation = parse_segmentation(raw.get("segmentation"), box, where, notes)
        except SegmentationError as error:
            self._report(error.code, f"The shape cannot be read: {error.found}.", where, identifier, error=error)
            return None
        for code, text, spot in notes:
            self._report(code, text, spot, identifier, repair="Read as described.", severity=Severity.WARNING)
        return Annotation(identifier, DEFAULT_CATEGORY, segmentation, box, number(raw.get("area")), where=where)

    def _report(
        self,
        code: str,
        message: str,
        where: str,
        annotation: str | None,
        *,
        repair: str = "The object is left out.",
        severity: Severity = Severity.ERROR,
        error: DataError | None = None,
    ) -> None:
        issue = Issue(code, severity, message, repair, str(self._file), self._name, annotation, where)
        self._on_issue(issue.caused_by(error) if error else issue)
