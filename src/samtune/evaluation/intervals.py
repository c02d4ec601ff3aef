"""Means over objects with their 95 % intervals, where objects of one image are not independent. Pure numpy.

Objects of one image share camera, light and often the thing itself, so an interval's observations are groups of
images, never single objects: fifty objects on two photos are worth two observations. The interval is Student's t on a
logit scale, so that it never leaves the range of the figure; docs/decisions/0090-bounded-intervals.md has its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
"""Share of the intervals, over many repetitions, that hold the true mean."""
SHARE = (0.0, 1.0)
"""Range of an IoU, a share, an error of the predicted IoU."""
DIFFERENCE = (-1.0, 1.0)
"""Range of the difference of two of them."""
COUNT = (0.0, 1e6)
"""Range of errors of counts and of distances in pixels: without an upper end; with so far a one the scale is a log."""
_NEAREST = 1e-9
"""Distance from the end of the range, as a share of it, below which a mean counts as lying this far from it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One number per object, summed up.

    Attributes:
        count: objects.
        groups: independent groups of images they come from; the interval rests on these, not on `count`.
        mean, median: over objects.
        low, high: 95 % interval of the mean, inside the range of the figure; None with fewer than two groups, where
            nothing is known about how the mean varies from group to group.
    """

    count: int
    groups: int
    mean: float
    median: float
    low: float | None
    high: float | None

    @property
    def interval_text(self) -> str:
        """`[0.512, 0.634]`; empty where there is no interval."""
        return "" if self.low is None or self.high is None else f"[{self.low:.3f}, {self.high:.3f}]"

    def __str__(self) -> str:
        """Mean and interval, where there is one."""
        return f"{self.mean:.3f} {self.interval_text}".rstrip()


def summarize(
    values: ArrayLike,
    groups: Sequence[str],
    *,
    bounds: tuple[float, float] = SHARE,
    confidence: float = CONFIDENCE,
) -> Summary | None:
    """Mean, median and interval of one number per object; None where there are no objects.

    Args:
        values: one number per object, inside `bounds`.
        groups: the group of images each object belongs to.
        bounds: the range that the figure can have.
        confidence: of the interval, above 0 and below 1.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0:
        return None
    interval = mean_interval(numbers, groups, bounds=bounds, confidence=confidence)
    low, high = interval or (None, None)
    return Summary(len(numbers), len(set(groups)), float(numbers.mean()), float(np.median(numbers)), low, high)


def mean_interval(
    values: ArrayLike,
    groups: Sequence[str],
    *,
    bounds: tuple[float, float] = SHARE,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Interval of the mean with groups as the observations; None with fewer than two groups.

    The mean is a ratio of sums over groups; its standard error is the jackknife's (Efron 1982), leaving out one group
    at a time, which holds where one group has most of the objects. The delta method carries it to the logit scale.
    The quantile is Student's t with the degrees of freedom of the effective number of groups (Kish 1965): groups of
    very unequal size are worth fewer equal ones.

    Args: those of `summarize`.

    Raises:
        ValueError: another number of groups than of values, or a value outside of `bounds`.
    """
    numbers = np.asarray(values, np.float64)
    names, member = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    if len(member) != len(numbers):
        raise ValueError(f"{len(numbers)} values but {len(member)} groups")
    lowest, highest = bounds
    if len(numbers) and not (lowest <= numbers.min() and numbers.max() <= highest):
        raise ValueError(f"values from {numbers.min()} to {numbers.max()}, expected {lowest} to {highest}")
    if len(names) < 2:
        return None
    sums, sizes = np.bincount(member, numbers).astype(np.float64), np.bincount(member).astype(np.float64)
    mean, error = float(numbers.mean()), _jackknife_error(sums, sizes)
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    return _on_logit_scale(mean, error, max(1.0, effective - 1), bounds, confidence)


def jackknife_interval(
    figure: float, without: Sequence[float], *, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of a figure, 0 to 1, that is no mean; None with fewer than two parts of the data.

    Args:
        figure: of all data.
        without: the same figure without one part of the data at a time; the parts are of about the same size.
        confidence: of the interval, above 0 and below 1.
    """
    if len(without) < 2:
        return None
    return _on_logit_scale(figure, _spread(np.asarray(without, np.float64)), len(without) - 1, SHARE, confidence)


@lru_cache(maxsize=1024)
def student_t_quantile(probability: float, degrees: float) -> float:
    """The value below which Student's t with `degrees` of freedom falls with `probability` (0.5 to 1, exclusive).

    With x = sqrt(degrees) tan(a), the distribution's integral becomes that of cos(a)^(degrees - 1), which is smooth and
    bounded for 1 degree and more; it is summed on a fine grid and read backwards. Good to five digits.
    """
    angles = np.linspace(0.0, math.pi / 2, 20_001)
    heights = np.cos(angles) ** (degrees - 1)
    integral = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    angle = float(np.interp(2 * probability - 1, integral / integral[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)


def _jackknife_error(sums: Floats, sizes: Floats) -> float:
    """Standard error of the mean of all objects, from the means that leave out one group each."""
    return _spread((sums.sum() - sums) / (sizes.sum() - sizes))


def _spread(without: Floats) -> float:
    """Standard error of a figure, from its values without one part of the data at a time."""
    return math.sqrt((len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum()))


def _on_logit_scale(
    figure: float, error: float, degrees: float, bounds: tuple[float, float], confidence: float
) -> tuple[float, float]:
    """The interval of a figure with this standard error, carried to the logit of its place in its range and back."""
    if error < _NEAREST:
        return figure, figure
    lowest, highest = bounds
    width = highest - lowest
    share = min(max((figure - lowest) / width, _NEAREST), 1 - _NEAREST)
    reach = student_t_quantile((1 + confidence) / 2, degrees) * error / (width * share * (1 - share))
    center = math.log(share / (1 - share))
    return lowest + width * _logistic(center - reach), lowest + width * _logistic(center + reach)


def _logistic(value: float) -> float:
    """1 / (1 + exp(-value)), written so that it cannot overflow."""
    return (1 + math.tanh(value / 2)) / 2
