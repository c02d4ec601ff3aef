"""Readers: each turns one annotation format into `ImageRecord`s, and says what it could not read.

What one annotation or image gets wrong becomes an `Issue`, handed to `on_issue`; the rest is still read. What makes the
whole source unreadable raises a `DataError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from samtune.data.readers.coco import is_coco, read_coco
from samtune.errors import DataError
from samtune.types import ImageRecord, Issue

OnIssue = Callable[[Issue], None]


def detect_format(source: Path) -> str:
    """The format of a source, recognised from its files.

    Raises:
        DataError: it does not exist, or is no format samtune knows.
    """
    if not source.exists():
        raise DataError.of(expected="annotations and images", found="no such file or folder", where=str(source))
    if is_coco(source):
        return "coco"
    raise DataError.of(
        expected="a COCO export: train|valid|test/_annotations.coco.json, or one JSON file and an image folder",
        found="none of these",
        where=str(source),
        do="name the format with --source-format, and the images' folder with --images",
    )


def read(
    source: Path, source_format: str = "auto", images: Path | None = None, *, on_issue: OnIssue
) -> Iterator[ImageRecord]:
    """Read a source.

    Args:
        source: folder or annotation file.
        source_format: one of `PrepareConfig.source_format`; auto recognises it.
        images: image folder, when the annotation file stands elsewhere.
        on_issue: told of everything that could not be read.

    Raises:
        DataError: the source cannot be read at all.
    """
    found = detect_format(source) if source_format == "auto" else source_format
    if found == "coco":
        return read_coco(source, images, on_issue)
    raise DataError.of(expected="a format samtune reads", found=repr(found), where="--source-format")
