"""A prepared dataset of drawn images, written without an export and without `prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from samtune.data.table import SCHEMA, Dataset, write_table
from samtune.utils.files import new_folder

WriteImage: TypeAlias = Callable[[Path, int, np.random.Generator], list[dict[str, Any]]]
"""Writes an image into `images/` of a folder, its masks into `masks/`, and returns its rows of the table."""


def write_drawn(
    out: Path, count: int, write_image: WriteImage, *, seed: int, advance: Callable[[int, int], None]
) -> Dataset:
    """Draw `count` images with exact masks as a prepared dataset.

    Args:
        out: folder to write, replaced when it exists.
        count: how many images.
        write_image: draws the image of a number, from a generator of its own.
        seed: of everything drawn; the same seed gives the same bytes.
        advance: called with images drawn and their total.

    Raises:
        StorageError: the disk refused.
    """
    rows: list[dict[str, Any]] = []
    with new_folder(out, sync=False) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for number in range(count):
            rows += write_image(folder, number, np.random.default_rng((seed, number)))
            advance(number + 1, count)
        write_table(folder, pl.DataFrame(rows, schema=SCHEMA))
    return Dataset.open(out)
