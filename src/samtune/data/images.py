"""Reading image files that others made: allowed formats, a cap on pixels, every mode to 8-bit RGB, EXIF applied.

`probe_image` reads headers only. Everything here raises `DataError`, and nothing is decoded before its size is known.
Pillow reads what it reads whole; TIFF files with more (bands, pages, deep values, very many pixels) go through
`samtune.data.tiff`. Deep values become 8 bits in one way, see `samtune.data.intensity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from samtune.data.intensity import SAMPLE, Limits, is_deep, limits_of, quantiles_of, to_8_bits
from samtune.data.opening import (
    FORMATS,
    MAX_PIXELS,
    MAX_SIDE,
    PNG_MARK,
    SUFFIXES,
    ImageError,
    check_end,
    check_file,
    check_size,
    damaged_image,
    no_such_image,
    opened,
    orientation_of,
    refuse_image,
)
from samtune.data.reading import PLAIN, Reading
from samtune.data.tiff import TiffError, TiffImage, is_tiff, open_tiff
from samtune.types import Window
from samtune.utils.text import counted

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "PLAIN",
    "SUFFIXES",
    "ImageError",
    "ImageInfo",
    "Reading",
    "no_such_image",
    "probe_image",
    "read_image",
    "read_pixels",
    "read_thumbnail",
    "sample_quantiles",
    "turn_upright",
]

_TRANSPOSING = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image file's header says.

    Attributes:
        width, height: pixels as stored, before EXIF orientation.
        format: Pillow's name of the file format.
        mode: Pillow's name of the pixel layout, such as `RGB`, `L`, `P`, `I;16`.
        orientation: EXIF orientation, 1 to 8; 1 where there is none.
        bytes: size of the file.
        bands: values per pixel, without transparency.
        pages: images of the same size in the file.
        windows: whether parts of it can be read without reading all of it.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    bytes: int
    bands: int = 3
    pages: int = 1
    windows: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels after EXIF orientation."""
        return (self.height, self.width) if self.orientation in _TRANSPOSING else (self.width, self.height)


def probe_image(path: Path, reading: Reading = PLAIN) -> ImageInfo:
    """Read an image's header and check that the file is whole as far as its end tells, without decoding it.

    Raises:
        DataError: missing, empty, a Git LFS pointer, not an image of a known format, beyond the largest size (see
            `Reading.in_tiles`), without the bands or the page asked for, or cut off.
    """
    check_file(path)
    if tiff := _tiff(path, reading):
        check_size(path, tiff.width, tiff.height, in_tiles=reading.in_tiles)
        bands = reading.bands or (1,)
        has_bands = max(bands) <= (tiff.pages if tiff.bands == 1 else tiff.bands)
        if not has_bands or reading.page > tiff.pages:
            raise _no_such_band(path, reading, tiff.pages, tiff.bands)
        mode, size = tiff.dtype.name, path.stat().st_size
        return ImageInfo(
            tiff.width, tiff.height, "TIFF", mode, tiff.orientation, size, tiff.bands, tiff.pages, windows=True
        )
    with opened(path) as image:
        info = ImageInfo(
            image.width, image.height, str(image.format), image.mode, orientation_of(image), path.stat().st_size,
            bands=sum(name not in ("A", "a") for name in image.getbands()),
        )  # fmt: skip
    if reading.page > 1 or (reading.bands and max(reading.bands) > info.bands):
        raise _no_such_band(path, reading, 1, info.bands)
    check_end(path, info.format)
    return info


def read_image(
    path: Path, *, upright: bool = True, reading: Reading = PLAIN, window: Window | None = None
) -> NDArray[np.uint8]:
    """Read an image, or a part of it, as 8-bit RGB.

    Gray becomes three equal channels, transparency is dropped, palettes are looked up, and values of more than 8 bits
    are stretched by the percentiles of the whole image, see `samtune.data.intensity`.

    Args:
        path: the image file; of several pages the first is read, if `reading` does not name another.
        upright: turn the image as its EXIF orientation says; otherwise return the pixels as stored.
        reading: which bands and page, and how values become 8 bits.
        window: the part to read, in pixels of the result; all of it if left out.

    Returns:
        uint8 `[H, W, 3]`, RGB, or `[h, w, 3]` of the window.

    Raises:
        DataError: see `probe_image`; also pixels that cannot be decoded, or a window that lies outside.
    """
    check_file(path)
    if tiff := _tiff(path, reading):
        check_size(path, tiff.width, tiff.height, in_tiles=window is not None)
        try:
            pixels = tiff.read(reading.page - 1, _bands(tiff, reading), window)
        except (TiffError, MemoryError) as error:
            _leave_to_pillow(path, error, reading, tiff)
        else:
            if upright and tiff.orientation != 1:
                assert window is None, "tiles of images that must be turned are refused"
                pixels = turn_upright(pixels, tiff.orientation)
            return _rgb(pixels, path, reading)
    if window is None:
        return _read_whole(path, upright, reading)
    x0, y0, x1, y1 = window
    part = _kept_whole(path, _stamp(path), upright, reading)[y0:y1, x0:x1]
    if part.shape[:2] != (y1 - y0, x1 - x0):
        raise damaged_image(path, "an image that ends before this part of it")
    return np.ascontiguousarray(part)


