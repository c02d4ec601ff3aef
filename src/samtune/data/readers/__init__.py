"""Annotation formats: which one a source is in, and `read`, which yields its images in any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from samtune.data.readers.coco import coco_files, read_coco
from samtune.data.readers.common import OnIssue, raise_errors, require_source
from samtune.errors import DataError
from samtune.types import ImageRecord


def detect_format(source: Path) -> str:
    """The format of a source, as `--source-format` names it.

    Raises:
        DataError: nothing there, or nothing recognised.
    """
    require_source(source)
    if coco_files(source):
        return "coco"
    raise DataError.of(expected="annotations in a known format", found="none", where=str(source))


def read(
    source: Path, source_format: str = "auto", images: Path | None = None, *, on_issue: OnIssue = raise_errors
) -> Iterator[ImageRecord]:
    """Read a source in any format.

    Args:
        source: folder or annotation file.
        source_format: auto, or a name that `detect_format` returns.
        images: image folder, when the annotation file stands elsewhere.
        on_issue: called for each finding. Annotations reported as errors are left out. By default errors are raised.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    detect_format(source) if source_format == "auto" else source_format
    yield from read_coco(source, images=images, on_issue=on_issue)
