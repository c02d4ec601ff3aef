"""J, F and J&F of object masks over the frames of a clip, as DAVIS 2017 measures them. NumPy and OpenCV.

J is the IoU. F compares edges as `davis2017-evaluation` does, unlike `samtune.evaluation.boundaries`: an edge pixel is
one that differs from its neighbour to the right, below or both, and edges match within a disc of 0.8 % of the diagonal.
Source: Perazzi et al. 2016, Pont-Tuset et al. 2017; held to the figures of the package `vos-benchmark`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
TOLERANCE_SHARE = 0.008
"""Distance within which edges match, as a share of the diagonal."""


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """Means over the frames on which an object was seen, or said to be, from the first such frame on.

    Attributes:
        j: IoU, 0 to 1.
        f: edge measure, 0 to 1.
        frames: how many frames that is.
    """

    j: float
    f: float
    frames: int

    @property
    def jf(self) -> float:
        """Mean of J and F."""
        return (self.j + self.f) / 2


def clip_scores(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> dict[int, ObjectScore]:
    """The scores of every object of a clip's truth.

    Args:
        pairs: object numbers `[H, W]` found and true, frame by frame, 0 for the background.
    """
    seen: dict[int, list[tuple[float, float]]] = {}
    true: set[int] = set()
    for found, truth in pairs:
        numbers = (set(np.unique(found).tolist()) | set(np.unique(truth).tolist())) - {0}
        true |= set(np.unique(truth).tolist()) - {0}
        for number in seen.keys() | numbers:
            masks = found == number, truth == number
            seen.setdefault(number, []).append((region_measure(*masks), edge_measure(*masks)))
    means = {number: np.mean(seen[number], axis=0).tolist() for number in sorted(true)}
    return {number: ObjectScore(j, f, len(seen[number])) for number, (j, f) in means.items()}


def region_measure(found: Mask, truth: Mask) -> float:
    """J: the IoU of two masks; 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def edge_measure(found: Mask, truth: Mask) -> float:
    """F: harmonic mean of the shares of each edge that match the other; 1 where both are empty, 0 where one is."""
    radius = int(np.ceil(TOLERANCE_SHARE * np.hypot(*found.shape)))
    across = np.arange(-radius, radius + 1)
    disc = (across[:, None] ** 2 + across[None] ** 2 <= radius**2).astype(np.uint8)
    edges = [edge_map(mask) for mask in (found, truth)]
    counts = [np.count_nonzero(edge) for edge in edges]
    if 0 in counts:
        return float(counts[0] == counts[1])
    near = [np.asarray(cv2.dilate(edge.astype(np.uint8), disc)) > 0 for edge in edges]
    precision = np.count_nonzero(edges[0] & near[1]) / counts[0]
    recall = np.count_nonzero(edges[1] & near[0]) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edge_map(mask: Mask) -> Mask:
    """Pixels whose right, lower or lower right neighbour differs; in the last row and column one neighbour counts."""
    edge = np.zeros_like(mask)
    here = mask[:-1, :-1]
    edge[:-1, :-1] = (here != mask[:-1, 1:]) | (here != mask[1:, :-1]) | (here != mask[1:, 1:])
    edge[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return edge
