"""Do the boxes a COCO file states fit its outlines? Where most do not, one of the two is written in another way.

Exporters are known to write run lengths row by row (COCO's go down the columns) and boxes by their corners (COCO's are
corner, width and height).
"""

from __future__ import annotations

import math
from typing import Any

from samtune.data.masks import SegmentationError
from samtune.data.readers.coco_index import CocoIndex
from samtune.data.readers.coco_shapes import parse_segmentation, run_box, run_pitch, shape_box
from samtune.data.readers.common import numbers
from samtune.data.readers.stream import open_json
from samtune.errors import DataError
from samtune.types import Box, RunLengths

_SAMPLE = 200
_LEAST = 8
"""Disagreeing boxes below which chance may explain them."""
_SLACK = 2.0
"""Pixels by which a box may differ; a twentieth of the side is allowed on top."""


def boxes_are_corners(index: CocoIndex) -> bool:
    """Whether a file's boxes are `[x0, y0, x1, y1]`, from a sample of its annotations.

    Raises:
        DataError: most boxes do not fit their outlines, however they are read.
    """
    count = len(index.owner)
    compared = fitting = corners = by_rows = runs = boxless = down = 0
    with open_json(index.file) as file:
        for position in range(0, count, max(1, math.ceil(count / _SAMPLE))):
            raw = index.fetch(file, position)
            values = numbers(raw.get("bbox"))
            if values is None or len(values) != 4 or values[2] <= 0 or values[3] <= 0:
                kind = _goes_across(raw)
                boxless, down = boxless + (kind is not None), down + (kind is False)
                continue
            x, y, third, fourth = values
            try:
                shape = parse_segmentation(raw.get("segmentation"), (x, y, x + third, y + fourth), "", [])
            except SegmentationError:
                continue
            found = shape_box(shape) if shape is not None else None
            if shape is None or found is None:
                continue
            compared += 1
            if _fits((x, y, x + third, y + fourth), found):
                fitting += 1
            elif _fits((x, y, third, fourth), found):
                corners += 1
            elif isinstance(shape, RunLengths):
                runs += 1
                by_rows += _fits((x, y, x + third, y + fourth), run_box(shape, rows_first=True))
    if 2 * (boxless - down) > boxless:
        raise _by_rows(index, boxless - down, boxless, "follow each other in steps of the image's width")
    wrong = compared - fitting
    if 2 * wrong <= compared:
        return False
    if 2 * by_rows > wrong:
        raise _by_rows(index, by_rows, compared, "fit their box only when read row by row")
    if 2 * corners > wrong:
        return True
    if wrong >= _LEAST:
        raise _disagreeing(index, wrong, compared)
    return False


def _fits(stated: Box, found: Box | None) -> bool:
    if found is None:
        return False
    slack = [_SLACK + 0.05 * abs(found[2] - found[0]), _SLACK + 0.05 * abs(found[3] - found[1])] * 2
    return all(abs(one - other) <= most for one, other, most in zip(stated, found, slack, strict=True))


def _goes_across(raw: dict[str, Any]) -> bool | None:
    """Whether run lengths without a box are written row by row; None where nothing tells, as in square images."""
    try:
        shape = parse_segmentation(raw.get("segmentation"), None, "", [])
    except SegmentationError:
        return None
    pitch = run_pitch(shape) if isinstance(shape, RunLengths) else None
    if pitch is None or not isinstance(shape, RunLengths):
        return None
    across, down = abs(pitch - shape.width), abs(pitch - shape.height)
    return across < down if min(across, down) * 4 < max(across, down) else None


def _by_rows(index: CocoIndex, count: int, compared: int, how: str) -> DataError:
    return DataError.of(
        expected="run lengths that go down the columns, as COCO's do",
        found=f"run lengths that {how}, in {count} of {compared} objects looked at: they go row by row",
        where=str(index.file),
        do="write the counts of the transposed mask, as pycocotools.mask.encode(np.asfortranarray(mask)) does",
    )


def _disagreeing(index: CocoIndex, wrong: int, compared: int) -> DataError:
    return DataError.of(
        expected="boxes that fit the outlines of their objects",
        found=f"{wrong} of {compared} objects looked at whose box is elsewhere",
        where=str(index.file),
        do="check whether images, boxes and outlines are of one size; if the outlines are right, take bbox out",
    )
