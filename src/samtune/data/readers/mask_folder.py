"""Images with masks: binary masks, instance ids, class values or colours with a file that names them, VOC's pairs.

What the values mean is not written in a mask. With a class file, values are classes and each 8-connected component is
an object. Without one, a mask of one value is split into components; a mask of several gray values holds one object a
value; in a colour mask each colour is a category and each component an object. Of several masks of an image each is an
object, unless their names recur from image to image and so are classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import LabelRuns, components_of, read_labels, read_labels_of_any_size
from samtune.data.prepare.split import group_of
from samtune.data.readers.common import (
    AUTO,
    DEFAULT_CATEGORY,
    OnIssue,
    ReadOptions,
    require_source,
    split_named,
    unique,
)
from samtune.data.readers.files import files_below
from samtune.data.readers.mask_classes import (
    BACKGROUND,
    VOID,
    VOID_COLOR,
    Classes,
    Value,
    as_value,
    count_pages,
    find_classes,
    has_palette,
    palette_colors,
    values_of,
)
from samtune.data.readers.mask_pairs import MaskPairs, pair_masks
from samtune.data.readers.mask_pixels import array_objects, is_soft, read_array, soft_components
from samtune.data.readers.text import read_text
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, MaskFile, Segmentation, Severity, Split
from samtune.utils.text import counted

_DEEP_VOID = 65_535
"""Void in masks of 16 bits."""
_MOST_LIST = 64 << 20
_SHOWN = 3
_CLASS_SHARE = 0.95
"""Share of an object's pixels that must be of one class in VOC's pair of masks."""


def read_mask_folder(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read images with mask files; `mask_pairs` says where they may stand.

    Args:
        path: folder of images and masks, in any of the layouts of `mask_pairs`.
        images: folder of the images, when they stand elsewhere; `path` is then the folder of the masks.
        on_issue: called for each finding; masks reported as errors are left out. Images without a mask are left out,
            because a missing mask does not say that nothing is there.
        options: `mask_pattern` says how masks are named; with `all_pages` each page of an image is an image, and its
            objects are those of the same page of the mask; else `page` is read of both.

    Yields:
        The images by split, folder, name and page.

    Raises:
        DataError: no such folder, no mask that belongs to an image, a class file that cannot be read.
    """
    require_source(path)
    if not path.is_dir():
        raise DataError.of(expected="a folder of images and masks", found="a file", where=str(path))
    files = list(files_below(path, ("",)))
    elsewhere = list(files_below(images)) if images is not None else None
    pairs = pair_masks(path, files, images=elsewhere, pattern=options.mask_pattern)
    _refuse_unmatched(path, pairs)
    reader = _Reader(path, pairs, on_issue, options)
    splits = _voc_splits(files)
    by_split: dict[Split, list[Path]] = {split: [] for split in Split}
    for image in pairs.matched:
        by_split[splits.get(image.stem) or _split_of(image, images or path)].append(image)
    for split, those in by_split.items():
        for image in those:
            yield from reader.records(image, pairs.matched[image], split)
    reader.report_rest()


def _refuse_unmatched(path: Path, pairs: MaskPairs) -> None:
    if pairs.matched:
        return
    masks = [*pairs.masks, *pairs.ambiguous]
    if masks and not pairs.images:
        raise DataError.of(
            expected="images beside their masks",
            found=f"{len(masks)} masks and no image: {_shown(masks)}",
            where=str(path),
            do="export with the images saved, or name their folder with --images",
        )
    if not masks:
        raise DataError.of(expected="images with masks", found="none", where=str(path))
    raise DataError.of(
        expected=f"masks named like an image: {pairs.tried}",
        found=f"{len(masks)} masks, none named like an image: {_shown(masks)}; images: {_shown(pairs.images)}",
        where=str(path),
        do="say how masks are named with --mask-pattern, such as 'masks/{stem}_x.png'",
    )


