"""COCO's `segmentation` and `bbox`: polygons, run lengths as a list or compressed, and what exporters write instead."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from samtune.data.masks import SegmentationError, parse_counts
from samtune.data.readers.common import holds_text, numbers, rectangle, whole_number
from samtune.types import Box, Polygons, RunLengths, Segmentation

_FEW_RUNS = 4


def parse_segmentation(
    value: Any, box: Box | None, where: str, notes: list[tuple[str, str, str]]
) -> Segmentation | None:
    """Read COCO's `segmentation`: polygons, run lengths as a list or compressed, or nothing.

    Args:
        value: as parsed from JSON.
        box: the annotation's box xyxy, to tell a box that was written as a polygon of four numbers.
        where: place of the annotation in its file.
        notes: gets (code, message, place) for what was read although it is not as it should be.

    Returns:
        None where there is no shape, which means the object has a box only.

    Raises:
        SegmentationError: a shape that cannot be read.
    """
    if value is None or value in ([], {}):
        return None
    if isinstance(value, dict):
        return _run_lengths(cast("dict[str, Any]", value))
    if not isinstance(value, list):
        raise _unreadable("segmentation-invalid", f"a {type(value).__name__}")
    return _polygons(cast("list[Any]", value), box, f"{where}.segmentation", notes)


def _run_lengths(value: dict[str, Any]) -> RunLengths:
    size = value.get("size")
    sides = [whole_number(side) for side in cast("list[Any]", size)] if isinstance(size, list) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        raise _unreadable("rle-size", f"size {short(size)}, not [height, width]")
    height, width = sides[0], sides[1]
    counts: Any = value.get("counts")
    if isinstance(counts, str):
        return parse_counts(counts, height, width)
    if not isinstance(counts, list):
        raise _unreadable("rle-counts", f"counts of type {type(counts).__name__}")
    whole = [whole_number(count) for count in cast("list[Any]", counts)]
    if any(count is None for count in whole):
        raise _unreadable("rle-counts", "counts that are not whole numbers")
    return RunLengths(tuple(count for count in whole if count is not None), height, width)


def _polygons(value: list[Any], box: Box | None, where: str, notes: list[tuple[str, str, str]]) -> Polygons:
    rings: list[Any] = value
    if not any(isinstance(item, list) for item in value):
        notes.append(("polygon-flat", "The polygon is not in a list of polygons; taken as the only one.", where))
        rings = [value]
    elif len(value) >= 3 and all(isinstance(item, list) and len(cast("list[Any]", item)) == 2 for item in value):
        notes.append(("polygon-pairs", "The points are pairs; taken as one polygon.", where))
        rings = [[coordinate for point in value for coordinate in point]]
    elif all(map(_is_pairs, value)):
        notes.append(("polygon-pairs", "The points of each polygon are pairs.", where))
        rings = [[coordinate for point in ring for coordinate in point] for ring in value]
    elif isinstance(value[0], list) and list in set(map(type, cast("list[Any]", value[0]))):
        raise _unreadable("segmentation-invalid", "lists nested deeper than polygons")
    usable: list[tuple[float, ...]] = []
    problems: list[SegmentationError] = []
    for position, ring in enumerate(rings):
        spot = f"{where}[{position}]"
        try:
            usable.append(_ring(ring, box, spot, notes))
        except SegmentationError as error:
            problems.append(error)
            notes.append(("polygon-dropped", f"One of {len(rings)} polygons is left out: {error.found}.", spot))
    if not usable:
        raise problems[0]
    return Polygons(tuple(usable))


def _is_pairs(ring: Any) -> bool:
    """Whether a polygon is a list of points instead of a list of numbers."""
    points = cast("list[Any]", ring) if isinstance(ring, list) else []
    return len(points) >= 3 and all(isinstance(point, list) and len(cast("list[Any]", point)) == 2 for point in points)


def _ring(ring: Any, box: Box | None, where: str, notes: list[tuple[str, str, str]]) -> tuple[float, ...]:
    values = numbers(ring)
    if values is None:
        raise _unreadable("polygon-coordinates", "a value that is not a finite number", where)
    if holds_text(ring):
        notes.append(("numbers-as-text", "Coordinates are texts, not numbers.", where))
    if len(values) == 4 and box is not None:
        x, y, third, fourth = values
        for corners in ((x, y, x + third, y + fourth), (x, y, third, fourth)):
            if max(abs(one - other) for one, other in zip(corners, box, strict=True)) <= 1:
                notes.append(("polygon-is-box", "The polygon is the box written as four numbers.", where))
                return rectangle(corners)
    if len(values) < 6 or len(values) % 2:
        raise _unreadable("polygon-points", f"{len(values)} numbers, not at least 3 points of two", where)
    return values


def run_box(runs: RunLengths, *, rows_first: bool = False) -> Box | None:
    """The box xyxy of what run lengths cover, without expanding them; None where they cover nothing, or cannot be.

    Args:
        runs: the run lengths; their counts sum to the size.
        rows_first: read them row by row, as they are not in COCO but some exporters write them.
    """
    if not _are_possible(runs):
        return None
    length = runs.width if rows_first else runs.height
    ends = np.cumsum(np.asarray(runs.counts, np.int64))
    starts, stops = ends[:-1:2], ends[1::2]
    full = stops > starts
    starts, stops = starts[full], stops[full]
    if not starts.size:
        return None
    first, last = int(starts[0] // length), int((stops[-1] - 1) // length)
    within = starts % length
    low, high = int(within.min()), int((within + stops - starts).max())
    if high > length:  # a run that goes on into the next line touches both its ends
        low, high = 0, length
    box = (first, low, last + 1, high)
    x0, y0, x1, y1 = (box[1], box[0], box[3], box[2]) if rows_first else box
    return float(x0), float(y0), float(x1), float(y1)


def run_pitch(runs: RunLengths) -> float | None:
    """The usual distance from where a run begins to where the next does; None for fewer than four runs.

    Neighbouring columns begin about one height apart, neighbouring rows about one width. Counts that no image
    of that size can have tell nothing.
    """
    if not _are_possible(runs):
        return None
    starts = np.cumsum(np.asarray(runs.counts, np.int64))[:-1:2]
    return float(np.median(np.diff(starts))) if starts.size >= _FEW_RUNS else None


def _are_possible(runs: RunLengths) -> bool:
    """Whether an image of that size can have these counts; files also hold negative and enormous ones."""
    return all(0 <= count <= runs.height * runs.width for count in runs.counts)


def shape_box(shape: Segmentation) -> Box | None:
    """The box xyxy of a shape as it is written, cut off nowhere; None where it covers nothing or is a file."""
    if isinstance(shape, RunLengths):
        return run_box(shape)
    if not isinstance(shape, Polygons):
        return None
    values = np.concatenate([np.asarray(ring, np.float64) for ring in shape.rings])
    x, y = values[::2], values[1::2]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def short(value: Any) -> str:
    """A value in at most 60 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unreadable(code: str, found: str, where: str | None = None) -> SegmentationError:
    error = SegmentationError.of(expected="a COCO segmentation", found=found, where=where)
    error.code = code
    return error
