"""The values of one mask file: an image, or a NumPy array as segmentation tools save it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import read_labels
from samtune.errors import DataError

_MOST_VALUES = 1 << 31


def read_mask_values(file: Path) -> NDArray[Any]:
    """The values of a mask file, an array's included.

    Raises:
        DataError: it cannot be read, or not without running what is in it.
    """
    return _array(file) if file.suffix.lower() == ".npy" else read_labels(file)


def _array(file: Path) -> NDArray[Any]:
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
    if labels.ndim != 2 or labels.dtype.kind not in "bui" or not 0 < labels.size < _MOST_VALUES:
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
