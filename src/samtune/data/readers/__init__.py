"""Annotation formats: which one a source is in, and `read`, which yields its images in any of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from samtune.data.readers.coco import read_coco
from samtune.data.readers.common import OnIssue, raise_errors, require_source
from samtune.data.readers.detect import FORMATS, detect_format
from samtune.data.readers.labelme import read_labelme
from samtune.data.readers.mask_folder import read_mask_folder
from samtune.data.readers.sa1b import read_sa1b
from samtune.data.readers.via import read_via
from samtune.data.readers.yolo import read_yolo
from samtune.errors import DataError
from samtune.types import ImageRecord

__all__ = ["FORMATS", "OnIssue", "detect_format", "raise_errors", "read"]


class _Read(Protocol):
    def __call__(self, path: Path, *, images: Path | None, on_issue: OnIssue) -> Iterator[ImageRecord]: ...


_READERS: dict[str, _Read] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "mask-folder": read_mask_folder,
    "labelme": read_labelme,
    "via": read_via,
    "sa1b": read_sa1b,
}


def read(
    source: Path, source_format: str = "auto", images: Path | None = None, *, on_issue: OnIssue = raise_errors
) -> Iterator[ImageRecord]:
    """Read a source in any format.

    Args:
        source: folder or annotation file.
        source_format: auto, or one of `FORMATS`.
        images: image folder, when the images stand elsewhere.
        on_issue: called for each finding. Annotations reported as errors are left out. By default errors are raised.

    Yields:
        The images with their objects.

    Raises:
        DataError: the source as a whole cannot be read; the message names file, field and line.
    """
    require_source(source)
    if images is not None and not images.is_dir():
        raise DataError.of(expected="a folder of images", found="no such folder", where=f"--images {images}")
    name = detect_format(source) if source_format == "auto" else source_format
    if name not in _READERS:
        raise DataError.of(expected=f"one of {', '.join(FORMATS)}", found=name, where="--source-format")
    yield from _READERS[name](source, images=images, on_issue=on_issue)