def sample_quantiles(path: Path, reading: Reading) -> NDArray[np.float32] | None:
    """What is kept of an image to find the limits of its set, `[len(LEVELS), bands]`; None where its values are 8 bits.

    Raises:
        DataError: see `read_image`.
    """
    sample = _sample(path, reading)
    return None if sample is None else quantiles_of(sample)


def _read_whole(path: Path, upright: bool, reading: Reading) -> NDArray[np.uint8]:
    if (deep := _deep_colours(path)) is not None:
        chosen = deep[:, :, [band - 1 for band in reading.bands]] if reading.bands else deep
        return _rgb(chosen, path, reading)
    with opened(path) as image:
        turned = ImageOps.exif_transpose(image) if upright and orientation_of(image) != 1 else image
        if reading.bands:
            return _rgb(np.stack([_band(turned, band) for band in reading.bands], axis=2), path, reading)
        if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
            return _rgb(np.asarray(turned)[:, :, None], path, reading)
        return np.ascontiguousarray(np.asarray(_to_rgb(turned), np.uint8))


@lru_cache(maxsize=1)
def _kept_whole(path: Path, stamp: tuple[int, int], upright: bool, reading: Reading) -> NDArray[np.uint8]:
    """An image that cannot be read in parts, kept for the next part."""
    return _read_whole(path, upright, reading)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does, so that what is kept of it is not used for another."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _has_deep_colours(path: Path) -> bool:
    """Whether a file is a colour PNG of 16 bits, of which Pillow keeps the upper 8. Source: PNG, section 11.2.2."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(PNG_MARK) and head[24:26] in (b"\x10\x02", b"\x10\x06")


def _deep_colours(path: Path) -> NDArray[np.uint16] | None:
    """The pixels of a colour PNG of 16 bits, `[H, W, 3]` RGB; None for any other file."""
    check_file(path)
    if not _has_deep_colours(path):
        return None
    with opened(path) as image:
        image.load()  # Pillow names what is damaged; OpenCV gives what it could read of it
    import cv2  # only such files need it, and it takes a while to load

    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise damaged_image(path, "pixels that cannot be decoded")
    return np.asarray(pixels[:, :, 2::-1], np.uint16)


def _band(image: Image.Image, band: int) -> NDArray[Any]:
    """One band of an image that Pillow reads, `[H, W]`."""
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    return np.asarray(image.getchannel(band - 1) if len(image.getbands()) > 1 else image)


def _bands(tiff: TiffImage, reading: Reading) -> tuple[int, ...]:
    """The bands to read, counted from 0."""
    if reading.bands:
        return tuple(band - 1 for band in reading.bands)
    return (0, 1, 2) if tiff.bands >= 3 else (0,)


def _rgb(pixels: NDArray[Any], path: Path, reading: Reading) -> NDArray[np.uint8]:
    """Pixels `[h, w, 1 or 3]` of any type as RGB."""
    if pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    elif is_deep(pixels):
        pixels = to_8_bits(pixels, reading.limits or _limits(path, _stamp(path), reading))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.uint8)


@lru_cache(maxsize=64)
def _limits(path: Path, stamp: tuple[int, int], reading: Reading) -> Limits:
    """The limits of the whole image."""
    sample = _sample(path, reading)
    assert sample is not None, "only deep values are stretched"
    return limits_of(sample, reading.percentiles)


def _sample(path: Path, reading: Reading) -> NDArray[Any] | None:
    """Pixels `[n, bands]` from all over an image; None where its values are 8 bits."""
    if tiff := _tiff(path, reading):
        if tiff.dtype.itemsize == 1:
            return None
        try:
            return tiff.sample(reading.page - 1, _bands(tiff, reading), SAMPLE)
        except (TiffError, MemoryError) as error:
            _leave_to_pillow(path, error, reading, tiff)
    if (deep := _deep_colours(path)) is not None:
        step = max(1, int((deep.shape[0] * deep.shape[1] / SAMPLE) ** 0.5))
        chosen = [band - 1 for band in reading.bands or (1, 2, 3)]
        return np.ascontiguousarray(deep[::step, ::step, chosen]).reshape(-1, len(chosen))
    with opened(path) as image:
        if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            return None
        step = max(1, int((image.width * image.height / SAMPLE) ** 0.5))
        return np.array(np.asarray(image)[::step, ::step]).reshape(-1, 1)


def _tiff(path: Path, reading: Reading) -> TiffImage | None:
    """The file for `samtune.data.tiff`, where it is a TIFF that Pillow does not read, or reads less of."""
    if not is_tiff(path):
        return None
    try:
        tiff = open_tiff(path)
    except (TiffError, MemoryError) as error:
        _leave_to_pillow(path, error, reading)
        return None
    return tiff if _is_large(tiff) or reading.in_tiles or not (tiff.plain and reading.is_plain) else None


def _leave_to_pillow(path: Path, error: Exception, reading: Reading, tiff: TiffImage | None = None) -> None:
    """Return where Pillow may read a file, since it has codecs that tifffile lacks; else refuse it."""
    found = str(error) or "more pixels than fit into memory"
    if not reading.is_plain or (tiff is not None and _is_large(tiff)):
        raise damaged_image(path, found) from error
    try:
        with opened(path):
            return
    except ImageError as other:
        raise (damaged_image(path, found) if other.code == "image-format" else other) from error


def _is_large(tiff: TiffImage) -> bool:
    return tiff.width * tiff.height > MAX_PIXELS or max(tiff.width, tiff.height) > MAX_SIDE


def read_thumbnail(path: Path, side: int, reading: Reading = PLAIN) -> NDArray[np.uint8]:
    """Decode an image, and so prove that it can be, into a small gray upright image by which to compare images.

    JPEG files are decoded at an eighth of their size, which reads every byte but is several times as fast. Of images
    that are read in windows some rows are read.

    Returns:
        uint8 `[side, side]`, each pixel the mean of its part of the image; the aspect ratio is not kept.

    Raises:
        DataError: see `probe_image`; also pixels that cannot be decoded.
    """
    if tiff := _tiff(path, reading):
        return _thumbnail_of_windows(path, tiff, side, reading)
    if not reading.is_plain or _has_deep_colours(path):
        whole = Image.fromarray(read_image(path, reading=reading)).convert("L")
        return np.asarray(whole.resize((side, side), Image.Resampling.BOX), np.uint8)
    with opened(path) as image:
        orientation = orientation_of(image)
        image.draft("L", (4 * side, 4 * side))
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            gray = Image.fromarray(_rgb(np.asarray(image)[:, :, None], path, reading)).convert("L")
        else:
            gray = _to_rgb(image).convert("L") if image.mode != "L" else image
        small = gray.resize((side, side), Image.Resampling.BOX)
        return np.ascontiguousarray(turn_upright(np.asarray(small, np.uint8), orientation))


def _thumbnail_of_windows(path: Path, tiff: TiffImage, side: int, reading: Reading) -> NDArray[np.uint8]:
    """`read_thumbnail` of a TIFF file, of which never more than some rows are in memory."""
    small = np.zeros((side, side), np.uint8)
    edges = [round(number * tiff.height / side) for number in range(side + 1)]
    for row, (top, bottom) in enumerate(pairwise(edges)):
        middle = min(tiff.height - 1, (top + bottom) // 2)
        lines = (top, max(bottom, top + 1)) if tiff.width * (bottom - top) <= SAMPLE else (middle, middle + 1)
        lines = (min(lines[0], tiff.height - 1), min(lines[1], tiff.height))
        part = read_image(path, reading=reading, window=(0, lines[0], tiff.width, lines[1]))
        gray = Image.fromarray(part).convert("L").resize((side, 1), Image.Resampling.BOX)
        small[row] = np.asarray(gray, np.uint8)
    return small


def read_pixels(path: Path, page: int = 1) -> NDArray[Any]:
    """Read an image's pixels as they are stored, for files whose values mean something: masks and label images.

    Args:
        path: the file.
        page: of a file with several, counted from 1.

    Returns:
        uint8 or uint16 or int32 `[H, W]` for gray, palette (the indices) and 1-bit (0 and 1) files, uint8 `[H, W, 3]`
        RGB otherwise. EXIF orientation is not applied.

    Raises:
        DataError: see `read_image`.
    """
    with opened(path) as image:
        if page > 1:
            image.seek(page - 1)
            check_size(path, image.width, image.height)
        if image.mode in ("L", "P") or image.mode.startswith("I"):
            return np.array(image)
        if image.mode == "1":
            return np.array(image, np.uint8)
        return np.array(image.convert("L") if image.mode in ("LA", "La") else image.convert("RGB"))


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array `[H, W, ...]` of stored pixels the way EXIF orientation 1 to 8 asks for, without copying.

    Source: EXIF 2.3, tag 0x0112: which corner the stored row 0 and column 0 belong to.
    """
    assert 1 <= orientation <= 8
    if orientation in _TRANSPOSING:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _no_such_band(path: Path, reading: Reading, pages: int, bands: int) -> ImageError:
    asked = f"bands {','.join(map(str, reading.bands))}" if reading.bands else f"page {reading.page}"
    return refuse_image(
        "image-without-band",
        expected=f"an image with {asked}",
        found=f"{counted(pages, 'page')} of {counted(bands, 'band')}",
        where=str(path),
        do="give other numbers to --bands or --page",
    )
