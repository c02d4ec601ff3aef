"""COCO panoptic: a PNG per image whose colours number its segments, and a JSON that says what they are.

Source: cocodataset.org, "Panoptic segmentation": the number is R + 256 G + 256^2 B; 0 is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from samtune.data.prepare.split import group_of
from samtune.data.readers.coco_index import id_key, is_crowd
from samtune.data.readers.common import AUTO, OnIssue, ReadOptions, category_name, require_source, split_named, unique
from samtune.data.readers.files import ImageFinder, files_below
from samtune.data.readers.json_kinds import json_kind
from samtune.data.readers.mask_classes import as_value
from samtune.data.readers.shapes import side
from samtune.data.readers.stream import load_json
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, MaskFile, Severity, Split


def read_coco_panoptic(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read COCO panoptic annotations; segments of things are objects, those of stuff are left out.

    Args:
        path: folder of the set, or its JSON file.
        images: folder of the images, when they are not below `path`.
        on_issue: called for each finding; segments reported as errors are left out.
        options: not used.

    Yields:
        The images in the file's order.

    Raises:
        DataError: no such file, or one that is no panoptic JSON.
    """
    del options
    require_source(path)
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [file for file in files_below(path, {".json"}) if _is_panoptic(file)]
    if not files:
        raise DataError.of(expected="a COCO panoptic JSON", found="none", where=str(path))
    ids: dict[Split, set[str]] = {split: set() for split in Split}
    for file in files:
        split = split_named(file.stem) or split_named(file.parent.name) or Split.TRAIN
        yield from _Reader(file, root, images, split, ids[split], on_issue).records()


def _is_panoptic(file: Path) -> bool:
    return json_kind(file) == "coco-panoptic"


class _Reader:
    """Turns one file into records."""

    def __init__(
        self, file: Path, root: Path, images: Path | None, split: Split, ids: set[str], on_issue: OnIssue
    ) -> None:
        self._file, self._split, self._ids, self._on_issue = file, split, ids, on_issue
        folders = [file.parent / file.stem, file.parent, root / file.stem, root]
        self._masks = ImageFinder([folder for folder in folders if folder.is_dir()], root, prefer=file.stem)
        self._images = [images] if images else [file.parent, root, root / "images", root / self._subset()]
        self._root = images or root

    def _subset(self) -> str:
        return self._file.stem.removeprefix("panoptic_")

    def records(self) -> Iterator[ImageRecord]:
        """The images that have annotations."""
        raw = load_json(self._file)
        content = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
        entries = {id_key(entry.get("id")): entry for entry in _dicts(content.get("images"))}
        categories = {id_key(entry.get("id")): entry for entry in _dicts(content.get("categories"))}
        folders = [folder for folder in self._images if folder.is_dir()]
        finder = ImageFinder(folders or [self._root], self._root, prefer=self._subset())
        for position, annotation in enumerate(_dicts(content.get("annotations"))):
            where = f"annotations[{position}]"
            image = entries.get(id_key(annotation.get("image_id")))
            if image is None:
                self._report("annotation-without-image", "The annotation is for an image that is not listed.", where)
                continue
            try:
                mask = self._masks.find(annotation.get("file_name"), where=where)
                path = finder.find(image.get("file_name"), where=where)
                if path == mask:
                    raise DataError.of(expected="an image beside its mask", found=f"the mask alone, {path.name}")
            except DataError as error:
                text = f"The file name cannot be used: {error.found}."
                self._on_issue(self._issue("image-path", text, where).caused_by(error))
                continue
            yield self._record(image, path, mask, _dicts(annotation.get("segments_info")), categories, where)

    def _record(
        self,
        image: dict[str, Any],
        path: Path,
        mask: Path,
        segments: list[dict[str, Any]],
        categories: dict[Any, dict[str, Any]],
        where: str,
    ) -> ImageRecord:
        found: list[Annotation] = []
        for position, segment in enumerate(segments):
            category = categories.get(id_key(segment.get("category_id")), {})
            name, number = category_name(category.get("name")), id_key(segment.get("id"))
            spot = f"{where}.segments_info[{position}]"
            if name is None or not isinstance(number, int) or not 0 < number < 1 << 24:
                self._report("category-unknown", "The segment has no number, or no category that is listed.", spot,
                             path.name, str(position))  # fmt: skip
                continue
            if category.get("isthing", 1) in (0, False):
                continue  # stuff is no object
            color = as_value([number & 255, number >> 8 & 255, number >> 16])
            crowd = is_crowd(segment.get("iscrowd"))
            shape = MaskFile(mask, color)
            found.append(Annotation(f"{path.stem}-{number}", name, shape, iscrowd=crowd, where=spot))
        return ImageRecord(
            image_id=unique(str(image.get("id")), self._ids),
            path=path,
            width=side(image.get("width")),
            height=side(image.get("height")),
            split=self._split,
            annotations=tuple(found),
            group=group_of(path.name),
            source=self._file,
        )

    def _issue(self, code: str, message: str, where: str, image: str | None = None, of: str | None = None) -> Issue:
        return Issue(code, Severity.ERROR, message, "It is left out.", str(self._file), image, of, where)

    def _report(self, code: str, message: str, where: str, image: str | None = None, of: str | None = None) -> None:
        self._on_issue(self._issue(code, message, where, image, of))


def _dicts(value: Any) -> list[dict[str, Any]]:
    listed = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", entry) for entry in listed if isinstance(entry, dict)]
