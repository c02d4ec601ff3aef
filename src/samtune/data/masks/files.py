"""Mask files and label images: read, written, split into connected components."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.images import ImageError, read_pixels
from samtune.data.masks.large import LabelRuns, read_label_runs
from samtune.data.masks.regions import Region, refuse, region_of
from samtune.data.opening import PNG_MARK
from samtune.errors import DataError
from samtune.types import MaskFile

_THRESHOLD = 128
_PIECE = 4096
"""Zero bytes that are compressed at once."""
_ADLER = 65521
"""Modulus of the check that ends a zlib stream: two sums, the upper of all values of the lower. Source: RFC 1950."""
_ZLIB_HEAD, _ZLIB_END = b"\x78\x01", b"\x03\x00"
"""Deflate with a window of at most 32 KiB, fastest; and an empty last block."""


def read_mask_file(path: Path) -> NDArray[np.bool_]:
    """Read a mask as `write_mask_file` wrote it, bool `[H, W]`: PNG, or JPG thresholded at 128 because it is lossy.

    Raises:
        DataError: a file that is missing or no image, or one of several channels.
    """
    pixels = read_pixels(path)
    if pixels.ndim != 2:
        raise DataError.of(expected="a mask of one channel", found=f"{pixels.shape[2]} channels", where=str(path))
    highest = 1 if _is_one_bit(path) else _THRESHOLD
    return pixels >= highest


def write_mask_file(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask bool `[H, W]` as a 1-bit PNG or, for `.jpg`, as a gray JPEG of 0 and 255; the same bytes every time.

    Raises:
        OSError: the disk refused.
    """
    height, width = mask.shape
    write_region_file(path, region_of(mask), height, width)


def write_region_file(path: Path, region: Region | None, height: int, width: int) -> None:
    """Write the mask of an image of `height` x `width` of which only one part, or None, holds an object.

    Raises:
        OSError: the disk refused.
    """
    if path.suffix.lower() == ".png":
        path.write_bytes(mask_png(region, height, width))
        return
    whole = region.paste(height, width) if region else np.zeros((height, width), bool)
    with path.open("wb") as file:
        Image.fromarray(whole.view(np.uint8) * 255).save(file, "JPEG", quality=90)


def read_labels(path: Path, page: int = 1) -> NDArray[Any]:
    """The pixels of a file whose values mean something, `[H, W]` or `[H, W, 3]`; see `samtune.data.images.read_pixels`.

    Three equal channels become one. A JPEG becomes 0 and 255, thresholded at 128: its other values are noise.

    Raises:
        DataError: the file cannot be read.
    """
    return _read_labels(path, page, _stamp(path))


@lru_cache(maxsize=2)
def _read_labels(path: Path, page: int, stamp: tuple[int, int]) -> NDArray[Any]:
    pixels = read_pixels(path, page)
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if path.suffix.lower() in (".jpg", ".jpeg"):
        gray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
        pixels = np.where(gray >= _THRESHOLD, np.uint8(255), np.uint8(0))
    pixels.flags.writeable = False
    return pixels


def read_labels_of_any_size(path: Path, page: int = 1) -> NDArray[Any] | LabelRuns:
    """As `read_labels`; the runs of a gray or palette image of more pixels than are held.

    Raises:
        DataError: the file cannot be read, or is too large in colours.
    """
    stamp = _stamp(path)
    try:
        return _read_labels(path, page, stamp)
    except ImageError as error:
        if error.code != "image-too-large":
            raise
    return _read_runs(path, stamp)


@lru_cache(maxsize=1)
def _read_runs(path: Path, stamp: tuple[int, int]) -> LabelRuns:
    return read_label_runs(path)


def components_of(file: MaskFile) -> int:
    """How many 8-connected components the pixels of one value form in a mask file.

    Raises:
        DataError: the file cannot be read.
    """
    labels = read_labels_of_any_size(file.path, file.page)
    if isinstance(labels, LabelRuns):
        return 0 if isinstance(file.value, tuple) else labels.component_count(file.value)
    return len(_components(file.path, file.page, _stamp(file.path), file.value)[1])


