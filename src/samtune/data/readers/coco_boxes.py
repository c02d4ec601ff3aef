"""Do the boxes a COCO file states fit its outlines? Where most do not, one of the two is written in another way.

Exporters are known to write run lengths row by row (COCO's go down the columns) and boxes by their corners (COCO's are
corner, width and height).
"""

from __future__ import annotations

import math

from samtune.data.masks import SegmentationError
from samtune.data.readers.coco_index import CocoIndex
from samtune.data.readers.coco_shapes import parse_segmentation, run_box, shape_box
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
    compared = fitting = corners = by_rows = runs = 0
    with open_json(index.file) as file:
        for position in range(0, count, max(1, math.ceil(count / _SAMPLE))):
            raw = index.fetch(file, position)
            values = numbers(raw.get("bbox"))
            if values is None or len(values) != 4 or values[2] <= 0 or values[3] <= 0:
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
    wrong = compared - fitting
    if 2 * wrong <= compared:
        return False
    if 2 * by_rows > wrong:
        raise _by_rows(index, by_rows, compared)
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


def _by_rows(index: CocoIndex, count: int, compared: int) -> DataError:
    return DataError.of(
        expected="run lengths that go down the columns, as COCO's do, and fit the boxes",
        found=f"run lengths that fit their box only when read row by row, in {count} of {compared} objects looked at",
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
