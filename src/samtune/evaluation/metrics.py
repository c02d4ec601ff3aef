"""How good one mask is, and how well a model knows it: overlap, trivial guesses, calibration. Pure numpy, no files.

Overlap is counted, not averaged: three integers per object give IoU and Dice exactly, whatever part of the image was
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samtune.types import Box

Floats = NDArray[np.float64]
BINS = 10
"""Of the predicted IoU, for the expected calibration error and the reliability diagram."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixel counts of two masks: `intersection` in both, `predicted` in the first, `truth` in the second."""

    intersection: int
    predicted: int
    truth: int

    @classmethod
    def of(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlap:
        """Count two masks `[H, W]` of one shape."""
        if predicted.shape != truth.shape:
            raise ValueError(f"masks of different shapes: {predicted.shape} and {truth.shape}")
        counts = (np.count_nonzero(predicted & truth), np.count_nonzero(predicted), np.count_nonzero(truth))
        return cls(int(counts[0]), int(counts[1]), int(counts[2]))

    @property
    def iou(self) -> float:
        """Intersection over union, 0 to 1; 1 where both masks are empty."""
        union = self.predicted + self.truth - self.intersection
        return self.intersection / union if union else 1.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of the areas, 0 to 1; 1 where both masks are empty."""
        total = self.predicted + self.truth
        return 2 * self.intersection / total if total else 1.0


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Masks whose predicted IoU lies in one tenth of the range.

    Attributes:
        low, high: the tenth; the upper end is inclusive.
        count: masks in it.
        predicted, reached: their mean predicted IoU and mean IoU.
    """

    low: float
    high: float
    count: int
    predicted: float
    reached: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the predicted IoU predicts the IoU reached.

    Attributes:
        mean_error: mean of |predicted - reached|; 0 is perfect.
        bias: mean of predicted - reached; above 0 the model overestimates itself.
        expected_error: expected calibration error (Naeini et al. 2015): mean of |mean predicted - mean reached| over
            ten bins of the predicted IoU, weighted by their counts.
        rank_correlation: Spearman's, -1 to 1: does the order of the predictions tell good masks from bad ones? None
            where one of the two does not vary.
        bins: the bins with any masks, for a reliability diagram.
    """

    mean_error: float
    bias: float
    expected_error: float
    rank_correlation: float | None
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class Detection:
    """How well the object score says "nothing here", with background clicks as what is to be found.

    Attributes:
        precision: share of the prompts called empty that are on background; None where none was called empty.
        recall: share of the background clicks that were called empty.
    """

    precision: float | None
    recall: float


def box_mask(box: Box, height: int, width: int) -> NDArray[np.bool_]:
    """The trivial guess "the whole box": bool `[height, width]`, pixels whose centre lies in `box` (xyxy)."""
    x0, y0, x1, y1 = box
    columns, rows = _centres(width), _centres(height)
    return ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None, :]


def ellipse_mask(box: Box, height: int, width: int) -> NDArray[np.bool_]:
    """The trivial guess "the ellipse inscribed in the box": bool `[height, width]`, by pixel centres."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return np.zeros((height, width), np.bool_)
    across = (2 * _centres(width) - x0 - x1) / (x1 - x0)
    down = (2 * _centres(height) - y0 - y1) / (y1 - y0)
    return down[:, None] ** 2 + across[None, :] ** 2 <= 1


def calibration(predicted: ArrayLike, reached: ArrayLike) -> Calibration | None:
    """Compare predicted IoUs with the IoUs reached, both `[N]`, 0 to 1; None where N is 0."""
    guess, truth = np.asarray(predicted, np.float64), np.asarray(reached, np.float64)
    if len(guess) == 0:
        return None
    gap = guess - truth
    bins = tuple(_reliability_bins(guess, truth))
    expected = sum(one.count * abs(one.predicted - one.reached) for one in bins) / len(guess)
    return Calibration(float(np.abs(gap).mean()), float(gap.mean()), expected, spearman(guess, truth), bins)


def _reliability_bins(predicted: Floats, reached: Floats) -> Iterator[ReliabilityBin]:
    place = np.searchsorted(np.arange(1, BINS) / BINS, predicted)
    for number in np.unique(place).tolist():
        chosen = place == number
        means = float(predicted[chosen].mean()), float(reached[chosen].mean())
        yield ReliabilityBin(number / BINS, (number + 1) / BINS, int(chosen.sum()), *means)


def detection(on_objects: ArrayLike, on_background: ArrayLike) -> Detection | None:
    """Precision and recall of "nothing here" (a logit below 0); None without background clicks.

    Args:
        on_objects: object score logits of prompts on objects, `[N]`.
        on_background: of clicks on background, `[K]`.
    """
    wrong, right = (np.asarray(logits, np.float64) < 0 for logits in (on_objects, on_background))
    if len(right) == 0:
        return None
    called = int(wrong.sum()) + int(right.sum())
    return Detection(int(right.sum()) / called if called else None, float(right.mean()))


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation of two rows of numbers, ties sharing their mean rank; None where one is constant."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks if len(rank)]
    if len(centred) < 2 or not all(rank.any() for rank in centred):
        return None
    a, b = centred
    return float((a @ b) / math.sqrt(float(a @ a) * float(b @ b)))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, equal values sharing the mean of their ranks."""
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[member].astype(np.float64)


def _centres(length: int) -> Floats:
    """Pixel centres along one axis."""
    return np.arange(length, dtype=np.float64) + 0.5