def _shown(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")


def _split_of(image: Path, root: Path) -> Split:
    folders = image.parent.relative_to(root).parts if image.is_relative_to(root) else ()
    return next((split for folder in folders if (split := split_named(folder))), Split.TRAIN)


def _voc_splits(files: list[Path]) -> dict[str, Split]:
    """Splits by image name from VOC's lists `ImageSets/Segmentation/train.txt`."""
    found: dict[str, Split] = {}
    for file in files:
        if file.suffix == ".txt" and "imagesets" in (part.lower() for part in file.parts):
            split = split_named(file.stem)
            if split is not None:
                found |= {line.split()[0]: split for line in read_text(file, _MOST_LIST).splitlines() if line.strip()}
    return found


class _Reader:
    """Turns masks into records."""

    def __init__(self, root: Path, pairs: MaskPairs, on_issue: OnIssue, options: ReadOptions) -> None:
        self._root, self._pairs, self._on_issue = root, pairs, on_issue
        self._all_pages, self._page = options.all_pages, options.page
        self._ids: dict[Split, set[str]] = {split: set() for split in Split}
        self._classes: dict[Path, Classes] = {}
        self._categories = _recurring_names(pairs)
        self._reported: set[str] = set()

    def records(self, image: Path, masks: list[Path], split: Split) -> Iterator[ImageRecord]:
        """One image, or each of its pages, with the objects of its masks; masks that cannot be read are reported."""
        pages = count_pages(image) if self._all_pages else 1
        if pages == 1:
            yield self._record(image, masks, split)
        else:
            yield from (self._record(image, masks, split, page) for page in range(1, pages + 1))

    def _record(self, image: Path, masks: list[Path], split: Split, page: int | None = None) -> ImageRecord:
        identifier = unique(image.stem if page is None else f"{image.stem}@page-{page}", self._ids[split])
        annotations: list[Annotation] = []
        width = height = 0
        for file in masks:
            self._classes_for(file)  # what is wrong with a class file is wrong with the source
            try:
                has_pages = self._check_pages(file, image)
                mask = MaskFile(file, page=page or (self._page if has_pages else 1))
                labels = _labels(mask)
                objects = list(self._objects(mask, labels, image, single=len(masks) > 1))
            except DataError as error:
                text = f"The mask cannot be read: {error.found}."
                issue = self._issue("mask-unreadable", text, file, image.name, "Its objects are left out.", of=file)
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
            split=split,
            annotations=tuple(annotations),
            group=group_of(image.name),
            source=masks[0],
            page=page,
        )

    def _check_pages(self, file: Path, image: Path) -> bool:
        """Whether a mask has as many pages as its image; reported where one of them is read and nobody said which.

        Raises:
            DataError: the mask has pages, and its image not as many; or fewer, where all are read.
        """
        pages = count_pages(file)
        if (pages > 1 or self._all_pages) and pages != count_pages(image):
            raise DataError.of(
                expected="a mask of one page, or of as many as its image",
                found=f"{counted(pages, 'page')}, and an image of {count_pages(image)}",
                where=str(file),
                do="save one label image: a page per object, or per depth, are two readings of a stack",
            )
        if pages > 1 and not self._all_pages and self._page == 1:
            text = f"The mask has {pages} pages, as its image has, of which the first is read."
            issue = self._issue("mask-pages", text, file, image.name, "Page 1 is prepared.", Severity.WARNING)
            self._on_issue(replace(issue, do="--page all prepares every page with the objects of its mask"))
        return pages > 1

    def report_rest(self) -> None:
        """Report images without masks, and masks without images."""
        for image in self._pairs.images:
            text = "The image has no mask, which does not say that nothing is there."
            self._on_issue(self._issue("mask-missing", text, image, image.name, "The image is left out.",
                                       Severity.WARNING))  # fmt: skip
        for mask in self._pairs.masks:
            self._on_issue(self._issue("image-missing", "The mask has no image of its name.", mask, None,
                                       "It is left out; --mask-pattern says how masks are named."))  # fmt: skip
        for mask in self._pairs.ambiguous:
            self._on_issue(self._issue("mask-ambiguous", "Several images have the name that fits the mask.", mask, None,
                                       "It is left out; --mask-pattern says how masks are named."))  # fmt: skip
        for mask in self._pairs.spare:
            text = "The image has another mask beside it, which is read."
            self._on_issue(self._issue("mask-spare", text, mask, None, "It is left out.", Severity.INFO))

    def _objects(
        self, mask: MaskFile, labels: NDArray[Any] | LabelRuns, image: Path, *, single: bool
    ) -> Iterator[tuple[str, Segmentation]]:
        """Category and shape of every object in a mask; `single` where the image has several masks."""
        file = mask.path
        if file.suffix.lower() == ".npy" and not isinstance(labels, LabelRuns):
            yield from array_objects(labels)
            return
        is_large = isinstance(labels, LabelRuns)
        values: list[Value] = list(labels.present) if is_large else values_of(labels)
        if (of_classes := self._pairs.classes.get(file)) is not None:
            yield from self._instances_with_classes(mask, labels, of_classes, image.name)
            return
        classes = self._classes_for(file)
        folder = file.parent.name.lower()
        if classes.names:
            yield from self._named(mask, labels, values, classes, image.name)
        elif "class" in folder or "semantic" in folder:
            for value in self._without_void(file, values, sure=True):
                yield from ((_value_name(value), shape) for shape in _components(replace(mask, value=value)))
        elif not is_large and labels.ndim == 3:
            colors = [value for value in values if value not in (0, VOID_COLOR)]
            if "object" in folder or "instance" in folder:
                yield from ((DEFAULT_CATEGORY, replace(mask, value=color)) for color in colors)
            else:
                for color in colors:
                    yield from ((_value_name(color), shape) for shape in _components(replace(mask, value=color)))
        elif len(values) <= 1 + (0 in values):
            category = self._categories.get(file, "")
            self._check_border(file, labels)
            if single and not category and any(values):
                yield DEFAULT_CATEGORY, mask
            else:
                yield from ((category or DEFAULT_CATEGORY, shape) for shape in _components(mask))
        elif not is_large and is_soft(labels):
            yield from ((DEFAULT_CATEGORY, shape) for shape in soft_components(labels))
        else:
            sure = _has_palette(file, labels) or "object" in folder or "instance" in folder
            self._check_background(file, values)
            for value in self._without_void(file, values, sure=sure):
                yield DEFAULT_CATEGORY, replace(mask, value=value)

    def _classes_for(self, file: Path) -> Classes:
        """The class file nearest to a mask, up to the source's folder."""
        folder = file.parent
        if folder not in self._classes:
            above = [folder, *(parent for parent in folder.parents if parent.is_relative_to(self._root))]
            self._classes[folder] = find_classes(above)
        return self._classes[folder]

    def _named(
        self, mask: MaskFile, labels: NDArray[Any] | LabelRuns, values: list[Value], classes: Classes, image: str
    ) -> Iterator[tuple[str, Segmentation]]:
        """Objects of a mask whose values or colours a file names."""
        file = mask.path
        colors = _palette(file, labels) if classes.by_color else {}
        for value in values:
            color = colors.get(value, value)
            name = classes.names.get(color)
            if name is not None:
                if name.lower() not in BACKGROUND:
                    yield from ((name, shape) for shape in _components(replace(mask, value=value)))
            elif value == VOID or color == VOID_COLOR:
                self._report_void(file, Severity.INFO)
            elif value != 0:
                text = f"The mask holds the value {_value_name(color)}, which {classes.file} does not name."
                self._on_issue(self._issue("category-unknown", text, file, image, "Its pixels are left out.", of=file))

    def _instances_with_classes(
        self, mask: MaskFile, labels: NDArray[Any] | LabelRuns, of_classes: Path, image: str
    ) -> Iterator[tuple[str, Segmentation]]:
        """Objects of a VOC pair: their pixels from the mask of objects, their names from that of classes."""
        file, kinds = mask.path, read_labels(of_classes, mask.page)
        if isinstance(labels, LabelRuns):  # the other mask, as large, was refused
            raise DataError.of(expected="two masks of one size", found="a much larger one", where=str(file))
        if kinds.shape[:2] != labels.shape[:2]:
            raise DataError.of(
                expected=f"masks of objects and classes of one size, {labels.shape[1]} x {labels.shape[0]}",
                found=f"{kinds.shape[1]} x {kinds.shape[0]}",
                where=str(of_classes),
            )
        classes = self._classes_for(of_classes)
        colors = _palette(of_classes, kinds) if classes.by_color else {}
        for value in values_of(labels):
            if value in (0, VOID, VOID_COLOR):
                continue
            pixels = np.all(labels == np.asarray(value), axis=2) if labels.ndim == 3 else labels == value
            found = Counter({kind: int(np.count_nonzero(_equal(kinds, kind) & pixels)) for kind in values_of(kinds)})
            kind, count = found.most_common(1)[0]
            color = colors.get(kind, kind)
            name = classes.names.get(color) if classes.names else _value_name(color)
            if count < _CLASS_SHARE * int(np.count_nonzero(pixels)):
                text = f"The object of value {_value_name(value)} is of several classes in {of_classes.name}."
                self._on_issue(self._issue("class-mixed", text, file, image, "The class of most of its pixels counts.",
                                           Severity.WARNING, of=file))  # fmt: skip
            if name is None or name.lower() in BACKGROUND or (not classes.names and kind == 0):
                text = f"The object of value {_value_name(value)} has no class in {of_classes.name}."
                self._on_issue(self._issue("category-unknown", text, file, image, "It is left out.", of=file))
                continue
            yield name, replace(mask, value=value)

    def _without_void(self, file: Path, values: list[Value], *, sure: bool) -> list[Value]:
        """The values of objects: not 0, and not VOC's 255 beside ids that are counted up, or in masks as VOC's."""
        objects = [value for value in values if value != 0]
        for void in (VOID, _DEEP_VOID):
            others = [value for value in objects if isinstance(value, int) and value != void]
            counted = bool(others) and max(others) == len(others)
            if void in objects and len(objects) < void and others and (sure or counted):
                self._report_void(file, Severity.INFO if sure else Severity.WARNING, void)
                objects.remove(void)
        return [value for value in objects if value != VOID_COLOR]

    def _check_border(self, file: Path, labels: NDArray[Any] | LabelRuns) -> None:
        """Report once a mask whose object is all around what is not object."""
        if _is_around(labels) and "inverted" not in self._reported:
            self._reported.add("inverted")
            text = "The object goes around the whole border of the image; objects may be drawn as 0."
            self._on_issue(self._issue("mask-inverted", text, file, None, "The mask is read as it is: 0 is background.",
                                       Severity.WARNING))  # fmt: skip

    def _check_background(self, file: Path, values: list[Value]) -> None:
        """Report once a mask of several values, none of which is the background's 0."""
        if 0 not in values and "background" not in self._reported:
            self._reported.add("background")
            text = f"No pixel is 0, the background; each of {len(values)} values is an object, one may be background."
            self._on_issue(self._issue("mask-without-background", text, file, None,
                                       "A file _classes.csv beside the masks says what values mean.",
                                       Severity.WARNING))  # fmt: skip

    def _report_void(self, file: Path, severity: Severity, value: int = VOID) -> None:
        """Report once that a value means no object."""
        if "void" not in self._reported:
            self._reported.add("void")
            text = f"The value {value} is taken for what is neither object nor background, as Pascal VOC has it."
            self._on_issue(self._issue("mask-void", text, file, None, "Its pixels are background.", severity))

    def _issue(
        self,
        code: str,
        message: str,
        file: Path,
        image: str | None,
        repair: str,
        severity: Severity = Severity.ERROR,
        of: Path | None = None,
    ) -> Issue:
        """A finding; `of` is the mask file whose objects are lost."""
        return Issue(code, severity, message, repair, str(file), image, of.name if of else None)


