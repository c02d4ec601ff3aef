"""Images for the page: scaled down as asked, upright, as PNG where small and JPEG where large."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import Region
from samtune.data.table import Dataset, ImageEntry
from samtune.studio.sources import key_of

LOSSLESS_PIXELS = 1 << 20
"""Images up to this size are shown without loss."""
JPEG_QUALITY = 92
MEMORY = 256 << 20
"""Bytes of encoded images that are kept."""
THUMBNAIL = 96
"""Side of a thumbnail in pixels."""


class Display:
    """Encodes images, and keeps the last ones."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[bytes, str]] = OrderedDict()
        self._pixels: tuple[str, NDArray[np.uint8]] | None = None

    def encoded(self, entry: ImageEntry, most: int) -> tuple[bytes, str]:
        """An image no longer than `most` pixels a side, and its media type.

        Raises:
            DataError: the file is missing, damaged, or not of the size it had.
        """
        place = key_of(entry), most
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
            found = self._kept[place] = _encode(_within(self._read(entry), most))
            while len(self._kept) > 1 and sum(len(content) for content, _ in self._kept.values()) > MEMORY:
                self._kept.popitem(last=False)
            return found

    def thumbnail(self, entry: ImageEntry, region: Region) -> str:
        """An object in its surroundings with its outline, as a PNG in base64."""
        with self._lock:
            pixels = self._read(entry)
        x0, y0, x1, y1 = region.box
        margin = max(4, max(x1 - x0, y1 - y0) // 4)
        left, top = max(0, x0 - margin), max(0, y0 - margin)
        part = pixels[top : y1 + margin, left : x1 + margin].copy()
        mask = np.zeros(part.shape[:2], np.uint8)
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = region.mask
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(max(part.shape[:2]) / THUMBNAIL))
        cv2.drawContours(part, contours, -1, (255, 200, 0), width)
        done, content = cv2.imencode(".png", cv2.cvtColor(_within(part, THUMBNAIL), cv2.COLOR_RGB2BGR))
        assert done
        return base64.b64encode(content.tobytes()).decode("ascii")

    def _read(self, entry: ImageEntry) -> NDArray[np.uint8]:
        if self._pixels is None or self._pixels[0] != key_of(entry):
            self._pixels = key_of(entry), self._dataset.read_image(entry)
        return self._pixels[1]


def _within(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = most / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _encode(pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    is_small = pixels.shape[0] * pixels.shape[1] <= LOSSLESS_PIXELS
    ending, options = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if is_small else (".jpg", _JPEG)
    done, content = cv2.imencode(ending, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    return content.tobytes(), "image/png" if is_small else "image/jpeg"


_JPEG = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
