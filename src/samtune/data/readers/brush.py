"""Label Studio's brush strokes: a painted mask as run lengths in a stream of bits.

The stream is thi.ng's rle-pack, which Label Studio's documentation names: 32 bits count the values; 5 bits and one more
are the bits of a value; four times 4 bits and one more are the bits of a run's length. Then come runs: a bit that says
whether one value is repeated, two bits that choose how many bits the length takes, the length less one, and the value,
or that many values one by one. The values are the bytes of an RGBA image, row by row; the mask is its alpha channel.
Source: github.com/thi-ng/umbrella, packages/rle-pack, README, and labelstud.io/guide/export (Brush labels).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from samtune.data.readers.shapes import unusable

_MOST_BYTES = 256 << 20


class _Bits:
    """Whole numbers of any number of bits from bytes, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 0, 8 * len(data)

    def read(self, count: int) -> int:
        """The next bits as a number.

        Raises:
            SegmentationError: there are not so many.
        """
        start, stop = self._at, self._at + count
        if stop > self._end:
            raise unusable("rle-text", "a brush cut off before its end")
        self._at = stop
        last = (stop + 7) // 8
        chunk = int.from_bytes(self._data[start // 8 : last], "big")
        return chunk >> (8 * last - stop) & ((1 << count) - 1)

    def read_all(self, count: int, bits: int) -> NDArray[np.uint8]:
        """So many numbers of at most 8 bits.

        Raises:
            SegmentationError: there are not so many.
        """
        return np.array([self.read(bits) for _ in range(count)], np.uint8)


def decode_brush(values: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask bool `[H, W]` of a brush.

    Args:
        values: bytes as a list of whole numbers, as Label Studio's JSON has them under `rle`.
        height, width: size of the image, in pixels.

    Raises:
        SegmentationError: no bytes, a stream that is cut off, or one of another size.
    """
    listed = cast("list[Any]", values) if isinstance(values, list) else []
    if not listed or len(listed) > _MOST_BYTES or not height or not width:
        raise unusable("rle-text", "a brush without data or without the image's size")
    if set(map(type, listed)) != {int} or min(listed) < 0 or max(listed) > 255:
        raise unusable("rle-text", "a brush of something else than bytes")
    bits = _Bits(bytes(listed))
    size = bits.read(32)
    if size != 4 * height * width:
        raise unusable("rle-sum", f"a brush of {size} values for an image of {width} x {height} in four channels")
    value_bits = bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in range(4)]
    if value_bits > 8:
        raise unusable("rle-text", f"a brush of {value_bits} bits a value")
    pixels = np.zeros(size, np.uint8)
    at = 0
    while at < size:
        repeated = bits.read(1)
        count = bits.read(length_bits[bits.read(2)]) + 1
        if at + count > size:
            raise unusable("rle-sum", "a brush that goes on behind the image's last pixel")
        pixels[at : at + count] = bits.read(value_bits) if repeated else bits.read_all(count, value_bits)
        at += count
    return np.asarray(pixels.reshape(height, width, 4)[:, :, 3] > 0)