def _recurring_names(pairs: MaskPairs) -> dict[Path, str]:
    """Classes that masks are named after: words that recur from image to image where images have several masks."""
    rests: dict[Path, str] = {}
    for image, masks in pairs.matched.items():
        for mask in masks if len(masks) > 1 else ():
            rest = mask.stem[len(image.stem) :] if mask.stem.startswith(image.stem) else mask.stem
            words = re.sub(r"^(masks?|seg|labels?|gt)[_-]|[_-](masks?|seg|labels?|gt)$", "", rest.strip("_-. "))
            if re.search(r"[A-Za-z]{2}", words) and not re.search(r"\d", words):
                rests[mask] = words.strip("_-. ")
    counts = Counter(rests.values())
    return {mask: rest for mask, rest in rests.items() if counts[rest] > 1 and rest}


def _labels(mask: MaskFile) -> NDArray[Any] | LabelRuns:
    """The values of a mask file, an array's included.

    Raises:
        DataError: it cannot be read, or not without running what is in it.
    """
    is_array = mask.path.suffix.lower() == ".npy"
    return read_array(mask.path) if is_array else read_labels_of_any_size(mask.path, mask.page)


def _is_around(labels: NDArray[Any] | LabelRuns) -> bool:
    """Whether all of the border is object, and not all of the image."""
    if isinstance(labels, LabelRuns):
        return labels.is_around
    border = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    return all(map(np.all, border)) and not labels.all()


def _has_palette(file: Path, labels: NDArray[Any] | LabelRuns) -> bool:
    """Whether pixels are numbers of colours."""
    return labels.palette is not None if isinstance(labels, LabelRuns) else has_palette(file)


def _palette(file: Path, labels: NDArray[Any] | LabelRuns) -> dict[Value, Value]:
    """The colours that pixels are numbers of; empty where they are not."""
    if isinstance(labels, LabelRuns):
        return {index: as_value(list(color)) for index, color in enumerate(labels.palette or ())}
    return palette_colors(file, labels) if labels.ndim == 2 and has_palette(file) else {}


def _equal(labels: NDArray[Any], value: Value) -> NDArray[np.bool_]:
    if labels.ndim == 2:
        return np.asarray(labels == value) if isinstance(value, int) else np.zeros(labels.shape, bool)
    return np.all(labels == np.asarray(value), axis=2)


def _value_name(value: Value) -> str:
    return f"#{value[0]:02x}{value[1]:02x}{value[2]:02x}" if isinstance(value, tuple) else str(value)


def _components(mask: MaskFile) -> Iterator[MaskFile]:
    for component in range(1, components_of(mask) + 1):
        yield replace(mask, component=component)
