"""Images whose pixels are object numbers, with the palette of PASCAL VOC and DAVIS, as video benchmarks read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.masks.files import read_labels
from samtune.errors import DataError

MOST_OBJECTS = 255
"""Numbers that such an image can tell apart; 0 is the background."""


def davis_palette() -> NDArray[np.uint8]:
    """RGB of every number, uint8 `[256, 3]`: bits 0, 3 and 6 of a number are the highest of red, and so on."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (channel + 3 * bit)) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def write_label_image(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write object numbers `[H, W]`, 0 for the background, as a palette PNG.

    Raises:
        OSError: the disk refused.
    """
    image = Image.fromarray(labels)
    image.putpalette(davis_palette().tobytes())
    image.save(path, "PNG")


def read_label_image(path: Path) -> NDArray[np.uint8]:
    """Object numbers of a palette or gray image, uint8 `[H, W]`.

    Raises:
        DataError: it cannot be read, or is not one of numbers up to 255.
    """
    pixels = read_labels(path)
    if pixels.ndim != 2 or pixels.max(initial=0) > MOST_OBJECTS:
        raise DataError.of(
            expected="an image of object numbers, palette or gray", found="colours, or larger numbers", where=str(path)
        )
    return pixels.astype(np.uint8)
