"""Polygons to pixels, by the COCO mask API behind checks of every number it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from samtune.data.masks.native import NATIVE
from samtune.data.masks.regions import Region, expand_runs, refuse, region_of
from samtune.types import Polygons

MAX_COORDINATE = 1e6
"""Largest polygon coordinate, in pixels; far outside any image, small enough for the library's integers."""
MAX_OUTLINE = 4e6
"""Longest outline of one object, in pixels: the library reserves some 100 bytes for each."""
MAX_POINTS = 1_000_000


def check_polygons(polygons: Polygons) -> None:
    """Refuse polygons that the native code must never see.

    Raises:
        SegmentationError: no ring, a ring of fewer than three points or of an odd count of numbers, a number that is
            not finite or beyond `MAX_COORDINATE`, an outline longer than `MAX_OUTLINE`.
    """
    if not polygons.rings:
        raise refuse("polygon-empty", expected="at least one ring", found="none")
    rings = (*polygons.rings, *polygons.holes)
    # No edge is longer than twice the extent; where that allows for the outline, nobody needs its length.
    most = sum(len(ring) * _extent(ring, f"ring {number}") for number, ring in enumerate(rings))
    if most > MAX_OUTLINE and (outline := sum(map(_ring_length, rings))) > MAX_OUTLINE:
        raise refuse(
            "polygon-too-long", expected=f"an outline of at most {MAX_OUTLINE:,.0f} pixels", found=f"{outline:,.0f}"
        )


def _extent(ring: Sequence[float], where: str) -> float:
    """Largest coordinate of a ring, without its sign."""
    if len(ring) < 6 or len(ring) % 2 or len(ring) > 2 * MAX_POINTS:
        raise refuse(
            "polygon-points",
            expected=f"3 to {MAX_POINTS:,} points of two numbers",
            found=f"{len(ring)} numbers",
            where=where,
        )
    is_finite = math.isfinite(sum(ring))  # the extent may not show a NaN
    extent = max(max(ring), -min(ring)) if is_finite else math.inf
    if extent > MAX_COORDINATE:
        found = f"{extent:g}" if is_finite else "a number that is not finite"
        raise refuse(
            "polygon-coordinates", expected=f"coordinates within {MAX_COORDINATE:g} pixels", found=found, where=where
        )
    return extent


def _ring_length(ring: Sequence[float]) -> float:
    """Length of a ring's outline in pixels, in the measure that the native code reserves memory by."""
    points = np.asarray(ring, np.float64).reshape(-1, 2)
    closing = float(np.abs(points[-1] - points[0]).max())
    return closing + float(np.abs(points[1:] - points[:-1]).max(axis=1).sum())


def polygon_region(polygons: Polygons, height: int, width: int) -> Region | None:
    """The union of the rings less the holes, as the COCO mask API fills them; None where that is no pixel.

    Raises:
        SegmentationError: see `check_polygons`.
    """
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
    encoded: list[dict[str, Any]] = NATIVE.frPoly([list(ring) for ring in rings], height, width)
    joined: dict[str, Any] = encoded[0] if len(encoded) == 1 else NATIVE.merge(encoded, 0)
    counts: list[int] = NATIVE.toUncompressedRLE([joined])[0]["counts"]
    return expand_runs(np.asarray(counts, np.int64), height)
