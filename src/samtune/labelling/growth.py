"""IoU against the number of training images: a curve through measured points, and what more images would bring.

The curve is `base + a (1 - (1 + n / k)^-c)`: it starts at the base model's IoU where nothing is labelled and rises (or
falls) ever more slowly, as learning curves mostly do (Viering and Loog 2023, "The shape of learning curves"). Its
uncertainty comes from refitting it to resampled groups of held-out images and resampled runs. Pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samtune.evaluation.intervals import CONFIDENCE, Floats, student_t_quantile

_SHAPES = np.array([(k, c) for k in np.geomspace(1, 3000, 24) for c in (0.25, 0.5, 1.0, 2.0)])
"""Places and steepness of the curve's bend that are tried; for each, the best height is known in closed form."""
_RESAMPLED = 1000
_NORMAL = 1.959964


@dataclass(frozen=True, slots=True)
class Growth:
    """A fitted curve.

    Attributes:
        base: IoU without any training image, 0 to 1.
        height: IoU gained or lost in the end, -1 to 1.
        bend: number of images `k` around which the curve bends.
        steepness: `c`.
    """

    base: float
    height: float
    bend: float
    steepness: float

    def at(self, images: float) -> float:
        """IoU on held-out images after tuning on so many."""
        return self.base + self.height * (1 - (1 + images / self.bend) ** -self.steepness)


@dataclass(frozen=True, slots=True)
class _Growths:
    """R fitted curves; every attribute is that of `Growth`, `[R]`."""

    base: Floats
    height: Floats
    bend: Floats
    steepness: Floats

    def __getitem__(self, row: int) -> Growth:
        return Growth(*(float(one[row]) for one in (self.base, self.height, self.bend, self.steepness)))

    def at(self, images: float) -> Floats:
        """IoU of every curve after tuning on so many, `[R]`."""
        return self.base + self.height * (1 - (1 + images / self.bend) ** -self.steepness)


@dataclass(frozen=True, slots=True)
class Measured:
    """What held-out objects score after tuning on growing parts of the training split.

    Attributes:
        images: `[S, K]`, training images of seed S and share K.
        ious: `[S, K, O]`, IoU of every held-out object after that run.
        base: `[O]`, the base model's.
        groups: O names, the group of images that each object belongs to.
    """

    images: Floats
    ious: Floats
    base: Floats
    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected beyond the images there are.

    Attributes:
        curve: through the measured means.
        images: training images there are, and `more` of them.
        more: further images.
        gain: expected change of the IoU.
        low, high: its interval, of 95 % by name; docs/decisions/0217 has how often it holds.
        check: IoU after the largest share, as estimated by the smaller ones; None with fewer than three shares.
    """

    curve: Growth
    images: float
    more: int
    gain: float
    low: float
    high: float
    check: float | None


def forecast(measured: Measured, more: int, seed: int = 0) -> Forecast:
    """Fit a curve and estimate what more images would bring.

    Args:
        measured: at least two shares; at least two groups.
        more: further images.
        seed: of the resampling.
    """
    shares = measured.images.shape[1]
    means = measured.ious.mean(2)
    base = np.array([measured.base.mean()])
    curve = _fitted(measured.images, means[None], base)[0]
    there = float(measured.images[:, -1].mean())
    resampled = _resampled(measured, np.random.default_rng(seed))
    low, high = _widened(resampled.at(there + more) - resampled.at(there), _degrees(measured))
    check = None
    if shares > 2:
        check = _fitted(measured.images[:, :-1], means[None, :, :-1], base)[0].at(there)
    gain = curve.at(there + more) - curve.at(there)
    return Forecast(curve, there, more, gain, min(low, gain), max(high, gain), check)


def band(measured: Measured, images: Sequence[float], seed: int = 0) -> NDArray[np.float64]:
    """The interval of the fitted curve at some numbers of images: `[2, N]`, low and high, 0 to 1 as an IoU is."""
    curves = _resampled(measured, np.random.default_rng(seed))
    return np.clip([_widened(curves.at(number), _degrees(measured)) for number in images], 0, 1).T


def _degrees(measured: Measured) -> int:
    """Degrees of freedom: of the held-out groups, or of the runs where these are fewer (the curve has 3 parameters)."""
    return max(1, min(len(set(measured.groups)) - 1, measured.images.size - 3))


def _resampled(measured: Measured, rng: np.random.Generator) -> _Growths:
    """Curves through resampled groups of held-out images and resampled runs.

    What a run deviates by from the mean of its share is drawn anew from all deviations there are, each somewhat larger
    than seen, because the mean of so few runs follows them.
    """
    runs = len(measured.images)
    _, member = np.unique(np.asarray(measured.groups), return_inverse=True)
    count = int(member.max()) + 1
    picked = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLED)
    sizes = np.bincount(member, minlength=count)
    totals = picked @ sizes
    base = picked @ np.bincount(member, measured.base, minlength=count) / totals
    sums = np.apply_along_axis(lambda row: np.bincount(member, row, minlength=count), 2, measured.ious)
    ious = np.einsum("rg,skg->rsk", picked, sums) / totals[:, None, None]
    if runs > 1:
        center = ious.mean(1, keepdims=True)
        noise = math.sqrt(runs / (runs - 1)) * (ious - center).reshape(_RESAMPLED, -1)
        drawn = rng.integers(0, noise.shape[1], noise.shape)
        ious = center + np.take_along_axis(noise, drawn, axis=1).reshape(ious.shape)
    return _fitted(measured.images, ious, base)


def _fitted(images: Floats, ious: Floats, base: Floats) -> _Growths:
    """Least squares for R sets of points at once.

    Args:
        images: `[S, K]`.
        ious: `[R, S, K]`.
        base: `[R]`.
    """
    rises = 1 - (1 + images.reshape(1, -1) / _SHAPES[:, :1]) ** -_SHAPES[:, 1:]
    gained = (ious - base[:, None, None]).reshape(len(base), -1)
    product, square = gained @ rises.T, (rises**2).sum(1)
    heights = np.clip(product / square, -base[:, None], 1 - base[:, None])
    errors = heights**2 * square - 2 * heights * product
    best = errors.argmin(1)
    return _Growths(base, heights[np.arange(len(base)), best], *_SHAPES[best].T)


def _widened(values: Floats, degrees: int) -> tuple[float, float]:
    """Percentiles, stretched about the median as Student's t is wider than the normal distribution."""
    stretch = student_t_quantile((1 + CONFIDENCE) / 2, degrees) / _NORMAL
    tail = (1 - CONFIDENCE) / 2
    low, middle, high = np.quantile(values, (tail, 0.5, 1 - tail)).tolist()
    return middle + stretch * (low - middle), middle + stretch * (high - middle)
