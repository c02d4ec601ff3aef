"""Reading image files that others made: allowed formats, a cap on pixels, every mode to 8-bit RGB, EXIF applied.

`probe_image` reads headers only. Everything here raises `DataError`, and nothing is decoded before its size is known.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from samtune.errors import DataError
from samtune.utils.files import LFS_POINTER

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of the formats that are read."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File name endings under which readers look for images, in lower case."""

MAX_SIDE = 65_500
MAX_PIXELS = 1 << 27
"""Largest image: 134 million pixels are 403 MB as RGB."""

# Only these decoders are ever loaded; without this Pillow would import every one it has.
_DECODERS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_ORIENTATION = 0x0112
_TRANSPOSING = frozenset({5, 6, 7, 8})


class ImageError(DataError):
    """An image file cannot be used. `code` is the kebab-case name of the finding it becomes."""

    code: str = "image-damaged"


def _refuse(code: str, *, expected: str, found: str, where: str, do: str | None = None) -> ImageError:
    error = ImageError.of(expected=expected, found=found, where=where, do=do)
    error.code = code
    return error


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image file's header says.

    Attributes:
        width, height: pixels as stored, before EXIF orientation.
        format: Pillow's name of the file format.
        mode: Pillow's name of the pixel layout, such as `RGB`, `L`, `P`, `I;16`.
        orientation: EXIF orientation, 1 to 8; 1 where there is none.
        bytes: size of the file.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    bytes: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels after EXIF orientation."""
        return (self.height, self.width) if self.orientation in _TRANSPOSING else (self.width, self.height)


def probe_image(path: Path) -> ImageInfo:
    """Read an image's header and check that the file is whole as far as its end tells, without decoding it.

    Raises:
        DataError: missing, empty, a Git LFS pointer, not an image of a known format, beyond `MAX_PIXELS`, or cut off.
    """
    with _opened(path) as image:
        info = ImageInfo(
            image.width, image.height, str(image.format), image.mode, _orientation(image), path.stat().st_size
        )
    _check_end(path, info.format)
    return info


def read_image(path: Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """Read an image as 8-bit RGB.

    Gray becomes three equal channels, transparency is dropped, palettes are looked up. 16-bit gray is divided by the
    smallest of 2^8, 2^10, 2^12, 2^14, 2^16 that its largest value fits in; other deep pixels are stretched from
    their smallest to their largest value.

    Args:
        path: the image file; of several frames the first is read.
        upright: turn the image as its EXIF orientation says; otherwise return the pixels as stored.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        DataError: see `probe_image`; also pixels that cannot be decoded.
    """
    with _opened(path) as image:
        turned = ImageOps.exif_transpose(image) if upright and _orientation(image) != 1 else image
        return np.ascontiguousarray(np.asarray(_to_rgb(turned), np.uint8))


def read_thumbnail(path: Path, side: int) -> NDArray[np.uint8]:
    """Decode an image, and so prove that it can be, into a small gray upright image by which to compare images.

    JPEG files are decoded at an eighth of their size, which reads every byte but is several times as fast.

    Returns:
        uint8 `[side, side]`, each pixel the mean of its part of the image; the aspect ratio is not kept.

    Raises:
        DataError: see `probe_image`; also pixels that cannot be decoded.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        image.draft("L", (4 * side, 4 * side))
        gray = _to_rgb(image).convert("L") if image.mode != "L" else image
        small = gray.resize((side, side), Image.Resampling.BOX)
        return np.ascontiguousarray(turn_upright(np.asarray(small, np.uint8), orientation))


def read_pixels(path: Path) -> NDArray[Any]:
    """Read an image's pixels as they are stored, for files whose values mean something: masks and label images.

    Returns:
        uint8 or uint16 or int32 `[H, W]` for gray, palette (the indices) and 1-bit (0 and 1) files, uint8 `[H, W, 3]`
        RGB otherwise. EXIF orientation is not applied.

    Raises:
        DataError: see `read_image`.
    """
    with _opened(path) as image:
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


def no_such_image(path: Path) -> ImageError:
    """The error about an image that is not where annotations or a table say."""
    return _refuse(
        "image-file-missing",
        expected="an image file",
        found="no such file",
        where=str(path),
        do="put the image there, or name its folder with --images",
    )


@contextmanager
def _opened(path: Path) -> Generator[Image.Image]:
    """The file opened by Pillow, header read, size checked; whatever goes wrong inside becomes a `DataError`."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.width, image.height)
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "more pixels than that") from error
    except Image.UnidentifiedImageError as error:
        raise _refuse(
            "image-format",
            expected=f"an image ({', '.join(FORMATS)})",
            found="a file of another kind, or one cut off in its header",
            where=str(path),
            do="convert it, or take it out of the annotation file",
        ) from error
    # Pillow's decoders raise these on damaged files; MemoryError is a header that lies about its size.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError, struct.error,
            MemoryError, OverflowError, ZeroDivisionError, Image.DecompressionBombWarning) as error:  # fmt: skip
        raise _damaged(path, str(error) or type(error).__name__) from error


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise no_such_image(path) from error
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise _refuse(
            "image-file-unreadable", expected="a readable image file", found=found, where=str(path)
        ) from error
    if head.startswith(LFS_POINTER):
        raise _refuse(
            "image-lfs-pointer",
            expected="an image file",
            found="a Git LFS pointer, not the image itself",
            where=str(path),
            do="run `git lfs pull` in the dataset's repository",
        )
    if not head:
        raise _refuse("image-file-empty", expected="an image file", found="an empty file", where=str(path))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":  # Pillow reserves the canvas of a WebP when it opens it
        _check_size(path, *_webp_size(head))


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _damaged(path, f"a size of {width} x {height}")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(path, f"{width} x {height} pixels")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file. Source: RFC 9649, sections 2.5 to 2.7."""
    kind, data = head[12:16], head[20:]
    if len(data) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _check_end(path: Path, format: str) -> None:
    """Formats with an end mark must have it; a file cut off by a broken copy has not."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 4096))
        tail = file.read()
        file.seek(0)
        head = file.read(12)
    whole = True
    if format in ("JPEG", "MPO"):
        whole = b"\xff\xd9" in tail
    elif format == "PNG":
        whole = b"IEND" in tail
    elif format == "WEBP":
        whole = size >= 8 + int.from_bytes(head[4:8], "little")
    if not whole:
        raise _damaged(path, "a file cut off before its end")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):  # a broken EXIF block turns nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_shifted(np.asarray(image))).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(image))).convert("RGB")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _shifted(deep: NDArray[Any]) -> NDArray[np.uint8]:
    bits = max(8, int(deep.max()).bit_length())
    return (deep >> (bits + bits % 2 - 8)).astype(np.uint8)


def _stretched(deep: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.nan_to_num(deep.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255 and deep.dtype.kind == "i":
        return values.astype(np.uint8)
    return ((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def _too_large(path: Path, found: str) -> DataError:
    return _refuse(
        "image-too-large",
        expected=f"an image of at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} a side",
        found=found,
        where=str(path),
        do="cut it into tiles",
    )


def _damaged(path: Path, found: str) -> DataError:
    return _refuse(
        "image-damaged",
        expected="a whole image file",
        found=found,
        where=str(path),
        do="fetch the file again, or take it out",
    )
