"""Masks without duplicates: overlaps of masks as run lengths, compared only where boxes meet.

Of N masks of objects beside each other each meets a few others. So nothing here is done for all pairs: an index of the
boxes gives the neighbours of a mask that stays, and their overlaps with it are sums over their runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samtune.data.masks import Region

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MaskRuns:
    """N masks on one grid of pixels as runs, counted down the columns as in COCO.

    Attributes:
        starts, stops: int64 `[R]`, the runs of all masks, one mask after the other: first pixel, and one past the last.
        first: int64 `[N + 1]`; the runs of mask n are those from `first[n]` to `first[n + 1]`.
        boxes: int64 `[N, 4]`, xyxy, right and lower exclusive; zeros for an empty mask.
        areas: int64 `[N]`, pixels.
        height: rows of the grid.
    """

    starts: Integers
    stops: Integers
    first: Integers
    boxes: Integers
    areas: Integers
    height: int

    def __len__(self) -> int:
        return len(self.areas)

    def __getitem__(self, rows: Integers) -> MaskRuns:
        """Some of the masks, by number."""
        runs, counts = self._runs_of(rows)
        first = np.concatenate([[0], np.cumsum(counts)])
        return MaskRuns(self.starts[runs], self.stops[runs], first, self.boxes[rows], self.areas[rows], self.height)

    @classmethod
    def of_masks(cls, masks: NDArray[np.bool_]) -> MaskRuns:
        """From whole masks, bool `[N, h, w]`."""
        count, height, width = masks.shape
        framed = np.zeros((count, height * width + 2), np.int8)
        framed[:, 1:-1] = masks.transpose(0, 2, 1).reshape(count, height * width)
        changes = np.diff(framed, axis=1)
        (numbers, starts), (_, stops) = np.nonzero(changes == 1), np.nonzero(changes == -1)
        return cls._of(numbers, starts, stops, mask_boxes(masks), height)

    @classmethod
    def of_regions(cls, regions: Sequence[Region], height: int) -> MaskRuns:
        """From parts of an image of `height` rows."""
        parts = [cls.of_masks(region.mask[None]) for region in regions]
        numbers: list[Integers] = [np.zeros(0, np.int64)]
        starts: list[Integers] = [np.zeros(0, np.int64)]
        stops: list[Integers] = [np.zeros(0, np.int64)]
        for number, (region, part) in enumerate(zip(regions, parts, strict=True)):
            own_starts, own_stops = _in_columns(part.starts, part.stops, part.height)
            column = own_starts // part.height
            offset = (column + region.x0) * height + region.y0 - column * part.height
            numbers.append(np.full(len(column), number))
            starts.append(own_starts + offset)
            stops.append(own_stops + offset)
        boxes = np.array([region.box for region in regions], np.int64).reshape(-1, 4)
        return cls._of(np.concatenate(numbers), np.concatenate(starts), np.concatenate(stops), boxes, height)

    @classmethod
    def _of(cls, numbers: Integers, starts: Integers, stops: Integers, boxes: Integers, height: int) -> MaskRuns:
        first = np.searchsorted(numbers, np.arange(len(boxes) + 1))
        ends = np.concatenate([[0], np.cumsum(stops - starts)])
        return cls(starts, stops, first, boxes, ends[first[1:]] - ends[first[:-1]], height)

    @classmethod
    def cat(cls, parts: Sequence[MaskRuns]) -> MaskRuns:
        """The masks of all parts, which are on the same grid, in order; at least one part."""
        offsets = np.cumsum([0, *(len(part.starts) for part in parts)])
        first = [part.first[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.stops for part in parts]),
            np.concatenate([*first, offsets[-1:]]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.areas for part in parts]),
            parts[0].height,
        )

    def iou(self, one: int, others: Integers) -> NDArray[np.float64]:
        """IoU of one mask with others, given by number: `[K]`, 0 for two empty masks."""
        left, right = self.boxes[one, [0, 2]] * self.height
        own = slice(self.first[one], self.first[one + 1])
        edges = np.zeros(right - left + 1, np.int32)
        edges[self.starts[own] - left] += 1
        np.subtract.at(edges, self.stops[own] - left, 1)
        covered = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]))])  # pixels of the one mask before each pixel
        runs, counts = self._runs_of(others)
        upto, before = (covered[ends[runs].clip(left, right) - left] for ends in (self.stops, self.starts))
        sums, ends = np.concatenate([[0], np.cumsum(upto - before)]), np.cumsum(counts)
        shared = sums[ends] - sums[ends - counts]
        return shared / np.maximum(self.areas[one] + self.areas[others] - shared, 1)

    def _runs_of(self, rows: Integers) -> tuple[Integers, Integers]:
        """Numbers of the runs of some masks, one mask after the other, and how many each has."""
        counts = self.first[rows + 1] - self.first[rows]
        return np.arange(counts.sum()) + np.repeat(self.first[rows] - np.cumsum(counts) + counts, counts), counts


def without_duplicates(masks: MaskRuns, scores: NDArray[np.floating], most: float) -> Integers:
    """Greedy suppression: of two masks with an IoU above `most`, the better scored one stays.

    Args:
        masks: N masks.
        scores: `[N]`; of equal ones the first wins.
        most: 0 to 1.

    Returns:
        Numbers of the masks that stay, the best scored first.
    """
    index = _BoxIndex(masks.boxes)
    gone = np.zeros(len(masks), bool)
    kept: list[int] = []
    for one in np.argsort(-scores, kind="stable").tolist():
        if gone[one]:
            continue
        kept.append(one)
        gone[one] = True
        near = index.neighbours(one, most * float(masks.areas[one]))
        near = near[~gone[near]]
        near = near[_may_be_alike(masks, one, near, most)]
        if near.size:
            gone[near[masks.iou(one, near) > most]] = True
    return np.array(kept, np.int64)


def mask_boxes(masks: NDArray[np.bool_]) -> Integers:
    """Tight boxes of masks `[N, h, w]`: `[N, 4]`, xyxy, right and lower exclusive; zeros for an empty mask."""
    sides: list[Integers] = []
    for axis, length in ((1, masks.shape[2]), (2, masks.shape[1])):
        taken: NDArray[np.bool_] = np.any(masks, axis=axis)
        sides += [taken.argmax(1), np.where(np.any(taken, axis=1), length - taken[:, ::-1].argmax(1), 0)]
    return np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1)


def _in_columns(starts: Integers, stops: Integers, height: int) -> tuple[Integers, Integers]:
    """Runs cut where a column of a grid of `height` rows ends."""
    first, last = starts // height, (stops - 1) // height
    pieces = last - first + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.maximum(starts[run], column * height), np.minimum(stops[run], (column + 1) * height)


def _may_be_alike(masks: MaskRuns, one: int, others: Integers, most: float) -> NDArray[np.bool_]:
    """Whether boxes and areas allow an IoU above `most`: the shared box has to hold that share of the larger mask."""
    box, boxes = masks.boxes[one], masks.boxes[others]
    shared = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).clip(min=0).prod(1)
    areas = masks.areas[others]
    larger, smaller = np.maximum(areas, masks.areas[one]), np.minimum(areas, masks.areas[one])
    return (shared > most * larger) & (smaller > most * larger)


class _BoxIndex:
    """Boxes by size and place: those of about one size lie in strips as wide as they, sorted by their upper edge."""

    def __init__(self, boxes: Integers) -> None:
        self._boxes = boxes
        levels = np.ceil(np.log2(np.maximum((boxes[:, 2:] - boxes[:, :2]).max(1, initial=1), 1))).astype(np.int64)
        self._levels: list[int] = np.unique(levels).tolist()
        self._strips: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        rows: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        strips = zip(levels.tolist(), (boxes[:, 0] >> levels).tolist(), boxes[:, 1].tolist(), strict=True)
        for number, (level, strip, top) in enumerate(strips):
            rows[level, strip].append((top, number))
        for place, found in rows.items():
            found.sort()
            self._strips[place] = [top for top, _ in found], [number for _, number in found]

    def neighbours(self, one: int, least: float) -> Integers:
        """Numbers of boxes of at least `least` pixels that may touch box `one`."""
        x0, y0, x1, y1 = self._boxes[one].tolist()
        found: list[int] = []
        for level in self._levels:
            side = 1 << level
            if side * side < least:  # too small to hold such a mask
                continue
            for strip in range((x0 >> level) - 1, (max(x1 - 1, x0) >> level) + 1):
                tops, numbers = self._strips.get((level, strip), ((), ()))
                found += numbers[bisect_left(tops, y0 - side + 1) : bisect_left(tops, y1)]
        return np.array(found, np.int64)
