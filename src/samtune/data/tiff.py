"""TIFF files beyond what Pillow reads: many bands or pages, deep values, OME-TIFF, and windows of large images.

What is not compressed is mapped, so that a window costs its own pixels; what is compressed is decoded tile by tile. The
memory used does not grow with the image, as long as the file is tiled or has short strips.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samtune.types import Window

if TYPE_CHECKING:
    from tifffile import TiffPage

MAX_SEGMENT_BYTES = 1 << 30
"""Largest tile or strip that is decoded."""

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ALPHA = (1, 2)
_KINDS = "uif"


class TiffError(Exception):
    """A TIFF file that cannot be read this way; the text says why."""


def is_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF or BigTIFF."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _MARKS
    except OSError:
        return False


def open_tiff(path: Path) -> TiffImage:
    """A TIFF file's first image. What the file's header says is kept for the next call.

    Raises:
        TiffError: not a TIFF file that can be read.
        OSError: no such file, or no permission.
    """
    status = path.stat()
    return _open(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _open(path: Path, stamp: tuple[int, int]) -> TiffImage:
    return TiffImage(path)


class TiffImage:
    """The first image of a TIFF file: pages of `height` x `width` pixels with some bands.

    OME-TIFF and ImageJ name their axes: channels are bands, everything else (depth, time, ...) is pages. Without such
    names, images of the same size are pages and the samples of a pixel are bands.

    Attributes:
        height, width: pixels as stored.
        bands: values per pixel, transparency not counted.
        pages: images of this size in the file.
        dtype: of the values.
        colour: whether the bands are red, green, blue.
        inverted: whether 0 is white.
        orientation: as EXIF counts it, 1 to 8.
        plain: whether Pillow reads the same: up to 8 bits, one page, gray, RGB or a palette.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        with _errors():
            import tifffile

            with _logged_errors("tifffile"):
                self._file = tifffile.TiffFile(path, _multifile=False)  # OME-XML may name other files, anywhere
                try:
                    self._read_header()
                finally:
                    self._file.filehandle.close()

    def _read_header(self) -> None:
        if not self._file.series:
            raise TiffError("no image")
        self._series: Any = self._file.series[0]
        page: Any = self._series.keyframe
        self._axes, self._shape = str(self._series.axes), tuple(int(size) for size in self._series.shape)
        self._page_axes = str(page.axes)
        self.height, self.width = (self._size(name) for name in "YX")
        self._band_axis = next((name for name in "SC" if name in self._axes), "")
        samples = self._size(self._band_axis) if self._band_axis else 1
        alpha = [kind for kind in page.extrasamples if int(kind) in _ALPHA] if self._band_axis == "S" else []
        self.bands = samples - (len(alpha) if samples > len(alpha) else 0)
        self.pages = math.prod(self._shape) // (self.height * self.width * samples)
        self.dtype: np.dtype[Any] = np.dtype(page.dtype or np.uint8)
        colours = page.photometric.name
        self.colour = colours in ("RGB", "YCBCR") and self.bands == 3
        self.inverted = colours == "MINISWHITE"
        turned = page.tags.valueof("Orientation", 1)
        self.orientation = turned if isinstance(turned, int) and 1 <= turned <= 8 else 1
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        self.plain = bits <= 8 and len(self._file.pages) == self.pages == 1 and (self.bands == 1 or self.colour)
        if colours not in ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR"):
            raise TiffError(f"{colours.lower()} colours")
        if self.dtype.kind not in _KINDS:
            raise TiffError(f"values of type {self.dtype}")

    def _size(self, name: str) -> int:
        if name not in self._axes:
            raise TiffError("an image without width and height")
        return self._shape[self._axes.index(name)]

    def read(self, page: int = 0, bands: tuple[int, ...] = (0,), window: Window | None = None) -> NDArray[Any]:
        """Pixels of one page.

        Args:
            page: counted from 0.
            bands: counted from 0; where the file has one band and several pages, these are counted.
            window: x0, y0, x1, y1 in pixels as stored, inside the image; all of it if left out.

        Returns:
            `[h, w, len(bands)]` in the type of the file, values with 0 for black.

        Raises:
            TiffError: no such page, band or window, or pixels that cannot be decoded.
        """
        x0, y0, x1, y1 = window or (0, 0, self.width, self.height)
        if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
            raise TiffError(f"an image of {self.width} x {self.height} pixels")
        with self._lock, _errors(), self._open():
            planes = [self._plane(*place, (x0, y0, x1, y1)) for place in self._places(page, bands)]
            pixels = np.stack(planes, axis=2)
        if self.inverted and pixels.dtype.kind == "u":
            pixels = np.iinfo(pixels.dtype).max - pixels
        return pixels

    @contextmanager
    def _open(self) -> Generator[None]:
        """The file open for reading; it is closed in between, because many images are kept."""
        handle = self._file.filehandle
        handle.open()
        try:
            yield
        finally:
            handle.close()

    def sample(self, page: int, bands: tuple[int, ...], most: int) -> NDArray[Any]:
        """About `most` pixels `[n, len(bands)]`, from every so many rows and columns of the whole page."""
        step = max(1, math.ceil(math.sqrt(self.height * self.width / most)))
        rows = max(step, (1 << 22) // self.width // step * step)
        parts = [
            self.read(page, bands, (0, top, self.width, min(top + rows, self.height)))[::step, ::step].copy()
            for top in range(0, self.height, rows)
        ]
        return np.concatenate([part.reshape(-1, len(bands)) for part in parts])

    def _places(self, page: int, bands: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Page and band, as the file counts them, of the bands asked for."""
        for band in bands:
            if self.bands == 1 and self.pages > 1 and max(bands) > 0:
                page, band = band, 0
            if not (0 <= page < self.pages and 0 <= band < self.bands):
                raise TiffError(f"{self.pages} pages of {self.bands} bands")
            yield page, band

    def _plane(self, page: int, band: int, window: Window) -> NDArray[Any]:
        """One band of one page, `[h, w]`."""
        x0, y0, x1, y1 = window
        others = [name for name in self._axes if name not in ("Y", "X", self._band_axis)]
        sizes = [self._size(name) for name in others]
        at: dict[str, Any] = dict(
            zip(others, (int(n) for n in np.unravel_index(page, sizes)) if sizes else (), strict=True)
        )
        if self._band_axis:
            at[self._band_axis] = band
        if self._series.dataoffset is not None:
            dtype = self.dtype.newbyteorder(self._file.byteorder)
            whole = np.memmap(self.path, dtype, "r", self._series.dataoffset, self._shape)
            places = at | {"Y": slice(y0, y1), "X": slice(x0, x1)}
            index = tuple(places[name] for name in self._axes)
            part = whole[index]
            return np.array(part if self._axes.index("Y") < self._axes.index("X") else part.T, self.dtype)
        leading = [name for name in self._axes if name not in self._page_axes]
        number = 0
        for name in leading:
            number = number * self._size(name) + at[name]
        return self._segments(self._series.pages[number], at.get("S", 0), window)

    def _segments(self, page: TiffPage, sample: int, window: Window) -> NDArray[Any]:
        """A window of one sample of a page, from the tiles or strips that it touches."""
        x0, y0, x1, y1 = window
        key: Any = page.keyframe
        if key.imagedepth != 1:
            raise TiffError("tiles with a depth")
        width, height = (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        height = min(height, key.imagelength) if not key.is_tiled else height
        across, down = math.ceil(key.imagewidth / width), math.ceil(key.imagelength / height)
        is_separate = key.planarconfig == 2
        if width * height * (1 if is_separate else key.samplesperpixel) * self.dtype.itemsize > MAX_SEGMENT_BYTES:
            raise TiffError(f"a compressed image in pieces of {width} x {height} pixels")
        result = np.zeros((y1 - y0, x1 - x0), self.dtype)
        tables = {"jpegtables": key.jpegtables} if key.jpegtables is not None else {}
        for row in range(y0 // height, math.ceil(y1 / height)):
            for column in range(x0 // width, math.ceil(x1 / width)):
                index = (sample * down if is_separate else 0) * across + row * across + column
                segment = self._decoded(page, index, tables)
                if segment is None:  # an empty tile
                    continue
                plane = segment[0, :, :, 0 if is_separate else sample]
                top, left = row * height, column * width
                ys = slice(max(y0, top), min(y1, top + plane.shape[0]))
                xs = slice(max(x0, left), min(x1, left + plane.shape[1]))
                result[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = plane[
                    ys.start - top : ys.stop - top, xs.start - left : xs.stop - left
                ]
        return result

    def _decoded(self, page: Any, index: int, tables: dict[str, bytes]) -> NDArray[Any] | None:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        if count > MAX_SEGMENT_BYTES:
            raise TiffError("a damaged list of tiles")
        handle = self._file.filehandle
        handle.seek(offset)
        data = handle.read(count)
        if len(data) < count:
            raise TiffError("a file cut off before its end")
        return page.keyframe.decode(data, index, **tables)[0]


@contextmanager
def _errors() -> Generator[None]:
    """Whatever tifffile and the codecs raise on files they cannot read becomes a `TiffError`."""
    try:
        yield
    except (TiffError, MemoryError):
        raise
    except Exception as error:  # tifffile names no set of exceptions
        text = " ".join(str(error).split())
        missing = "imagecodecs" in text
        raise TiffError("a compression that needs `pip install imagecodecs`" if missing else text[:200]) from error


@contextmanager
def _logged_errors(name: str) -> Generator[None]:
    """Damage that a library only logs becomes a `TiffError`; it would go on with whatever it could make of the file."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            messages.append(record.getMessage())
        return False

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
    if messages:
        raise TiffError(" ".join(messages[0].split())[:200])
