"""Outlines that cross themselves, found fast: most go around once, and all of an image are looked at together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW_POINTS = 128
"""Points of a ring up to which all pairs of edges are compared, sooner than those are found that overlap."""
_MOST_PAIRS = 2_000_000
"""Pairs of edges, or of objects, that are compared at most."""


def crossing_rings(rings: Sequence[Sequence[float]]) -> list[bool]:
    """Which rings `[x0, y0, x1, y1, ...]` have two edges that cross at a point inside both.

    Edges that touch, or lie on each other as exporters' bridges between parts do, are no crossing. Rings of very many
    long edges are searched in part only.
    """
    if not rings:
        return []
    points = np.fromiter(chain.from_iterable(rings), np.float64).reshape(-1, 2)
    lengths = np.array([len(ring) // 2 for ring in rings])
    stops = np.cumsum(lengths)
    starts = stops - lengths
    once = _go_around_once(points, starts, stops)
    return [
        not one and _crosses(points[start:stop])
        for one, start, stop in zip(once.tolist(), starts.tolist(), stops.tolist(), strict=True)
    ]


def _go_around_once(
    points: NDArray[np.float64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rings, each some of the points `[N, 2]`, go around their middle once, always the same way.

    Then no edges cross. Most outlines are such, and that shows in a fraction of the time that comparing edges takes.
    """
    lengths = stops - starts
    following = np.arange(1, len(points) + 1)
    following[stops - 1] = starts
    x, y = (points - np.repeat(np.add.reduceat(points, starts) / lengths[:, None], lengths, axis=0)).T
    next_x, next_y = x[following], y[following]
    turns = x * next_y - y * next_x
    extent = np.maximum.reduceat(np.abs(points).max(axis=1), starts)
    least = np.repeat(1e-9 * extent**2, lengths)
    stays = (x == next_x) & (y == next_y)  # closed rings name their first point twice
    one_way = np.logical_and.reduceat((turns > least) | stays, starts)
    one_way |= np.logical_and.reduceat((turns < -least) | stays, starts)
    changes = np.add.reduceat(((y >= 0) != (next_y >= 0)).astype(np.int64), starts)
    return one_way & (changes == 2)


def _crosses(start: NDArray[np.float64]) -> bool:
    """Whether two edges of a ring `[N, 2]` cross."""
    if len(start) < 4:
        return False
    if len(start) <= _FEW_POINTS:
        return _crosses_anywhere(start)
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    one, other = overlapping(low, high)
    a, b, c, d = start[one], end[one], start[other], end[other]
    apart = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
    return bool(apart.any())


def _crosses_anywhere(points: NDArray[np.float64]) -> bool:
    """As `_crosses`; compares every edge with every other."""
    x, y = points.T
    along_x, along_y = _next(x) - x, _next(y) - y
    to_x, to_y = x - x[:, None], y - y[:, None]
    cross = along_x[:, None] * to_y - along_y[:, None] * to_x
    scale = np.maximum(np.abs(along_x), np.abs(along_y))[:, None] * np.maximum(np.abs(to_x), np.abs(to_y))
    sides = np.where(np.abs(cross) <= 1e-9 * scale, 0.0, np.sign(cross))  # of point j beside edge i
    apart = sides * _next(sides) < 0  # edge j has its ends on two sides of edge i
    return bool((apart & apart.T).any())


def _next(values: NDArray[Any]) -> NDArray[Any]:
    """The values `[..., N]` of each point's next one in a ring."""
    return np.concatenate([values[..., 1:], values[..., :1]], axis=-1)


def _side(a: NDArray[np.float64], b: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """On which side of the lines from a to b the points `[N, 2]` lie: -1, 0 or 1, 0 within rounding."""
    along, to = b - a, point - a
    cross = along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]
    scale = np.abs(along).max(axis=1) * np.abs(to).max(axis=1)
    return np.where(np.abs(cross) <= 1e-9 * scale, 0.0, np.sign(cross))


def overlapping(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of intervals that overlap, each pair once, at most `_MOST_PAIRS`."""
    order = np.argsort(low, kind="stable")
    counts = np.searchsorted(low[order], high[order], "right") - np.arange(len(low)) - 1
    counts = counts[: int(np.searchsorted(np.cumsum(counts), _MOST_PAIRS, "right")) + 1]
    counts = np.minimum(counts, _MOST_PAIRS)
    one = np.repeat(np.arange(len(counts)), counts)
    steps = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[one], order[one + 1 + steps]
