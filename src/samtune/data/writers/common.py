"""What every writer of a prepared dataset needs: a new folder, the splits, copies of images under their own names."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.data.readers.common import unique
from samtune.data.table import Dataset, ImageEntry
from samtune.errors import DataError
from samtune.types import Split
from samtune.utils.files import new_folder
from samtune.utils.output_folders import check_output


@contextmanager
def new_export(out: Path) -> Generator[Path]:
    """A folder to write an export into, which becomes `out` when it is whole; `out` must not hold anything yet."""
    check_output(out)
    with new_folder(out, sync=False) as target:
        yield target


def splits(dataset: Dataset) -> Iterator[tuple[Split, tuple[ImageEntry, ...]]]:
    """Every split that has images."""
    for split in Split:
        if images := dataset.split(split).images:
            yield split, images


def copied(dataset: Dataset, images: tuple[ImageEntry, ...], folder: Path) -> Iterator[tuple[ImageEntry, str]]:
    """Copy images one by one; gives each with its new name, no two of which differ in the ending only."""
    folder.mkdir(parents=True)
    stems: set[str] = set()
    for image in images:
        source = dataset.root / image.image_path
        if not source.is_file():
            raise DataError.of(
                expected="the dataset's images", found="no such file", where=str(source), do="run samtune prepare again"
            )
        name = unique(source.stem, stems) + source.suffix
        shutil.copyfile(source, folder / name)
        yield image, name
