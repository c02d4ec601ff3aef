"""Cityscapes: `gtFine/SPLIT/CITY/*_gtFine_instanceIds.png` beside `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`.

A pixel is 1000 times the class and the number of the instance; below 1000 it is stuff, or a group of things.
Source: github.com/mcordts/cityscapesScripts, helpers/labels.py and preparation/json2instanceImg.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from samtune.data.masks import read_labels
from samtune.data.readers.common import AUTO, OnIssue, ReadOptions, require_source, split_named, unique
from samtune.data.readers.files import files_below
from samtune.errors import DataError
from samtune.types import Annotation, ImageRecord, Issue, MaskFile, Severity, Split

_ENDING, _IMAGE_ENDING = "_gtFine_instanceIds", "_leftImg8bit"
_THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 29: "caravan", 30: "trailer", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip


def read_cityscapes(
    path: Path, *, images: Path | None = None, on_issue: OnIssue, options: ReadOptions = AUTO
) -> Iterator[ImageRecord]:
    """Read Cityscapes' instances of things; groups of things are crowd regions.

    Args:
        path: the folder that holds `gtFine` and `leftImg8bit`.
        images: folder of the images, when they are not below `path`.
        on_issue: called for each finding; masks without an image are reported and left out.
        options: not used.

    Yields:
        The images by split, city and name.

    Raises:
        DataError: no such folder, no such masks in it.
    """
    del options
    require_source(path)
    by_stem = {file.stem.removesuffix(_IMAGE_ENDING): file for file in files_below(images or path)
               if file.stem.endswith(_IMAGE_ENDING)}  # fmt: skip
    ids: set[str] = set()
    found = False
    for mask in files_below(path, (f"{_ENDING}.png",)):
        stem = mask.stem.removesuffix(_ENDING)
        image = by_stem.get(stem)
        if image is None:
            text = f"The mask has no image {stem}{_IMAGE_ENDING}.png."
            on_issue(Issue("image-missing", Severity.ERROR, text, "It is left out.", str(mask)))
            continue
        found = True
        try:
            labels = read_labels(mask)
        except DataError as error:
            text = f"The mask cannot be read: {error.found}."
            issue = Issue("mask-unreadable", Severity.ERROR, text, "It is left out.", str(mask), image.name, mask.name)
            on_issue(issue.caused_by(error))
            continue
        split = next((split for part in mask.parent.parts[::-1] if (split := split_named(part))), Split.TRAIN)
        objects = [
            Annotation(f"{stem}-{value}", _THINGS[number], MaskFile(mask, value), iscrowd=value < 1000,
                       where=f"value {value}")
            for value in map(int, np.unique(labels) if labels.ndim == 2 else ())
            if (number := value // 1000 or value) in _THINGS
        ]  # fmt: skip
        yield ImageRecord(
            image_id=unique(stem, ids),
            path=image,
            width=labels.shape[1],
            height=labels.shape[0],
            split=split,
            annotations=tuple(objects),
            group=stem,
            source=mask,
        )
    if not found:
        raise DataError.of(expected=f"masks *{_ENDING}.png with their images", found="none", where=str(path))
