"""The arithmetic of judging masks: overlap, trivial guesses, grouped bootstrap, rank correlation. Pure numpy, no files.

Two ideas run through it. Overlap is counted, not averaged: three integers per object give IoU and Dice exactly,
whatever part of the image was looked at. And objects of one image are not independent (same lamp, same camera, often
the same plant), so every interval resamples whole groups of images, never single objects; otherwise fifty objects on
two photos would look like fifty witnesses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samtune.types import Box

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
"""Share of the intervals, over many repetitions, that hold the true mean."""
FEWEST_TO_RESAMPLE = 8
"""With fewer groups, resampling cannot imagine a group worse than the worst one seen; Student's t is used instead."""


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
class Summary:
    """One number per object, summed up.

    Attributes:
        count: objects.
        groups: independent groups of images they come from; the interval rests on these, not on `count`.
        mean, median: over objects.
        low, high: 95 % interval of the mean, resampling groups; None with fewer than two groups, where nothing is known
            about how the mean varies from group to group.
    """

    count: int
    groups: int
    mean: float
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the predicted IoU foretells the IoU reached.

    Attributes:
        mean_error: mean of |predicted - reached|; 0 is perfect.
        bias: mean of predicted - reached; above 0 the model flatters itself.
        rank_correlation: Spearman's, -1 to 1: does the order of the predictions tell good masks from bad ones? None
            where one of the two does not vary.
    """

    mean_error: float
    bias: float
    rank_correlation: float | None


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


def summarize(values: ArrayLike, groups: Sequence[str], *, seed: int = 0) -> Summary | None:
    """Mean, median and interval of one number per object; None where there are no objects.

    Args:
        values: one number per object.
        groups: the group of images each object belongs to; objects of one group count as one observation of the
            interval, however many they are.
        seed: of the resampling. The same values, groups and seed give the same interval.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0:
        return None
    interval = bootstrap_interval(numbers, groups, seed=seed)
    low, high = interval or (None, None)
    return Summary(len(numbers), len(set(groups)), float(numbers.mean()), float(np.median(numbers)), low, high)


def bootstrap_interval(values: ArrayLike, groups: Sequence[str], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean by resampling groups with replacement; None with fewer than two groups.

    The percentiles are widened as Hesterberg ("What Teachers Should Know About the Bootstrap", 2015, section 4.3,
    "expanded percentile interval") advises, so that for few groups the interval is as wide as Student's t makes it; the
    plain percentile bootstrap is too sure of itself on ten photos. With fewer than `FEWEST_TO_RESAMPLE` groups the
    interval is Student's t on the groups themselves (docs/decisions/0060-intervals.md has the coverage of each).
    """
    numbers = np.asarray(values, np.float64)
    names, member = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    if len(member) != len(numbers):
        raise ValueError(f"{len(numbers)} values but {len(member)} groups")
    count = len(names)
    if count < 2:
        return None
    sums, sizes = np.bincount(member, numbers).astype(np.float64), np.bincount(member).astype(np.float64)
    quantile = student_t_quantile((1 + CONFIDENCE) / 2, count - 1)
    if count < FEWEST_TO_RESAMPLE:
        return _student_t_interval(sums, sizes, quantile)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * quantile)
    low, high = np.quantile(_resampled_means(sums, sizes, seed), [tail, 1 - tail])
    return float(low), float(high)


def calibration(predicted: ArrayLike, reached: ArrayLike) -> Calibration | None:
    """Compare predicted IoUs with the IoUs reached, both `[N]`; None where N is 0."""
    guess, truth = np.asarray(predicted, np.float64), np.asarray(reached, np.float64)
    if len(guess) == 0:
        return None
    gap = guess - truth
    return Calibration(float(np.abs(gap).mean()), float(gap.mean()), spearman(guess, truth))


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation of two rows of numbers, ties sharing their mean rank; None where one is constant."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks if len(rank)]
    if len(centred) < 2 or not all(rank.any() for rank in centred):
        return None
    a, b = centred
    return float((a @ b) / math.sqrt(float(a @ a) * float(b @ b)))


@lru_cache(maxsize=256)
def student_t_quantile(probability: float, degrees: int) -> float:
    """The value below which Student's t with `degrees` of freedom falls with `probability` (0.5 to 1, exclusive).

    With x = sqrt(degrees) tan(a), the distribution's integral becomes that of cos(a)^(degrees - 1), which is smooth and
    bounded; it is summed on a fine grid and read backwards. Good to five digits for any number of groups.
    """
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    heights = np.cos(angles) ** (degrees - 1)
    integral = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    angle = float(np.interp(2 * probability - 1, integral / integral[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)


def _student_t_interval(sums: Floats, sizes: Floats, quantile: float) -> tuple[float, float]:
    """Mean of all objects, give or take its standard error with groups as the observations (ratio estimator)."""
    count, total = len(sums), float(sizes.sum())
    mean = float(sums.sum()) / total
    error = math.sqrt(count / (count - 1) * float(((sums - mean * sizes) ** 2).sum())) / total
    return mean - quantile * error, mean + quantile * error


def _resampled_means(sums: Floats, sizes: Floats, seed: int) -> Floats:
    """Means of objects over as many groups as there are, drawn with replacement, many times over."""
    rng = np.random.default_rng(seed)
    count = len(sums)
    repeats = int(np.clip(20_000_000 // count, 1_000, 10_000))
    at_once = max(1, 1_000_000 // count)
    means: list[Floats] = []
    for start in range(0, repeats, at_once):
        drawn = rng.integers(0, count, (min(at_once, repeats - start), count))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, equal values sharing the mean of their ranks."""
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[member].astype(np.float64)


def _centres(length: int) -> Floats:
    """Pixel centres along one axis."""
    return np.arange(length, dtype=np.float64) + 0.5
