"""COCO run lengths: plain counts, the compressed text, and masks."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks.native import NATIVE
from samtune.data.masks.regions import Region, check_size, refuse
from samtune.types import RunLengths

# Numbers of at most seven characters of 5 bits, which differences of counts up to 2^31 take; a character from P on says
# that the number goes on.
_COUNTS = re.compile(rb"(?:[P-o]{0,6}[0-O])*")


def check_run_lengths(runs: RunLengths, height: int, width: int) -> None:
    """Refuse run lengths that do not describe exactly this image.

    Raises:
        SegmentationError: another size, a negative count, counts that do not sum to `height * width`.
    """
    if (runs.height, runs.width) != (height, width):
        raise refuse(
            "rle-size",
            expected=f"run lengths of the image's size, {width} x {height}",
            found=f"{runs.width} x {runs.height}",
        )
    if any(count < 0 for count in runs.counts):
        raise refuse("rle-negative", expected="counts of 0 or more", found=f"{min(runs.counts)}")
    total = sum(runs.counts)
    if total != height * width:
        raise refuse("rle-sum", expected=f"counts that sum to {height * width}", found=f"{total}")


def encode_rle(mask: NDArray[np.bool_]) -> RunLengths:
    """Run lengths of a mask bool `[H, W]`, column-major as in COCO, starting with the number of zeros."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges)
    first = [0] if flat.size and flat[0] else []
    return RunLengths((*first, *(int(count) for count in counts)), height, width)


def encode_region(region: Region | None, height: int, width: int) -> RunLengths:
    """As `encode_rle` of the whole mask of an image of `height` x `width`, without making that."""
    if region is None:
        return RunLengths((height * width,), height, width)
    rows, columns = region.mask.shape
    framed = np.zeros((columns, rows + 2), np.int8)
    framed[:, 1:-1] = region.mask.T
    changes = np.diff(framed, axis=1)
    starts, stops = (
        (column.astype(np.int64) + region.x0) * height + row + region.y0
        for column, row in (np.nonzero(changes == 1), np.nonzero(changes == -1))
    )
    # A run that reaches the last row goes on where the next column begins with one.
    apart = np.append(True, starts[1:] > stops[:-1])
    edges = np.stack([starts[apart], stops[np.append(apart[1:], True)]], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
    return RunLengths(tuple(counts if counts[-1] else counts[:-1]), height, width)


def parse_counts(counts: str | bytes, height: int, width: int) -> RunLengths:
    """Read COCO's compressed counts, a text of printable characters.

    Raises:
        SegmentationError: a size beyond the caps, a text cut off or of other characters, counts that do not sum to the
            size.
    """
    check_size(height, width, in_tiles=True)
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not _COUNTS.fullmatch(data):
        raise refuse("rle-text", expected="COCO's compressed counts", found="other characters, or a text cut off")
    try:
        plain: list[int] = NATIVE.toUncompressedRLE([{"size": [height, width], "counts": data}])[0]["counts"]
    except ValueError as error:  # the library's own check, where it has one
        raise refuse("rle-sum", expected=f"counts that sum to {height * width}", found=str(error)) from error
    runs = RunLengths(tuple(plain), height, width)
    check_run_lengths(runs, height, width)
    return runs


def format_counts(runs: RunLengths) -> str:
    """COCO's compressed text of run lengths.

    Raises:
        SegmentationError: see `decode_rle`.
    """
    check_size(runs.height, runs.width, in_tiles=True)
    check_run_lengths(runs, runs.height, runs.width)
    size = [runs.height, runs.width]
    text: bytes = NATIVE.frUncompressedRLE([{"size": size, "counts": list(runs.counts)}])[0]["counts"]
    return text.decode("ascii")
