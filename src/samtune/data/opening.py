"""Opening image files that others made: allowed formats, caps on pixels, damage named. Nothing is decoded here."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from samtune.errors import DataError
from samtune.utils.files import LFS_POINTER

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow's names of the formats that are read; HEIF is read too where the package pillow-heif is installed."""
_EXPECTED = f"an image: {', '.join(FORMATS)}, or HEIF with pillow-heif"
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"})
"""File name endings under which readers look for images, in lower case."""
MAX_SIDE = 65_500
MAX_PIXELS = 1 << 27
"""Largest image that is read whole: 134 million pixels are 403 MB as RGB."""
MAX_SIDE_IN_TILES = 1_000_000
MAX_PIXELS_IN_TILES = 1 << 31
"""Largest image that is read in windows; the mask API counts pixels in 32 bits."""
PNG_MARK = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG."""
# Only these decoders are ever loaded; without this Pillow would import every one it has.
_DECODERS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_ORIENTATION = 0x0112


class ImageError(DataError):
    """An image file cannot be used. `code` is the kebab-case name of the finding it becomes."""

    code: str = "image-damaged"


def refuse_image(code: str, *, expected: str, found: str, where: str, do: str | None = None) -> ImageError:
    """The error about an image file, and the code of the finding it becomes."""
    error = ImageError.of(expected=expected, found=found, where=where, do=do)
    error.code = code
    return error


def no_such_image(path: Path) -> ImageError:
    """The error about an image that is not where annotations or a table say."""
    return refuse_image(
        "image-file-missing",
        expected="an image file",
        found="no such file",
        where=str(path),
        do="put the image there, or name its folder with --images",
    )


@contextmanager
def opened(path: Path) -> Generator[Image.Image]:
    """The file opened by Pillow, header read, size checked; whatever goes wrong inside becomes a `DataError`."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats(path)) as image:
                check_size(path, image.width, image.height)
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "more pixels than that") from error
    except Image.UnidentifiedImageError as error:
        raise refuse_image(
            "image-format",
            expected=_EXPECTED,
            found="a file of another kind, or one cut off in its header",
            where=str(path),
            do="convert it, or take it out of the annotation file",
        ) from error
    # Pillow's decoders raise these on damaged files; MemoryError is a header that lies about its size.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError, struct.error,
            MemoryError, OverflowError, ZeroDivisionError, Image.DecompressionBombWarning) as error:  # fmt: skip
        raise damaged_image(path, str(error) or type(error).__name__) from error


def check_file(path: Path) -> None:
    """Refuse what is missing, empty, unreadable, a Git LFS pointer, or a WebP image that claims too large a canvas."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise no_such_image(path) from error
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise refuse_image(
            "image-file-unreadable", expected="a readable image file", found=found, where=str(path)
        ) from error
    if head.startswith(LFS_POINTER):
        raise refuse_image(
            "image-lfs-pointer",
            expected="an image file",
            found="a Git LFS pointer, not the image itself",
            where=str(path),
            do="run `git lfs pull` in the dataset's repository",
        )
    if not head:
        raise refuse_image("image-file-empty", expected="an image file", found="an empty file", where=str(path))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":  # Pillow reserves the canvas of a WebP when it opens it
        check_size(path, *_webp_size(head))


def check_size(path: Path, width: int, height: int, *, in_tiles: bool = False) -> None:
    """Refuse images of no pixels, and of too many to be read whole, or in windows (`in_tiles`)."""
    if width < 1 or height < 1:
        raise damaged_image(path, f"a size of {width} x {height}")
    side, pixels = (MAX_SIDE_IN_TILES, MAX_PIXELS_IN_TILES) if in_tiles else (MAX_SIDE, MAX_PIXELS)
    if width > side or height > side or width * height > pixels:
        raise _too_large(path, f"{width} x {height} pixels")


def _formats(path: Path) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may have; HEIF where the file is one and its reader is installed."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
        return FORMATS
    try:
        import pillow_heif
    except ImportError as error:
        raise refuse_image(
            "image-format",
            expected=_EXPECTED,
            found="a HEIF image (HEIC), whose reader is not installed",
            where=str(path),
            do="pip install 'samtune[heif]', or convert it to JPEG",
        ) from error
    pillow_heif.register_heif_opener()  # pyright: ignore[reportUnknownMemberType]
    return (*FORMATS, "HEIF")


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


def check_end(path: Path, format: str) -> None:
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
        raise damaged_image(path, "a file cut off before its end")


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none that can be read.

    Raises:
        OSError: the pixels of a PNG cannot be decoded. Its EXIF may stand after them, so that Pillow decodes them to
            look for it; a second attempt would return what the first one left.
    """
    if image.format == "PNG" and "exif" not in image.info:
        image.load()
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):  # a broken EXIF block turns nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _too_large(path: Path, found: str) -> DataError:
    return refuse_image(
        "image-too-large",
        expected=f"an image of at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} a side",
        found=found,
        where=str(path),
        do="prepare it in tiles: --tile 1024 (TIFF only; others must be converted to a tiled TIFF first)",
    )


def damaged_image(path: Path, found: str) -> ImageError:
    """The error about a file that cannot be decoded."""
    return refuse_image(
        "image-damaged",
        expected="a whole image file",
        found=found,
        where=str(path),
        do="fetch the file again, or take it out",
    )
