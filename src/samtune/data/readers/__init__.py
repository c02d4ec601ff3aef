"""Annotation formats: which one a source is in, and `read`, which yields its images in any of them.

Only the reader that is used is loaded: some bring libraries that take longer to load than a small set to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol

from samtune.data.readers.common import AUTO, OnIssue, ReadOptions, raise_errors, require_source
from samtune.data.readers.detect import FORMATS, detect_format
from samtune.data.readers.files import content_folder
from samtune.data.readers.mask_classes import count_pages
from samtune.data.readers.whole import WholeSource
from samtune.errors import DataError
from samtune.types import ImageRecord, Issue, Severity

__all__ = ["FORMATS", "OnIssue", "ReadOptions", "detect_format", "raise_errors", "read"]


class _Read(Protocol):
    def __call__(
        self, path: Path, *, images: Path | None, on_issue: OnIssue, options: ReadOptions
    ) -> Iterator[ImageRecord]: ...


def read(
    source: Path,
    source_format: str = "auto",
    images: Path | None = None,
    *,
    on_issue: OnIssue = raise_errors,
    options: ReadOptions = AUTO,
) -> Iterator[ImageRecord]:
    """Read a source in any format.

    Args:
        source: folder or annotation file.
        source_format: auto, or one of `FORMATS`.
        images: image folder, when the images stand elsewhere.
        on_issue: called for each finding. Annotations reported as errors are left out. By default errors are raised.
        options: what the user says where a source has two readings.

    Yields:
        The images with their objects.

    Raises:
        DataError: the source as a whole cannot be read; the message names file, field and line.
    """
    require_source(source)
    if images is not None and not images.is_dir():
        raise DataError.of(expected="a folder of images", found="no such folder", where=f"--images {images}")
    name = detect_format(source, on_issue) if source_format == "auto" else source_format
    if name not in FORMATS:
        raise DataError.of(expected=f"one of {', '.join(FORMATS)}", found=name, where="--source-format")
    unread: Counter[str] = Counter()
    errors, explained = 0, False

    def noting(issue: Issue) -> None:
        nonlocal errors, explained
        explained = explained or (issue.code == "labels-missing" and issue.severity is Severity.WARNING)
        if issue.severity is Severity.ERROR:
            errors += 1
            if issue.annotation is not None and issue.image:
                unread[Path(issue.image).name] += 1
        on_issue(issue)

    root = content_folder(source)
    whole = WholeSource(root)
    seen: dict[int, int] = {}  # hashes of objects by those of images, of which there may be millions
    for record in _reader(name)(root, images=images, on_issue=noting, options=options):
        if options.all_pages and record.page is None and (pages := count_pages(record.path)) > 1:
            noting(_pages_unsaid(record, name, pages))
            unread.clear()
            continue
        lost = unread[record.path.name]
        image = hash((record.split, record.path, record.page))
        objects = hash(tuple((one.category, one.segmentation) for one in record.annotations))
        if image in seen:
            noting(_again(record, same=seen[image] == objects))
            unread.clear()
            continue
        seen[image] = objects
        whole.add(record)
        yield replace(record, unread=lost) if lost else record
        unread.clear()  # readers report on an image before they yield it
    for issue in whole.issues(errors, splits_explained=explained):
        on_issue(issue)


def _pages_unsaid(record: ImageRecord, name: str, pages: int) -> Issue:
    """The finding about an image whose pages are all asked for, in a format that draws on one."""
    text = f"The image has {pages} pages, and {name} does not say on which one its objects are drawn."
    do = "choose one: --page 1; masks of as many pages as their images tell all of them"
    repair = "The image and its objects are left out."
    return Issue("page-unsaid", Severity.ERROR, text, repair, str(record.source), record.path.name, do=do)


def _again(record: ImageRecord, *, same: bool) -> Issue:
    """The finding about an image that is described a second time in its split."""
    text = "The image is described twice" + (", with the same objects." if same else ", with different objects.")
    repair = "The second description is left out."
    severity = Severity.WARNING if same else Severity.ERROR
    do = "" if same else f"keep the description that is right: that in {record.source}, or the one read before"
    return Issue("image-twice", severity, text, repair, str(record.source), record.path.name, do=do)


def _reader(name: str) -> _Read:
    """`read_FORMAT` in the file of that name, or what reads its `FORMAT` of one JSON per image."""
    own = name.replace("-", "_")
    module = import_module(f"{__name__}.{own}")
    if hasattr(module, f"read_{own}"):
        return getattr(module, f"read_{own}")
    read_json_images = import_module(f"{__name__}.per_image").read_json_images

    def read_format(
        path: Path, *, images: Path | None, on_issue: OnIssue, options: ReadOptions
    ) -> Iterator[ImageRecord]:
        del options  # such files have one reading
        return read_json_images(path, module.FORMAT, images=images, on_issue=on_issue)

    return read_format
