"""JSON formats whose files describe images one by one: finding the files, their images, and reporting what is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from samtune.data.images import FORMATS as IMAGE_FORMATS
from samtune.data.images import SUFFIXES
from samtune.data.masks import SegmentationError
from samtune.data.paths import confine
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import OnIssue, category_name, lost, require_source, split_named, unique
from samtune.data.readers.files import ImageFinder, ImageNameError, files_below, name_parts
from samtune.data.readers.json_kinds import json_kind
from samtune.data.readers.shapes import decode_base64
from samtune.data.readers.stream import load_json
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, Polygons, Segmentation, Severity, Split

_NO_OBJECTS = frozenset({"__ignore__", "_background_"})
_MOST_EMBEDDED = 512 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """An object of an image, not looked at yet.

    Attributes:
        identifier: id, unique within the image.
        category: what the file has for the category's name.
        where: place in the file.
        shape: reads the outline; raises `SegmentationError`.
        crowd: the region covers many objects.
        group: objects of one group and category may be parts of one; None for those without.
    """

    identifier: str
    category: Any
    where: str
    shape: Callable[[], Segmentation | None]
    crowd: bool = False
    group: int | str | None = None


@dataclass(frozen=True, slots=True)
class ImageItems:
    """An image as a file describes it.

    Attributes:
        name: what the file has for the image's name.
        width, height: pixels as stated, 0 where they are not.
        items: its objects.
        where: place in the file.
        embedded: the image itself in base64, for files that hold it.
        split: the split that the file says; None where it does not.
    """

    name: Any
    width: int
    height: int
    items: Iterable[Item]
    where: str = ""
    embedded: Any = None
    split: Split | None = None


Parse = Callable[[Any, Path, OnIssue], Iterable[ImageItems]]
"""Takes a file's content and gives the images it describes; raises `DataError` where the content is of no use."""


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A format of this kind.

    Attributes:
        kind: its name, as `json_kind` tells it.
        title: its name for people.
        parse: reads a file.
        suffixes: endings of its files.
        join: makes of the annotations of an image what the format means, such as groups of shapes.
    """

    kind: str
    title: str
    parse: Parse
    suffixes: tuple[str, ...] = (".json",)
    join: Callable[[list[Annotation], list[Item]], Iterable[Annotation]] = lambda annotations, items: annotations


def read_json_images(
    path: Path, json_format: JsonFormat, *, images: Path | None, on_issue: OnIssue
) -> Iterator[ImageRecord]:
    """Read a source in such a format: one file, or all of its kind in a folder and below.

    Args:
        path: folder or file.
        json_format: the format.
        images: folder of the images, when they stand elsewhere.
        on_issue: called for each finding; objects, images and files reported as errors are left out.

    Yields:
        The images by file and in the order of each file.

    Raises:
        DataError: nothing there, or no file of the kind.
    """
    require_source(path)
    root = path.parent if path.is_file() else path
    reader = _Reader(root, images, on_issue, json_format)
    found = False
    for file in [path] if path.is_file() else files_below(path, json_format.suffixes):
        for record in reader.records(file, sure=path.is_file()):
            found = True
            yield record
    if not found and reader.broken is not None:
        raise reader.broken
    if not found:
        raise DataError.of(expected=f"{json_format.title} files about images", found="none", where=str(path))


class _Reader:
    """Turns files into records."""

    def __init__(self, root: Path, images: Path | None, on_issue: OnIssue, json_format: JsonFormat) -> None:
        self._root, self._images, self._format = root, images, json_format
        self._on_issue = on_issue
        self._whole = ImageFinder([images or root], images or root)
        self._ids: dict[Split, set[str]] = {split: set() for split in Split}
        self.broken: DataError | None = None

    def records(self, file: Path, *, sure: bool) -> Iterator[ImageRecord]:
        """The images of one file; a file of another kind has none."""
        try:
            content = load_json(file)
            if not sure and json_kind(file) != self._format.kind:
                return  # another program's file in the folder
            described = list(self._format.parse(content, file, self._on_issue))
        except DataError as error:
            where = error.where or str(file)
            self.broken = DataError.of(expected=error.expected, found=error.found, where=where, do=error.do)
            text = f"The file cannot be read: {error.found}."
            self._on_issue(lost("file-broken", text, file, repair="The file is left out.", error=error))
            return
        for image in described:
            record = self._record(image, file, alone=len(described) == 1)
            if record is not None:
                yield record

    def _record(self, image: ImageItems, file: Path, *, alone: bool) -> ImageRecord | None:
        embedded = False
        try:
            path = self._find(image, file, alone=alone)
            if not path.is_file() and image.embedded and (kept := _unpacked(image.embedded, path.name)):
                path, embedded = kept, True
        except DataError as error:
            code = error.code if isinstance(error, ImageNameError) else "image-path"
            text = f"The image's file name cannot be used: {error.found}."
            name, repair = str(image.name)[:80], "The image is left out."
            self._on_issue(lost(code, text, file, image.where, name, repair=repair, error=error))
            return None
        split = image.split or _split_of(file, self._root)
        items = list(image.items)
        annotations = list(self._annotations(items, file, path.name))
        identifier = file.stem if alone else str(image.name)
        return ImageRecord(
            image_id=unique(identifier, self._ids[split]),
            path=path,
            width=image.width,
            height=image.height,
            split=split,
            annotations=tuple(self._format.join(annotations, items)),
            group=group_of(path.name),
            source=file,
            embedded=embedded,
        )

    def _find(self, image: ImageItems, file: Path, *, alone: bool) -> Path:
        """The image's file: where the name leads from the JSON file, beside it, of its name, or anywhere in the source.

        Raises:
            DataError: the name leads out of the source, or to several images.
        """
        text = image.name if isinstance(image.name, str) and image.name.strip("/\\ ") else f"{file.stem}.jpg"
        parts = name_parts(text)
        for candidate in ("/".join((*_leading_dots(text), *parts)), *parts[-1:]):
            place = (self._images or file.parent) / candidate
            if "\0" not in candidate and _is_file_below(place, self._images or self._root):
                return place
        if alone:
            for suffix in sorted(SUFFIXES):
                place = (self._images or file.parent) / f"{file.stem}{suffix}"
                if place.is_file():
                    return place
        base = parts[-1].replace("\0", "") if parts else f"{file.stem}.jpg"
        found = self._whole.find(base, where=f"{file}, {image.where}".rstrip(", "), near=file)
        return found if found.is_file() else confine(self._images or file.parent, base)

    def _annotations(self, items: Iterable[Item], file: Path, image: str) -> Iterator[Annotation]:
        for item in items:
            category = category_name(item.category)
            if category is None:
                text = "The object has no label."
                self._on_issue(lost("category-unknown", text, file, item.where, image, item.identifier))
                continue
            if category in _NO_OBJECTS:
                text = f"The shape is called {category}, which LabelMe means for no object."
                self._on_issue(Issue("shape-ignored", Severity.INFO, text, "It is left out.", str(file), image,
                                     item.identifier, item.where))  # fmt: skip
                continue
            try:
                shape = item.shape()
            except SegmentationError as error:
                text = f"The shape cannot be used: {error.found}."
                self._on_issue(lost(error.code, text, file, item.where, image, item.identifier, error=error))
                continue
            yield Annotation(item.identifier, category, shape, iscrowd=item.crowd, where=item.where)


def join_groups(annotations: list[Annotation], items: list[Item]) -> Iterable[Annotation]:
    """Polygons of one category and group as one object, at the place of the first."""
    groups = {item.identifier: item.group for item in items}
    places: dict[tuple[str, int | str], int] = {}
    found: list[Annotation] = []
    for annotation in annotations:
        group = groups.get(annotation.annotation_id)
        place = places.get((annotation.category, group)) if group is not None else None
        first = found[place] if place is not None else None
        shapes = (first.segmentation if first else None, annotation.segmentation)
        if place is not None and first is not None and all(isinstance(shape, Polygons) for shape in shapes):
            rings = tuple(ring for shape in shapes if isinstance(shape, Polygons) for ring in shape.rings)
            found[place] = replace(first, segmentation=Polygons(rings))
            continue
        if group is not None:
            places[annotation.category, group] = len(found)
        found.append(annotation)
    return found


def _split_of(file: Path, root: Path) -> Split:
    names = file.parent.relative_to(root).parts if file.is_relative_to(root) else ()
    return next((split for name in names if (split := split_named(name))), Split.TRAIN)


def _leading_dots(name: str) -> list[str]:
    """The steps up with which a written path begins."""
    count = 0
    for part in name.replace("\\", "/").split("/"):
        if part not in ("..", "."):
            break
        count += part == ".."
    return [".."] * count


def _is_file_below(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


_unpacked_images: list[TemporaryDirectory[str]] = []
"""Where images out of annotation files are kept until the program ends, because what reads them runs later."""


def _unpacked(data: Any, name: str) -> Path | None:
    """An image that an annotation file holds in base64, as a file; None where it is no image."""
    try:
        content = decode_base64(data, most=_MOST_EMBEDDED)
    except SegmentationError:
        return None
    if not _unpacked_images:
        _unpacked_images.append(TemporaryDirectory(prefix="samtune-embedded-"))
    folder = Path(_unpacked_images[0].name) / hashlib.sha256(content).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    base = name_parts(name)[-1][-100:] if name_parts(name) else "image"
    path = folder / base
    path.write_bytes(content)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(image.format), f".{str(image.format).lower()}")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        path.unlink()
        return None
    return path if path.suffix.lower() in SUFFIXES else path.rename(path.with_suffix(suffix))
