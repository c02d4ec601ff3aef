"""Shapes that several tools write: rotated boxes, painted masks in base64, and the error for what has no area."""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.masks import SegmentationError, encode_rle
from samtune.data.readers.common import numbers, whole_number
from samtune.types import RunLengths

MAX_ENCODED = 64 << 20
"""Longest painted mask, in characters of base64."""


def unusable(code: str, found: str, *, do: str | None = None) -> SegmentationError:
    """The error about a shape that is no object; `code` is the name of the finding."""
    error = SegmentationError.of(expected="a shape with an area", found=found, do=do)
    error.code = code
    return error


def side(value: Any) -> int:
    """A width or height in pixels; 0 where it is none."""
    found = whole_number(value)
    return found if found is not None and 0 < found <= 65_500 else 0


def ring_of(points: Any) -> tuple[float, ...]:
    """A ring from points as pairs `[x, y]` or as objects `{"x": x, "y": y}`.

    Raises:
        SegmentationError: fewer than three points, or something else than pairs of finite numbers.
    """
    listed = cast("list[Any]", points) if isinstance(points, list) else []
    pairs = [_pair(point) for point in listed]
    if not pairs or any(pair is None for pair in pairs):
        raise unusable("polygon-coordinates", "points that are not pairs of finite numbers")
    if len(pairs) < 3:
        raise unusable("polygon-points", f"a polygon of {len(pairs)} points")
    return tuple(value for pair in pairs if pair is not None for value in pair)


def _pair(point: Any) -> tuple[float, ...] | None:
    if isinstance(point, dict):
        entry = cast("dict[str, Any]", point)
        point = [entry.get("x"), entry.get("y")]
    found = numbers(point)
    return found if found is not None and len(found) == 2 else None


def turned_rectangle(x: float, y: float, width: float, height: float, degrees: float) -> tuple[float, ...]:
    """A rectangle as a ring, turned clockwise as seen in the image around its upper left corner, in pixels."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    ring: list[float] = []
    for right, down in ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height)):
        ring += (x + right * cosine - down * sine, y + right * sine + down * cosine)
    return tuple(ring)


def decode_base64(data: Any, *, most: int = MAX_ENCODED) -> bytes:
    """Bytes from base64, also from a `data:` address.

    Raises:
        SegmentationError: no text, too long, or not base64.
    """
    if not isinstance(data, str) or len(data) > most:
        raise unusable("mask-unreadable", "no data, or more than is read")
    try:
        return base64.b64decode(data.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise unusable("mask-unreadable", str(error)) from error


def inflate(data: bytes, *, most: int = MAX_ENCODED) -> bytes:
    """Unpack zlib data of at most so many bytes.

    Raises:
        SegmentationError: it is damaged or larger.
    """
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(data, most)
    except zlib.error as error:
        raise unusable("mask-unreadable", str(error)) from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise unusable("mask-unreadable", "compressed data cut off, or larger than is read")
    return found


def png_mask(data: bytes, width: int, height: int) -> NDArray[np.bool_]:
    """A mask stored as PNG: where it is painted, bool `[h, w]`; in images with transparency where it is opaque.

    Args:
        data: the file.
        width, height: largest size, in pixels.

    Raises:
        SegmentationError: it cannot be decoded, or is larger.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width > width or image.height > height:
                raise unusable(
                    "mask-size", f"a mask of {image.width} x {image.height} in an image of {width} x {height}"
                )
            if image.mode in ("RGBA", "LA") or "transparency" in image.info:
                return np.asarray(image.convert("RGBA"))[:, :, 3] > 0
            return np.asarray(image if image.mode == "P" else image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, Image.DecompressionBombError) as error:
        raise unusable("mask-unreadable", str(error) or type(error).__name__) from error


def paste(part: NDArray[np.bool_], x: float, y: float, width: int, height: int) -> RunLengths:
    """Run lengths of an image of which one part, with its upper left corner at x, y, holds the object.

    Raises:
        SegmentationError: the image's size is not known, or the part reaches out of it.
    """
    if not width or not height or not math.isfinite(x) or not math.isfinite(y):
        raise unusable("mask-unreadable", "a mask without the image's size or its place in it")
    left, top = round(x), round(y)
    if left < 0 or top < 0 or left + part.shape[1] > width or top + part.shape[0] > height:
        raise unusable("mask-size", "a mask that reaches out of the image")
    whole = np.zeros((height, width), bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode_rle(whole)
