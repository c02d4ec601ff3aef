"""Masks whose objects are found in their pixels: arrays of instance ids, and binary masks with softened edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import encode_rle
from samtune.data.readers.common import DEFAULT_CATEGORY
from samtune.errors import DataError
from samtune.types import Segmentation

_MOST_PIXELS = 1 << 31


def read_array(file: Path) -> NDArray[Any]:
    """A file of numpy's `[H, W]`, never unpickled.

    Raises:
        DataError: a pickle, a header that does not fit the file, or no whole numbers in two dimensions.
    """
    try:
        with file.open("rb") as opened:
            _check_header(opened, file.stat().st_size)
            labels: NDArray[Any] = np.load(opened, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise DataError.of(
            expected="an array of whole numbers",
            found="a pickle, which can run programs and is not loaded" if "ickle" in str(error) else str(error),
            where=str(file),
            do="in cellpose save masks as PNG or TIFF (File menu, or --save_png, --save_tif); they are read",
        ) from error
    if labels.ndim != 2 or labels.dtype.kind not in "bui" or not 0 < labels.size < _MOST_PIXELS:
        found = f"shape {labels.shape} of {labels.dtype}"
        raise DataError.of(expected="an array [H, W] of whole numbers", found=found, where=str(file))
    return labels


def _check_header(file: BinaryIO, size: int) -> None:
    """Refuse an array whose header claims more than the file holds. Source: numpy.lib.format, version 1.0 to 3.0."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("a pickle")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError("a header that does not fit the file")
    file.seek(0)


def array_objects(labels: NDArray[Any]) -> Iterator[tuple[str, Segmentation]]:
    """Objects of an array of instance ids, or the components of one of 0 and 1."""
    values = np.unique(labels)
    if values[values != 0].size == 1:
        yield from ((DEFAULT_CATEGORY, shape) for shape in soft_components((labels != 0).astype(np.uint8) * 255))
        return
    for value in values[values != 0]:
        yield DEFAULT_CATEGORY, encode_rle(np.asarray(labels == value))


def is_soft(labels: NDArray[Any]) -> bool:
    """Whether a gray mask is a binary one with softened edges: nearly all pixels 0 or 255, many values in between."""
    if labels.dtype != np.uint8:
        return False
    counts = np.bincount(labels.ravel(), minlength=256)
    return bool(counts[255]) and int(np.count_nonzero(counts)) > 8 and counts[0] + counts[255] >= 0.9 * labels.size


def soft_components(labels: NDArray[Any]) -> Iterator[Segmentation]:
    """The 8-connected components of the pixels from 128 up, in scan order."""
    _, numbered = cv2.connectedComponents((labels >= 128).astype(np.uint8), connectivity=8)
    order = np.unique(numbered, return_index=True)
    for label in sorted(order[0][1:], key=lambda label: int(order[1][label])):
        yield encode_rle(np.asarray(numbered == label))
