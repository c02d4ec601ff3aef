"""COCO instance annotations: a Roboflow export folder, or JSON files with an image folder beside, below or elsewhere.

A file is read twice. The first pass (`coco_index`) keeps the image entries and where each annotation stands; the second
fetches the annotations image by image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from samtune.data.masks import SegmentationError
from samtune.data.prepare.split import group_of
from samtune.data.readers.coco_boxes import boxes_are_corners
from samtune.data.readers.coco_crowd import crowds_are_regions
from samtune.data.readers.coco_files import CocoFile, open_files
from samtune.data.readers.coco_index import (
    CocoImageEntry,
    CocoIndex,
    coco_issue,
    compare_category_ids,
    id_key,
    is_crowd,
)
from samtune.data.readers.coco_shapes import parse_segmentation, short
from samtune.data.readers.common import (
    AUTO,
    OnIssue,
    ReadOptions,
    holds_text,
    number,
    numbers,
    require_source,
    unique,
    xywh_to_box,
)
from samtune.data.readers.detect import ROBOFLOW_NAME
from samtune.data.readers.files import ImageNameError
from samtune.data.readers.stream import open_json
from samtune.errors import DataError
from samtune.types import Annotation, Box, ImageRecord, Severity


def read_coco(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read a COCO dataset.

    Args:
        path: a Roboflow export (`train|valid|test/_annotations.coco.json`), another folder with COCO files, or a file.
        images: folder that `file_name` is relative to, when the images stand elsewhere.
        on_issue: called for each finding; annotations reported as errors are left out.
        options: `crowd` says what `iscrowd` marks.

    Yields:
        The images in the file's order with their annotations in the file's order.

    Raises:
        DataError: no file, not COCO, broken JSON, boxes that fit no outline, or two files that differ about an image;
            the message names file, field and line.
    """
    require_source(path)
    ids: dict[str, object] = {}
    found = False
    for file in open_files(path, images, on_issue):
        found = True
        for issue in file.index.issues:
            on_issue(issue)
        compare_category_ids(ids, file.index, on_issue)
        yield from _Reader(file, on_issue, options).records()
    if not found:
        raise DataError.of(expected=f"COCO annotations: {ROBOFLOW_NAME} or another JSON", found="none", where=str(path))


class _Reader:
    """The second pass over a file: one record per image."""

    def __init__(self, file: CocoFile, on_issue: OnIssue, options: ReadOptions) -> None:
        self._file, self._on_issue, self._options = file, on_issue, options
        self._shapes = _Shapes(file.index, on_issue, options)
        self._others = {
            id(other): _Shapes(other.index, on_issue, options) for joined in file.joined.values() for other, _ in joined
        }
        self._name_reported = False

    def records(self) -> Iterator[ImageRecord]:
        """The images, those that another file is read for left out."""
        index = self._file.index
        with ExitStack() as opened:
            for shapes in (self._shapes, *self._others.values()):
                shapes.file = opened.enter_context(open_json(shapes.index.file))
            for place in index.places(-1):
                self._shapes.report_orphan(place)
            for position, entry in enumerate(index.entries):
                if position not in self._file.skipped:
                    record = self._record(entry, position)
                    if record is not None:
                        yield record

    def _record(self, entry: CocoImageEntry, position: int) -> ImageRecord | None:
        index = self._file.index
        places = index.places(position)
        where = f"{entry.where}.file_name"
        try:
            path = self._file.finder.find(entry.name, where=f"{index.file}, {where}")
        except DataError as error:
            self._report_lost(entry, error, places)
            return None
        self._report_guess(entry, path)
        annotations = list(self._shapes.annotations(places, path.name))
        for other, there in self._file.joined.get(position, ()):
            shapes = self._others[id(other)]
            annotations += shapes.annotations(other.index.places(there), path.name)
        return ImageRecord(
            image_id=entry.image_id,
            path=path,
            width=entry.width,
            height=entry.height,
            split=self._file.split,
            annotations=tuple(annotations),
            group=group_of(str(entry.name).replace("\\", "/")),
            source=index.file,
        )

    def _report_lost(self, entry: CocoImageEntry, error: DataError, places: list[int]) -> None:
        file = self._file.index.file
        name = entry.name if isinstance(entry.name, str) else None
        code = error.code if isinstance(error, ImageNameError) else "image-path"
        text = f"The image's file name cannot be used: {error.found}."
        repair = f"The image and its {len(places)} objects are left out."
        issue = coco_issue(file, code, text, f"{entry.where}.file_name", image=name, repair=repair)
        self._on_issue(issue.caused_by(error))
        for place in places:
            self._shapes.report(code, "The object's image cannot be used.", f"annotations[{place}]", name, place)

    def _report_guess(self, entry: CocoImageEntry, path: Path) -> None:
        """Say once that names are matched by their base names."""
        if self._name_reported or not isinstance(entry.name, str) or entry.name not in self._file.finder.guessed:
            return
        self._name_reported = True
        found = "/".join(path.parts[-2:])
        text = f"{entry.name!r} leads nowhere; {found!r} is the only image that it can mean."
        repair = "Names that lead nowhere are taken for the image of the same base name."
        self._on_issue(coco_issue(self._file.path, "image-by-name", text, f"{entry.where}.file_name", image=path.name,
                                  repair=repair, severity=Severity.INFO))  # fmt: skip


