"""Images beside masks: binary masks, instance ids, class values with a `_classes.csv`, colours with a `labelmap.txt`.

What the values mean is not written in a mask. With a class file, values are classes and each 8-connected component is
an object. Without one, a mask of one value is split into components; a mask of several gray values holds one object a
value; in a colour mask each colour is a category and each component an object.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.images import SUFFIXES
from samtune.data.masks import components_of, encode_rle, read_labels
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    DEFAULT_CATEGORY,
    OnIssue,
    image_files,
    require_source,
    split_folders,
    unique,
)
from samtune.data.readers.detect import MASK_FOLDERS
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, MaskFile, Segmentation, Severity, Split

Value: TypeAlias = int | tuple[int, int, int]

_ENDINGS = ("_mask", "-mask", "_masks", "_seg", "_label", "_labels", "_gt", "_segmentation")
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "pictures"}
_BACKGROUND = {"background", "_background_", "unlabeled", "unlabelled", "void", "ignore"}
_MAX_COLORS = 1024
_MAX_TABLE = 1 << 20


def read_mask_folder(path: Path, *, images: Path | None = None, on_issue: OnIssue) -> Iterator[ImageRecord]:
    """Read images with mask files.

    Args:
        path: folder, with or without folders named after splits, whose masks end in `_mask` beside the images, stand in
            `masks/` beside `images/` under the image's name, or are several in a folder `masks/IMAGE/`.
        images: folder of the images, when they stand elsewhere; `path` is then the folder of the masks.
        on_issue: called for each finding; masks reported as errors are left out. Images without a mask are left out,
            because a missing mask does not say that nothing is there.

    Yields:
        The images by split and name.

    Raises:
        DataError: no such folder, no mask in it, a class file that cannot be read.
    """
    require_source(path)
    if not path.is_dir():
        raise DataError.of(expected="a folder of images and masks", found="a file", where=str(path))
    found = False
    for split, pictures, masks in _pairs_of_folders(path, images):
        classes = _classes([masks, masks.parent, path])
        reader = _Reader(split, classes, on_issue)
        for record in reader.records(pictures, masks):
            found = True
            yield record
    if not found:
        raise DataError.of(expected="images with masks", found="none", where=str(path))


def _pairs_of_folders(root: Path, images: Path | None) -> Iterator[tuple[Split, Path, Path]]:
    """Split, folder of the images, folder of their masks; the two may be one."""
    if images is not None:
        yield Split.TRAIN, images, root
        return
    splits = split_folders(root)
    pair = _image_and_mask_folder(root)
    if pair and split_folders(pair[1]):  # images/train beside masks/train
        pictures = dict(split_folders(pair[0]))
        for split, folder in split_folders(pair[1]):
            if split in pictures:
                yield split, pictures[split], folder
        return
    for split, folder in splits or [(Split.TRAIN, root)]:
        inner = _image_and_mask_folder(folder)
        yield (split, *inner) if inner else (split, folder, folder)


def _image_and_mask_folder(folder: Path) -> tuple[Path, Path] | None:
    below = sorted(inner for inner in folder.iterdir() if inner.is_dir())
    pictures = [inner for inner in below if inner.name.lower() in _IMAGE_FOLDERS]
    masks = sorted(
        (inner for inner in below if inner.name.lower() in MASK_FOLDERS),
        key=lambda inner: ("object" not in inner.name.lower(), "mask" not in inner.name.lower(), inner.name),
    )
    return (pictures[0], masks[0]) if pictures and masks else None


@dataclass(frozen=True)
class _Classes:
    """Categories by pixel value, and where that is written; no file means no classes are known."""

    file: Path | None
    names: Mapping[Value, str]


def _classes(folders: list[Path]) -> _Classes:
    for folder in folders:
        for name, read in (("_classes.csv", _classes_csv), ("labelmap.txt", _labelmap)):
            file = folder / name
            if file.is_file():
                if file.stat().st_size > _MAX_TABLE:
                    raise DataError.of(expected="a class file of at most 1 MiB", found="a larger one", where=str(file))
                return _Classes(file, read(file))
    return _Classes(None, {})


def _classes_csv(file: Path) -> dict[Value, str]:
    """Roboflow's `Pixel Value, Class`; three colour columns before the name are read too."""
    names: dict[Value, str] = {}
    rows = list(csv.reader(file.read_text("utf-8-sig", "replace").splitlines()))
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if line == 1 and cells and not cells[0].isdigit():
            continue
        if not any(cells):
            continue
        numbers, name = (cells[:1], cells[1:2]) if len(cells) == 2 else (cells[:3], cells[3:4])
        if not name or not all(cell.isdigit() for cell in numbers):
            raise DataError.of(
                expected="a pixel value and a class", found=",".join(row)[:60], where=f"{file}, line {line}"
            )
        names[_value([int(cell) for cell in numbers])] = name[0]
    return names


def _labelmap(file: Path) -> dict[Value, str]:
    """CVAT's lines `name:red,green,blue:parts:actions`."""
    names: dict[Value, str] = {}
    for line, text in enumerate(file.read_text("utf-8-sig", "replace").splitlines(), start=1):
        if not text.strip() or text.startswith("#"):
            continue
        name, _, rest = text.partition(":")
        colour = rest.split(":")[0].split(",")
        if len(colour) != 3 or not all(part.strip().isdigit() for part in colour):
            raise DataError.of(expected="name:red,green,blue::", found=text[:60], where=f"{file}, line {line}")
        names[_value([int(part) for part in colour])] = name.strip()
    return names


def _value(numbers: list[int]) -> Value:
    """A gray value, or a colour; equal channels are gray, as `read_labels` has them."""
    if len(numbers) == 1 or len(set(numbers)) == 1:
        return numbers[0]
    red, green, blue = numbers
    return red, green, blue


