"""Polygons, run lengths and mask files <-> boolean arrays, with every native call guarded.

Rasterisation is the COCO mask API's, bit for bit. The native library gives run lengths; they are expanded only within
the object's box, which is what makes preparing fast. Hostile numbers (NaN, 1e30, sizes of 2^31, counts that do not fit)
are refused before the library sees them, because mask libraries crash or return uninitialised memory on them.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.data.images import MAX_PIXELS, MAX_SIDE, read_pixels
from samtune.errors import DataError
from samtune.types import MaskFile, Polygons, RunLengths, Segmentation

_NATIVE = "faster_coco_eval.mask_api_new_cpp"


def _load_native() -> Any:
    """The compiled module of faster-coco-eval alone; the package around it would load OpenCV, for plots."""
    if _NATIVE in sys.modules:
        return sys.modules[_NATIVE]
    package = importlib.util.find_spec(_NATIVE.partition(".")[0])
    assert package is not None, "faster-coco-eval is installed"
    spec = importlib.machinery.PathFinder.find_spec(_NATIVE, package.submodule_search_locations)
    assert spec is not None and spec.loader is not None, "faster-coco-eval has its compiled module"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_NATIVE] = module
    return module


_native: Any = _load_native()

MAX_COORDINATE = 1e6
"""Largest polygon coordinate, in pixels; far outside any image, small enough for the library's integers."""

MAX_OUTLINE = 4e6
"""Longest outline of one object, in pixels: the library reserves some 100 bytes for each."""

MAX_POINTS = 1_000_000

# Numbers of at most six characters of 5 bits; a character from P on says that the number goes on.
_COUNTS = re.compile(rb"(?:[P-o]{0,5}[0-O])*")
_THRESHOLD = 128


class SegmentationError(DataError):
    """One object's shape cannot be used. `code` is the kebab-case name of the finding it becomes."""

    code: str = "segmentation-invalid"


def _refuse(code: str, *, expected: str, found: str, where: str | None = None) -> SegmentationError:
    error = SegmentationError.of(expected=expected, found=found, where=where)
    error.code = code
    return error


@dataclass(frozen=True, slots=True)
class Region:
    """A mask kept as the part that holds the object.

    Attributes:
        mask: bool `[h, w]`, the pixels within the object's box.
        x0, y0: where the part lies in the image.
    """

    mask: NDArray[np.bool_]
    x0: int
    y0: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Xyxy in pixels, right and lower exclusive."""
        height, width = self.mask.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def area(self) -> int:
        """Mask pixels."""
        return int(np.count_nonzero(self.mask))

    def paste(self, height: int, width: int) -> NDArray[np.bool_]:
        """The whole mask, bool `[H, W]`."""
        whole = np.zeros((height, width), bool)
        x0, y0, x1, y1 = self.box
        whole[y0:y1, x0:x1] = self.mask
        return whole


def rasterise(segmentation: Segmentation, height: int, width: int) -> NDArray[np.bool_]:
    """An object's mask, equal to the COCO mask API's in every pixel.

    Args:
        segmentation: polygons (their union, less the holes), run lengths, or a mask file.
        height, width: the image, in pixels.

    Returns:
        bool `[H, W]`; may be empty of pixels, where the object lies outside the image or is thinner than a pixel.

    Raises:
        DataError: numbers the mask API cannot take or a size that is not the image's (both `SegmentationError`), or a
            mask file that cannot be read.
    """
    region = rasterise_region(segmentation, height, width)
    return np.zeros((height, width), bool) if region is None else region.paste(height, width)


def rasterise_region(segmentation: Segmentation, height: int, width: int) -> Region | None:
    """As `rasterise`, but only the part that holds the object; None where there is no pixel.

    Raises:
        DataError: see `rasterise`.
    """
    _check_size(height, width)
    match segmentation:
        case Polygons():
            return _polygon_region(segmentation, height, width)
        case RunLengths():
            check_run_lengths(segmentation, height, width)
            return _expand(np.asarray(segmentation.counts, np.int64), height)
        case MaskFile():
            return _file_region(segmentation, height, width)


def check_polygons(polygons: Polygons) -> None:
    """Refuse polygons that the native code must never see.

    Raises:
        SegmentationError: no ring, a ring of fewer than three points or of an odd count of numbers, a number that is
            not finite or beyond `MAX_COORDINATE`, an outline longer than `MAX_OUTLINE`.
    """
    if not polygons.rings:
        raise _refuse("polygon-empty", expected="at least one ring", found="none")
    outline = 0.0
    for number, ring in enumerate((*polygons.rings, *polygons.holes)):
        outline += _ring_length(ring, f"ring {number}")
    if outline > MAX_OUTLINE:
        raise _refuse(
            "polygon-too-long", expected=f"an outline of at most {MAX_OUTLINE:,.0f} pixels", found=f"{outline:,.0f}"
        )


def check_run_lengths(runs: RunLengths, height: int, width: int) -> None:
    """Refuse run lengths that do not describe exactly this image.

    Raises:
        SegmentationError: another size, a negative count, counts that do not sum to `height * width`.
    """
    if (runs.height, runs.width) != (height, width):
        raise _refuse(
            "rle-size",
            expected=f"run lengths of the image's size, {width} x {height}",
            found=f"{runs.width} x {runs.height}",
        )
    if any(count < 0 for count in runs.counts):
        raise _refuse("rle-negative", expected="counts of 0 or more", found=f"{min(runs.counts)}")
    total = sum(runs.counts)
    if total != height * width:
        raise _refuse("rle-sum", expected=f"counts that sum to {height * width}", found=f"{total}")


def encode_rle(mask: NDArray[np.bool_]) -> RunLengths:
    """Run lengths of a mask bool `[H, W]`, column-major as in COCO, starting with the number of zeros."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges)
    first = [0] if flat.size and flat[0] else []
    return RunLengths((*first, *(int(count) for count in counts)), height, width)