def file_region(file: MaskFile, height: int, width: int) -> Region | None:
    """The pixels of a mask file that hold its value, or one of their components; None where there is none.

    Raises:
        DataError: the file cannot be read, or (`SegmentationError`) is not of the image's size.
    """
    stamp = _stamp(file.path)
    pixels = read_labels_of_any_size(file.path, file.page)
    if pixels.shape[:2] != (height, width):
        raise refuse(
            "mask-size",
            expected=f"a mask of the image's size, {width} x {height}",
            found=f"{pixels.shape[1]} x {pixels.shape[0]}",
            where=str(file.path),
        )
    if isinstance(pixels, LabelRuns):
        return None if isinstance(file.value, tuple) else pixels.region(file.value, file.component)
    if file.component is None:
        return region_of(_where_value(pixels, file.value))
    labels, order = _components(file.path, file.page, stamp, file.value)
    if not 1 <= file.component <= len(order):
        return None
    label, x0, y0, x1, y1 = order[file.component - 1]
    return Region(np.asarray(labels[y0:y1, x0:x1] == label), x0, y0)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does, so that the caches below never answer for an older one."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _components(
    path: Path, page: int, stamp: tuple[int, int], value: int | tuple[int, int, int] | None
) -> tuple[NDArray[np.int32], list[tuple[int, int, int, int, int]]]:
    """Labels int32 `[H, W]`, and per component in scan order its label and box xyxy."""
    import cv2  # only label images need it, and it takes a while to load

    chosen = _where_value(_read_labels(path, page, stamp), value)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(chosen.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    boxes = stats[:, :4].astype(int)
    # A component's first pixel in scan order lies in its box's top row.
    firsts = [
        (int(y), int(x) + int(np.flatnonzero(labels[y, x : x + w] == label)[0]), label, int(x), int(y), int(w), int(h))
        for label, (x, y, w, h) in enumerate(boxes.tolist())
        if 1 <= label < count
    ]
    return np.asarray(labels, np.int32), [(label, x, y, x + w, y + h) for _, _, label, x, y, w, h in sorted(firsts)]


def _where_value(pixels: NDArray[Any], value: int | tuple[int, int, int] | None) -> NDArray[np.bool_]:
    channels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if value is None:
        return np.any(channels != 0, axis=2, keepdims=True)[:, :, 0]
    same = np.equal(channels, np.asarray(value, np.int64))
    return np.all(same, axis=2, keepdims=True)[:, :, 0]


def _is_one_bit(path: Path) -> bool:
    """Whether `read_pixels` gives 0 and 1 for this file: a PNG of bit depth 1. Source: PNG specification, IHDR."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(PNG_MARK) and len(head) == 26 and head[24] == 1


def mask_png(region: Region | None, height: int, width: int) -> bytes:
    """A 1-bit gray PNG, packed and compressed only where the object is. Source: PNG specification, sections 5 and 11.2.

    By hand because it is what a prepared dataset is made of: ten times the speed of a general encoder (see
    docs/decisions/0010). The rows above and below the object are zeros, whose compressed form is known.
    """
    stride = 1 + (width + 7) // 8  # the first byte of a row is its filter, 0: none
    x0, y0, x1, y1 = region.box if region is not None else (0, 0, 0, 0)
    rows = np.zeros((y1 - y0, stride), np.uint8)
    if region is not None:
        left = x0 // 8
        part = np.zeros((y1 - y0, x1 - 8 * left), np.uint8)
        part[:, x0 - 8 * left :] = region.mask
        packed = np.packbits(part, axis=1)
        rows[:, 1 + left : 1 + left + packed.shape[1]] = packed
    before, after = y0 * stride, (height - y1) * stride
    data = rows.tobytes()
    stream = b"".join((_ZLIB_HEAD, _zeros(before), _compressed(data), _zeros(after), _ZLIB_END))
    check = zlib.adler32(data, before % _ADLER << 16 | 1)  # of `before` zeros, and then of the rows
    low, high = check & 0xFFFF, check >> 16
    check = (high + after * low) % _ADLER << 16 | low  # and then of `after` zeros
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"".join(
        (PNG_MARK, _chunk(b"IHDR", header), _chunk(b"IDAT", stream + check.to_bytes(4, "big")), _chunk(b"IEND", b""))
    )


def _compressed(data: bytes, level: int = 1) -> bytes:
    """Blocks of a deflate stream that end at a whole byte and refer to nothing before. Source: RFC 1951, 3.2.3."""
    # The window is small because making a large one takes longer than most objects do.
    compressor = zlib.compressobj(level, zlib.DEFLATED, -12, 6)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)


def _zeros(count: int) -> bytes:
    """So many zero bytes, compressed."""
    return _PIECE_OF_ZEROS * (count // _PIECE) + _few_zeros(count % _PIECE)


@lru_cache(maxsize=_PIECE)
def _few_zeros(count: int) -> bytes:
    return _compressed(bytes(count), 9) if count else b""


_PIECE_OF_ZEROS = _compressed(bytes(_PIECE), 9)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