class _Reader:
    """Turns the masks of one folder into records."""

    def __init__(self, split: Split, classes: _Classes, on_issue: OnIssue) -> None:
        self._split, self._classes, self._on_issue = split, classes, on_issue
        self._ids: set[str] = set()

    def records(self, pictures: Path, masks: Path) -> Iterator[ImageRecord]:
        by_stem = self._masks_by_stem(masks, beside=pictures == masks)
        for image in image_files(pictures):
            if pictures == masks and _stripped(image.stem) is not None:
                continue
            files = by_stem.pop(image.stem, [])
            if not files:
                text = "The image has no mask, which does not say that nothing is there."
                self._report("mask-missing", text, image, image.name, "The image is left out.", Severity.WARNING)
                continue
            yield self._record(image, files)
        for files in by_stem.values():
            for file in files:
                self._report("image-missing", "The mask has no image of its name.", file, None, "It is left out.")

    def _masks_by_stem(self, folder: Path, *, beside: bool) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for file in sorted(folder.iterdir()):
            if file.is_dir() and not beside:
                inner = image_files(file)
                if inner:
                    found[file.name] = inner
            elif file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                stem = _stripped(file.stem)
                if stem is not None or not beside:
                    found.setdefault(stem or file.stem, []).append(file)
        return found

    def _record(self, image: Path, files: list[Path]) -> ImageRecord:
        identifier = unique(image.stem, self._ids)
        annotations: list[Annotation] = []
        width = height = 0
        for file in files:
            try:
                labels = read_labels(file)
                objects = list(self._objects(file, labels, image.name))
            except DataError as error:
                text = f"The mask cannot be read: {error.found}."
                issue = Issue(
                    "mask-unreadable",
                    Severity.ERROR,
                    text,
                    "Its objects are left out.",
                    str(file),
                    image.name,
                    file.name,
                )
                self._on_issue(issue.caused_by(error))
                continue
            height, width = labels.shape[:2]
            for category, segmentation in objects:
                number = len(annotations) + 1
                annotations.append(
                    Annotation(f"{identifier}-{number}", category, segmentation, where=f"{file.name}, object {number}")
                )
        return ImageRecord(
            image_id=identifier,
            path=image,
            width=width,
            height=height,
            split=self._split,
            annotations=tuple(annotations),
            group=group_of(image.name),
            source=files[0],
        )

    def _objects(self, file: Path, labels: NDArray[Any], image: str) -> Iterator[tuple[str, Segmentation]]:
        """Category and shape of every object in a mask."""
        values = _values(labels)
        if self._classes.names:
            for value in values:
                name = self._classes.names.get(value)
                if name is not None and name.lower() not in _BACKGROUND:
                    yield from ((name, shape) for shape in _components(file, value))
                elif name is None and value != 0:
                    text = f"The mask holds the value {value}, which {self._classes.file} does not name."
                    self._report("category-unknown", text, file, image, "Its pixels are left out.", of=file.name)
        elif labels.ndim == 3:
            for value in values:
                if isinstance(value, tuple):
                    yield from (
                        (f"#{value[0]:02x}{value[1]:02x}{value[2]:02x}", shape) for shape in _components(file, value)
                    )
        elif len(values) <= 1 + (0 in values):
            yield from ((DEFAULT_CATEGORY, shape) for shape in _components(file, None))
        elif _is_soft(labels):
            yield from ((DEFAULT_CATEGORY, shape) for shape in _soft_components(labels))
        else:
            yield from ((DEFAULT_CATEGORY, MaskFile(file, value)) for value in values if value != 0)

    def _report(
        self,
        code: str,
        message: str,
        file: Path,
        image: str | None,
        repair: str,
        severity: Severity = Severity.ERROR,
        of: str | None = None,
    ) -> None:
        """Report a finding; `of` names the mask file whose objects are lost."""
        self._on_issue(Issue(code, severity, message, repair, str(file), image, of))


def _stripped(stem: str) -> str | None:
    """The image's stem for a mask's, which ends in `_mask` or alike; None for other names."""
    for ending in _ENDINGS:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return None


def _values(labels: NDArray[Any]) -> list[Value]:
    """The values or colours of a mask, sorted.

    Raises:
        DataError: so many colours that it is a photograph.
    """
    if labels.ndim == 2:
        found = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
        return [int(value) for value in found]
    packed = labels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found = np.unique(packed)
    if found.size > _MAX_COLORS:
        raise DataError.of(expected=f"a mask of at most {_MAX_COLORS} colours", found=f"{found.size} colours")
    return [_value([int(value) >> 16, int(value) >> 8 & 255, int(value) & 255]) for value in found]


def _components(file: Path, value: Value | None) -> Iterator[MaskFile]:
    for component in range(1, components_of(file, value) + 1):
        yield MaskFile(file, value, component)


def _is_soft(labels: NDArray[Any]) -> bool:
    """Whether a gray mask is a binary one with softened edges: nearly all pixels 0 or 255, many values in between."""
    if labels.dtype != np.uint8:
        return False
    counts = np.bincount(labels.ravel(), minlength=256)
    return bool(counts[255]) and int(np.count_nonzero(counts)) > 8 and counts[0] + counts[255] >= 0.9 * labels.size


def _soft_components(labels: NDArray[Any]) -> Iterator[Segmentation]:
    _, numbered = cv2.connectedComponents((labels >= 128).astype(np.uint8), connectivity=8)
    order = np.unique(numbered, return_index=True)
    for label in sorted(order[0][1:], key=lambda label: int(order[1][label])):
        yield encode_rle(np.asarray(numbered == label))
