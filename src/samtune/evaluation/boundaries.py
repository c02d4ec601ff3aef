"""How well a mask's edge lies: boundary IoU, boundary F, normalised surface Dice, Hausdorff 95. NumPy and OpenCV.

An edge pixel is a pixel of the mask with a pixel outside of the mask above, below, left or right of it; what lies
beyond the image counts as outside. Distances are Euclidean, in pixels of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
BOUNDARY_SHARE = 0.02
"""Depth of the band of the boundary IoU, as a share of the image's diagonal (Cheng et al. 2021)."""
TOLERANCE_SHARE = 0.008
"""Tolerance of boundary F, as a share of the image's diagonal (Perazzi et al. 2016, the DAVIS benchmark)."""
SURFACE_TOLERANCE = 2.0
"""Tolerance of the normalised surface Dice in pixels."""
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, slots=True)
class Boundary:
    """How well the edge of one mask lies.

    Attributes:
        iou: boundary IoU, 0 to 1.
        f_score: boundary F, 0 to 1.
        surface_dice: normalised surface Dice, 0 to 1.
        hausdorff_95: 95th percentile of the distance between the edges, in pixels.
    """

    iou: float
    f_score: float
    surface_dice: float
    hausdorff_95: float

    @classmethod
    def of(cls, predicted: Mask, truth: Mask, size: tuple[int, int] | None = None) -> Boundary:
        """All four for two masks `[H, W]` of one shape.

        Args:
            predicted, truth: the masks, or the same part of both that holds them and a pixel around them, as far as the
                image reaches.
            size: (H, W) of the whole image, which decides tolerances; that of the masks if left out.
        """
        _check(predicted, truth)
        height, width = size or predicted.shape
        diagonal = float(np.hypot(height, width))
        forth, back = edge_distances(predicted, truth)
        depth = max(1, round(BOUNDARY_SHARE * diagonal))
        return cls(
            iou=boundary_iou(predicted, truth, depth),
            f_score=_f_score(forth, back, max(1.0, float(np.ceil(TOLERANCE_SHARE * diagonal)))),
            surface_dice=_surface_dice(forth, back, SURFACE_TOLERANCE),
            hausdorff_95=_percentile(forth, back, diagonal),
        )


def boundary_iou(predicted: Mask, truth: Mask, depth: int) -> float:
    """IoU of the parts of both masks that lie within `depth` pixels of their edges; 1 where both masks are empty.

    Source: Cheng et al. 2021, "Boundary IoU"; as in their code, a pixel's depth is the number of 3 x 3 erosions it
    outlasts, and the border of the image counts as an edge.
    """
    _check(predicted, truth)
    bands = [mask & ~_eroded(mask, depth) for mask in (predicted, truth)]
    union = np.count_nonzero(bands[0] | bands[1])
    return float(np.count_nonzero(bands[0] & bands[1]) / union) if union else 1.0


def boundary_f(predicted: Mask, truth: Mask, tolerance: float) -> float:
    """Harmonic mean of the shares of each edge that lie within `tolerance` pixels of the other, 0 to 1.

    1 where both masks are empty, 0 where one is. Source: Martin et al. 2004, Perazzi et al. 2016.
    """
    return _f_score(*edge_distances(predicted, truth), tolerance)


def surface_dice(predicted: Mask, truth: Mask, tolerance: float) -> float:
    """Share of both edges together that lies within `tolerance` pixels of the other edge, 0 to 1.

    1 where both masks are empty, 0 where one is. Source: Nikolov et al. 2018, with edge pixels for surface elements.
    """
    return _surface_dice(*edge_distances(predicted, truth), tolerance)


def hausdorff_95(predicted: Mask, truth: Mask) -> float:
    """The larger of the 95th percentiles of the distances from each edge to the other, in pixels.

    0 where both masks are empty; where one is, the diagonal of the masks' frame.
    """
    return _percentile(*edge_distances(predicted, truth), float(np.hypot(*predicted.shape)))


def edge_distances(predicted: Mask, truth: Mask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each edge pixel the distance to the nearest edge pixel of the other mask.

    Args:
        predicted, truth: masks `[H, W]` of one shape.

    Returns:
        Distances of the edge of `predicted` and of that of `truth`, float32 `[E]` each; infinite where the other
        mask is empty.
    """
    _check(predicted, truth)
    edges = [_edge(predicted), _edge(truth)]
    found = [_exact(_distances_to(edges[1])[edges[0]]), _exact(_distances_to(edges[0])[edges[1]])]
    return found[0], found[1]


def _check(predicted: Mask, truth: Mask) -> None:
    if predicted.shape != truth.shape:
        raise ValueError(f"masks of different shapes: {predicted.shape} and {truth.shape}")


def _edge(mask: Mask) -> Mask:
    return mask & ~_eroded(mask, 1, _CROSS)


def _eroded(mask: Mask, times: int, shape: NDArray[np.uint8] | None = None) -> Mask:
    """The mask without its outermost pixels, `times` over; beyond the image nothing is set."""
    padded = np.pad(mask, times).astype(np.uint8)
    kernel = np.ones((2 * times + 1,) * 2, np.uint8) if shape is None else shape
    inner = slice(times, -times)
    return np.asarray(cv2.erode(padded, kernel))[inner, inner].astype(np.bool_)


def _distances_to(edge: Mask) -> NDArray[np.float32]:
    """Distance of every pixel to the nearest pixel of an edge; infinite where there is none."""
    if not edge.any():
        return np.full(edge.shape, np.inf, np.float32)
    outside = (~edge).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _exact(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances between pixels, which are roots of whole numbers, without OpenCV's last digit: it varies by itself."""
    return np.sqrt(np.rint(np.square(distances, dtype=np.float64))).astype(np.float32)


def _f_score(forth: NDArray[np.float32], back: NDArray[np.float32], tolerance: float) -> float:
    if not len(forth) and not len(back):
        return 1.0
    if not len(forth) or not len(back):
        return 0.0
    precision, recall = (float(np.mean(distances <= tolerance)) for distances in (forth, back))
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _surface_dice(forth: NDArray[np.float32], back: NDArray[np.float32], tolerance: float) -> float:
    both = np.concatenate([forth, back])
    return float(np.mean(both <= tolerance)) if len(both) else 1.0


def _percentile(forth: NDArray[np.float32], back: NDArray[np.float32], otherwise: float) -> float:
    if not len(forth) and not len(back):
        return 0.0
    if not len(forth) or not len(back):
        return otherwise
    return float(max(np.percentile(distances, 95) for distances in (forth, back)))