def decode_rle(runs: RunLengths) -> NDArray[np.bool_]:
    """The mask bool `[H, W]` that run lengths describe.

    Raises:
        SegmentationError: a size beyond the caps, a negative count, counts that do not sum to the size.
    """
    return rasterise(runs, runs.height, runs.width)


def parse_counts(counts: str | bytes, height: int, width: int) -> RunLengths:
    """Read COCO's compressed counts, a text of printable characters.

    Raises:
        SegmentationError: a size beyond the caps, a text cut off or of other characters, counts that do not sum to the
            size.
    """
    _check_size(height, width)
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not _COUNTS.fullmatch(data):
        raise _refuse("rle-text", expected="COCO's compressed counts", found="other characters, or a text cut off")
    try:
        plain: list[int] = _native.toUncompressedRLE([{"size": [height, width], "counts": data}])[0]["counts"]
    except ValueError as error:  # the library's own check, where it has one
        raise _refuse("rle-sum", expected=f"counts that sum to {height * width}", found=str(error)) from error
    runs = RunLengths(tuple(plain), height, width)
    check_run_lengths(runs, height, width)
    return runs


def format_counts(runs: RunLengths) -> str:
    """COCO's compressed text of run lengths.

    Raises:
        SegmentationError: see `decode_rle`.
    """
    _check_size(runs.height, runs.width)
    check_run_lengths(runs, runs.height, runs.width)
    size = [runs.height, runs.width]
    text: bytes = _native.frUncompressedRLE([{"size": size, "counts": list(runs.counts)}])[0]["counts"]
    return text.decode("ascii")


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Tight box of a mask bool `[H, W]`: xyxy in pixels, right and lower exclusive; None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def region_of(mask: NDArray[np.bool_]) -> Region | None:
    """The part of a mask bool `[H, W]` that holds the object; None for an empty mask."""
    box = mask_box(mask)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return Region(mask[y0:y1, x0:x1], x0, y0)


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
        path.write_bytes(_png(region, height, width))
        return
    whole = region.paste(height, width) if region else np.zeros((height, width), bool)
    with path.open("wb") as file:
        Image.fromarray(whole.view(np.uint8) * 255).save(file, "JPEG", quality=90)


def _check_size(height: int, width: int) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise _refuse(
            "image-size",
            expected=f"an image of 1 to {MAX_PIXELS:,} pixels and at most {MAX_SIDE:,} a side",
            found=f"{width} x {height}",
        )


def _ring_length(ring: Sequence[float], where: str) -> float:
    """Length of a ring's outline in pixels, in the measure that the native code reserves memory by."""
    if len(ring) < 6 or len(ring) % 2 or len(ring) > 2 * MAX_POINTS:
        raise _refuse(
            "polygon-points",
            expected=f"3 to {MAX_POINTS:,} points of two numbers",
            found=f"{len(ring)} numbers",
            where=where,
        )
    points = np.asarray(ring, np.float64).reshape(-1, 2)
    extent = float(np.abs(points).max())  # NaN compares false below
    if not extent <= MAX_COORDINATE:
        found = "a number that is not finite" if not math.isfinite(extent) else f"{extent:g}"
        raise _refuse(
            "polygon-coordinates", expected=f"coordinates within {MAX_COORDINATE:g} pixels", found=found, where=where
        )
    closing = float(np.abs(points[-1] - points[0]).max())
    return closing + float(np.abs(points[1:] - points[:-1]).max(axis=1).sum())


def _polygon_region(polygons: Polygons, height: int, width: int) -> Region | None:
    check_polygons(polygons)
    region = _union_region(polygons.rings, height, width)
    if region is None or not polygons.holes:
        return region
    holes = _union_region(polygons.holes, height, width)
    if holes is None:
        return region
    mask = region.paste(height, width)
    x0, y0, x1, y1 = holes.box
    mask[y0:y1, x0:x1] &= ~holes.mask
    return region_of(mask)


