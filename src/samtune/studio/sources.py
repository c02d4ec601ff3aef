"""What the studio opens: a prepared dataset, an export that `prepare` reads, or a plain folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from samtune.config import PrepareConfig
from samtune.data.archive import is_archive
from samtune.data.images import probe_image
from samtune.data.masks import region_of
from samtune.data.paths import relative_to
from samtune.data.prepare.prepare import prepare
from samtune.data.prepare.split import group_of
from samtune.data.prepare.spool import TABLE, TableRow
from samtune.data.readers import detect_format
from samtune.data.readers.files import files_below
from samtune.data.table import SCHEMA, Dataset, ImageEntry
from samtune.errors import DataError, SamtuneError
from samtune.studio.state import StudioState
from samtune.studio.store import Store, import_objects, numbered
from samtune.types import ImageRecord, Split
from samtune.utils.progress import Advance

DATASET = "dataset"


@dataclass(frozen=True)
class Source:
    """What was opened.

    Attributes:
        dataset: its images, and what is known of their objects.
        entries: the same images by what the studio calls them, see `key_of`.
        has_splits: whether the source says which image is for training, validation and testing.
        problems: images that were left out, and why.
        note: what the person should know; empty where there is nothing.
    """

    dataset: Dataset
    entries: dict[str, ImageEntry]
    has_splits: bool
    problems: tuple[SamtuneError, ...] = ()
    note: str = ""


def open_source(source: Path, folder: Path, progress: Advance = lambda done, total: None) -> Source:
    """Open a source.

    Args:
        source: a dataset that `prepare` wrote, an export in a format that it reads, or a folder of images.
        folder: the studio's, where a dataset is made of an export.
        progress: called with images done and their total, while one is.

    Raises:
        DataError: nothing there, no image in it, or annotations that cannot be read.
        StorageError: the disk refused.
    """
    if (source / TABLE).is_file():
        return _of_dataset(Dataset.open(source), has_splits=True)
    prepared = folder / DATASET
    if (prepared / TABLE).is_file():
        return _of_dataset(Dataset.open(prepared), has_splits=True)
    if not source.exists():
        raise DataError.of(
            expected="a dataset, an export or a folder of images",
            found="no such file or folder",
            where=str(source),
            do="check the path",
        )
    if is_archive(source) or _has_annotations(source):
        report = prepare(source, prepared, PrepareConfig(on_error="skip"), progress=progress)
        skipped = f"{report.broken} objects or images could not be used: {prepared / 'issues.json'}"
        return _of_dataset(report.dataset, has_splits=True, note=skipped if report.broken else "")
    return _of_images(source)


def key_of(entry: ImageEntry) -> str:
    """What the studio calls an image, whatever order a source lists it in: its path, and the part of the file."""
    return f"{entry.image_path}#{entry.part}"


def add_source(store: Store, source: Source, progress: Advance = lambda done, total: None) -> None:
    """Take the images of a source that the studio does not have yet, and, at the first time, all their objects.

    Raises:
        DataError: a mask of the source cannot be read.
        StorageError: the disk refused.
    """
    if not store.is_new:
        store.add_images((key, one.width, one.height) for key, one in source.entries.items())
        return

    def take(state: StudioState) -> None:
        fresh = numbered((key, one.width, one.height) for key, one in source.entries.items())
        for done, (image, entry) in enumerate(zip(fresh, source.entries.values(), strict=True), start=1):
            state.add_image(image)
            masks = ((region_of(source.dataset.read_mask(one)), one) for one in entry.objects if not one.is_fragment)
            import_objects(image, state, ((mask, one.category, one.iscrowd) for mask, one in masks if mask is not None))
            image.status = "done" if image.objects else "new"
            progress(done, len(source.entries))

    store.fill(take)


def _of_dataset(dataset: Dataset, *, has_splits: bool, note: str = "") -> Source:
    return Source(dataset, {key_of(entry): entry for entry in dataset.images}, has_splits, note=note)


def _has_annotations(source: Path) -> bool:
    """Whether a source is in a format that `prepare` reads. A folder of images alone is none."""
    try:
        detect_format(source)
    except DataError:
        if source.is_dir() and next(files_below(source), None) is not None:
            return False
        raise
    return True


def _of_images(source: Path) -> Source:
    """Images that nobody has annotated: a table without objects, which is never written."""
    rows: list[TableRow] = []
    problems: list[SamtuneError] = []
    for path in _images_in(source):
        name = relative_to(path, source)
        try:
            width, height = probe_image(path).upright_size
        except DataError as error:
            problems.append(error)
            continue
        record = ImageRecord(name, path, width, height, Split.TRAIN, (), group_of(name), source)
        rows.append(TableRow.of_image(name, record, name, width, height))
    if not rows:
        raise problems[0] if problems else DataError.of(expected="images", found="none", where=str(source))
    dataset = Dataset(source, pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    entries = {key_of(entry): entry for entry in dataset.images}
    note = "no annotations are recognised here: images alone"
    return Source(dataset, entries, False, tuple(problems), note)


def _images_in(source: Path) -> Iterator[Path]:
    """Image files of a folder that lie in it wherever links lead."""
    root = source.resolve()
    return (path for path in files_below(source) if path.resolve().is_relative_to(root))