class _Shapes:
    """Reads annotations of one file, which must be open as `file`."""

    file: BinaryIO

    def __init__(self, index: CocoIndex, on_issue: OnIssue, options: ReadOptions) -> None:
        self.index, self._on_issue = index, on_issue
        self._ids: set[str] = set()
        self._corners = boxes_are_corners(index)
        if self._corners:
            text = "The boxes are written as two corners, not as corner, width and height."
            on_issue(coco_issue(index.file, "boxes-are-corners", text, "annotations", repair="They are read so.",
                                severity=Severity.WARNING))  # fmt: skip
        self._regions, issue = crowds_are_regions(index, options.crowd)
        if issue:
            on_issue(issue)

    def annotations(self, places: list[int], image: str) -> Iterator[Annotation]:
        """The annotations at these positions; those that cannot be read are reported and left out."""
        for place in places:
            annotation = self._annotation(self.index.fetch(self.file, place), place, image)
            if annotation is not None:
                yield annotation

    def report_orphan(self, place: int) -> None:
        """Report an annotation whose image the file does not list."""
        raw = self.index.fetch(self.file, place)
        text = f"The annotation is for image {raw.get('image_id')!r}, which the file does not list."
        self._report("annotation-without-image", text, f"annotations[{place}].image_id", None, raw)

    def report(self, code: str, message: str, where: str, image: str | None, place: int) -> None:
        """Report an annotation that is lost for a reason outside of it."""
        self._report(code, message, where, image, self.index.fetch(self.file, place))

    def _report(self, code: str, message: str, where: str, image: str | None, raw: dict[str, Any], **more: Any) -> None:
        severity: Severity = more.get("severity", Severity.ERROR)
        repair: str = more.get("repair", "The object is left out." if severity is Severity.ERROR else "")
        identifier = str(id_key(raw.get("id")) or where.partition("[")[2].partition("]")[0])
        issue = coco_issue(self.index.file, code, message, where, image=image, annotation=identifier,
                           repair=repair, severity=severity)  # fmt: skip
        self._on_issue(issue.caused_by(more["error"]) if "error" in more else issue)

    def _annotation(self, raw: dict[str, Any], place: int, image: str | None) -> Annotation | None:
        where = f"annotations[{place}]"
        category = self.index.category_name(raw.get("category_id"))
        if category is None:
            text = f"The category is {raw.get('category_id')!r}, which the file does not list."
            self._report("category-unknown", text, f"{where}.category_id", image, raw)
            return None
        box = self._box(raw, where, image)
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
            iscrowd=self._regions and is_crowd(raw.get("iscrowd")),
            where=where,
        )

    def _box(self, raw: dict[str, Any], where: str, image: str | None) -> Box | None:
        values = raw.get("bbox")
        box = xywh_to_box(values)
        if box is None and values not in (None, []):
            text = f"The box is {short(values)}, not four numbers."
            self._report("box-invalid", text, f"{where}.bbox", image, raw, severity=Severity.WARNING,
                         repair="The box is computed from the mask.")  # fmt: skip
        if box is not None and self._corners:
            x0, y0, x1, y1 = numbers(values) or box
            return x0, y0, x1, y1
        return box

    def _identifier(self, raw: dict[str, Any], place: int, image: str | None) -> str:
        key = id_key(raw.get("id"))
        wanted = str(place if key is None else key)
        chosen = unique(wanted, self._ids)
        if key is None or chosen != wanted:
            text = "The annotation has no id." if key is None else f"Annotation id {wanted} is used twice."
            self._report("annotation-id", text, f"annotations[{place}].id", image, raw, severity=Severity.WARNING,
                         repair=f"It is called {chosen}.")  # fmt: skip
        return chosen