def _union_region(rings: Sequence[Sequence[float]], height: int, width: int) -> Region | None:
    encoded: list[dict[str, Any]] = _native.frPoly([list(ring) for ring in rings], height, width)
    joined: dict[str, Any] = encoded[0] if len(encoded) == 1 else _native.merge(encoded, 0)
    counts: list[int] = _native.toUncompressedRLE([joined])[0]["counts"]
    return _expand(np.asarray(counts, np.int64), height)


def _expand(counts: NDArray[np.int64], height: int) -> Region | None:
    """Run lengths of an image of `height` rows, expanded within the box of what they cover."""
    ends = np.cumsum(counts)
    starts, stops = ends[:-1:2], ends[1::2]
    full = stops > starts
    starts, stops = starts[full], stops[full]
    if not starts.size:
        return None
    columns, last_columns = starts // height, (stops - 1) // height
    x0, x1 = int(columns[0]), int(last_columns[-1]) + 1
    rows = starts - columns * height
    y0, y1 = int(rows.min()), int((rows + stops - starts).max())
    if y1 > height:  # a run that goes on into the next column touches the last row and the first
        y0, y1 = 0, height
    part = y1 - y0
    first = (columns - x0) * part + rows - y0
    edges = np.zeros(part * (x1 - x0) + 1, np.int8)
    edges[first] = 1
    edges[first + stops - starts] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)
    return Region(np.ascontiguousarray(inside.reshape(x1 - x0, part).T), x0, y0)


def _file_region(file: MaskFile, height: int, width: int) -> Region | None:
    stamp = _stamp(file.path)
    pixels = _read_labels(file.path, stamp)
    if pixels.shape[:2] != (height, width):
        raise _refuse(
            "mask-size",
            expected=f"a mask of the image's size, {width} x {height}",
            found=f"{pixels.shape[1]} x {pixels.shape[0]}",
            where=str(file.path),
        )
    if file.component is None:
        return region_of(_where_value(pixels, file.value))
    labels, order = _components(file.path, stamp, file.value)
    if not 1 <= file.component <= len(order):
        return None
    label, x0, y0, x1, y1 = order[file.component - 1]
    return Region(np.asarray(labels[y0:y1, x0:x1] == label), x0, y0)


def read_labels(path: Path) -> NDArray[Any]:
    """The pixels of a file whose values mean something, `[H, W]` or `[H, W, 3]`; see `samtune.data.images.read_pixels`.

    Three equal channels become one. A JPEG becomes 0 and 255, thresholded at 128: its other values are noise.

    Raises:
        DataError: the file cannot be read.
    """
    return _read_labels(path, _stamp(path))


@lru_cache(maxsize=2)
def _read_labels(path: Path, stamp: tuple[int, int]) -> NDArray[Any]:
    pixels = read_pixels(path)
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if path.suffix.lower() in (".jpg", ".jpeg"):
        gray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
        pixels = np.where(gray >= _THRESHOLD, np.uint8(255), np.uint8(0))
    pixels.flags.writeable = False
    return pixels


def components_of(path: Path, value: int | tuple[int, int, int] | None) -> int:
    """How many 8-connected components the pixels of one value form in a mask file; see `MaskFile`.

    Raises:
        DataError: the file cannot be read.
    """
    return len(_components(path, _stamp(path), value)[1])


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does, so that the caches below never answer for an older one."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _components(
    path: Path, stamp: tuple[int, int], value: int | tuple[int, int, int] | None
) -> tuple[NDArray[np.int32], list[tuple[int, int, int, int, int]]]:
    """Labels int32 `[H, W]`, and per component in scan order its label and box xyxy."""
    import cv2  # only label images need it, and it takes a while to load

    chosen = _where_value(_read_labels(path, stamp), value)
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
    return head.startswith(_PNG_MARK) and len(head) == 26 and head[24] == 1


_PNG_MARK = b"\x89PNG\r\n\x1a\n"


def _png(region: Region | None, height: int, width: int) -> bytes:
    """A 1-bit gray PNG, packed only where the object is. Source: PNG specification, sections 5 and 11.2.

    By hand because it is what a prepared dataset is made of: ten times the speed of a general encoder (see
    docs/decisions/0010).
    """
    rows = np.zeros((height, 1 + (width + 7) // 8), np.uint8)  # the first byte of a row is its filter, 0: none
    if region is not None:
        x0, y0, x1, y1 = region.box
        left = x0 // 8 * 8
        part = np.zeros((y1 - y0, x1 - left), np.uint8)
        part[:, x0 - left :] = region.mask
        packed = np.packbits(part, axis=1)
        rows[y0:y1, 1 + left // 8 : 1 + left // 8 + packed.shape[1]] = packed
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        _PNG_MARK + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
