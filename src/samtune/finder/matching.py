"""Which finds are right: matched to objects one to one, the surest first; precision, recall and F1 of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What comes of keeping finds from some score on.

    Attributes:
        threshold: the lowest score that is kept.
        precision: share of the kept finds that are right, 0 to 1; 1 where none is kept.
        recall: share of the objects that are found, 0 to 1.
    """

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def match(iou: NDArray[np.float32], scores: NDArray[np.float32], least: float) -> NDArray[np.int64]:
    """Match finds to objects as COCO does: from the best score down, each takes the best object left.

    Args:
        iou: `[P, T]`, of every find with every object; below 0 where the two must not be matched.
        scores: `[P]`.
        least: lowest IoU of a match, 0 to 1.

    Returns:
        `[P]`, the object each find is matched to, -1 for none.
    """
    found = np.full(len(scores), -1, np.int64)
    if not iou.size:
        return found
    left = iou.copy()
    hopeful = np.flatnonzero(iou.max(1) >= least)
    for one in hopeful[np.argsort(-scores[hopeful], kind="stable")].tolist():
        best = int(left[one].argmax())
        if left[one, best] >= least:
            found[one] = best
            left[:, best] = -1
    return found


def operating_points(scores: Floats, right: NDArray[np.bool_], objects: int) -> list[OperatingPoint]:
    """All that is worth choosing by a threshold, from the strictest on: every one that keeps one more right find.

    A threshold stands half-way, in logits, between the last find it keeps and the next one below: on new images neither
    score will be met again exactly.

    Args:
        scores: of P finds of any number of images, 0 to 1.
        right: `[P]`, which of them are right.
        objects: how many objects there are.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.diff(sorted_scores, append=-np.inf) < 0)  # of equal scores all are kept, or none
    last = last[np.diff(hits[last], prepend=0) > 0]
    return [
        OperatingPoint(
            _between(sorted_scores[end : end + 2]), float(hits[end] / (end + 1)), float(hits[end] / max(objects, 1))
        )
        for end in last
    ]


def _between(scores: Floats) -> float:
    """Half-way between two scores in logits; a score alone is its own."""
    inside = scores.clip(_EDGE, 1 - _EDGE)
    middle = float(np.mean(np.log(inside) - np.log1p(-inside)))
    return min(1 / (1 + float(np.exp(-middle))), float(scores[0]))


def best_f1(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """The point of the highest F1, the strictest of several; keeping nothing where there is no point."""
    return max(points, key=lambda point: point.f1, default=OperatingPoint(1.0, 1.0, 0.0))


def at_half_of_best_f1(scores: Floats, right: NDArray[np.bool_], objects: int) -> OperatingPoint:
    """What comes of the threshold at half of the best F1, the best one for scores that mean what they say.

    Which threshold has the highest F1 on a few images hangs on where one or two of their finds happen to stand; how
    high it is there does so less. Source: Lipton, Elkan and Naryanaswamy (2014). 0.5 where no find is right.

    Args:
        scores, right, objects: as in `operating_points`.
    """
    best = best_f1(operating_points(scores, right, objects))
    threshold = best.f1 / 2 or 0.5
    kept = scores >= threshold
    hits = int(right[kept].sum())
    precision = hits / int(kept.sum()) if kept.any() else 1.0
    return OperatingPoint(threshold, precision, hits / max(objects, 1))


def with_precision(points: Sequence[OperatingPoint], wanted: float) -> OperatingPoint | None:
    """The point of the highest recall among those of at least this precision; None where there is none."""
    good = [point for point in points if point.precision >= wanted]
    return max(good, key=lambda point: (point.recall, point.precision), default=None)


def with_recall(points: Sequence[OperatingPoint], wanted: float) -> OperatingPoint | None:
    """The point of the highest precision among those of at least this recall; None where there is none."""
    good = [point for point in points if point.recall >= wanted]
    return max(good, key=lambda point: (point.precision, point.recall), default=None)
