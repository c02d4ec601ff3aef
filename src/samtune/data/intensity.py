"""From deep pixels to 8 bits: one stretch, by percentiles of the whole image or of the whole set.

Values of up to 8 bits are taken as they are. Of all others, in each band, the lower percentile becomes 0, the upper one
255, and what lies between is spread evenly. The percentiles are those of the whole image (never of a tile of it, or
neighbouring tiles would differ) or of the whole set; they are counted over about a million pixels of an image, which
are all pixels of images up to that size. Values that are not finite become 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 1 << 20
"""Pixels of an image that are looked at for its percentiles."""
_TAIL = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
LEVELS = np.concatenate([_TAIL, np.linspace(1, 99, 99), 100 - _TAIL[::-1]]) / 100
"""Levels of the quantiles that are kept of an image to find the percentiles of a set; closest in the tails."""
_MOST_IMAGES = 2000
"""Of larger sets every so many images count."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What becomes 0 and 255: per band, `low` and `high`, in the values of the file."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def is_deep(pixels: NDArray[Any]) -> bool:
    """Whether values need to be stretched, because their type holds more than 8 bits."""
    return pixels.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_))


def limits_of(sample: NDArray[Any], percentiles: tuple[float, float]) -> Limits:
    """The limits of pixels `[n, bands]`."""
    low, high = _quantiles(sample, np.array(percentiles) / 100).tolist()
    return Limits(tuple(low), tuple(high))


def quantiles_of(sample: NDArray[Any]) -> NDArray[np.float32]:
    """What is kept of an image's pixels `[n, bands]` to find the limits of its set: `[len(LEVELS), bands]`."""
    return _quantiles(sample, LEVELS).astype(np.float32)


def limits_of_set(quantiles: Sequence[NDArray[np.float32]], percentiles: tuple[float, float]) -> Limits:
    """The limits of a set of images, each of which counts alike, from `quantiles_of` each."""
    some = np.stack(quantiles[:: -(-len(quantiles) // _MOST_IMAGES)])
    bands = range(some.shape[2])
    low, high = ([_value_at(some[:, :, band], percentile / 100) for band in bands] for percentile in percentiles)
    return Limits(tuple(low), tuple(high))


def _value_at(quantiles: NDArray[np.float32], level: float) -> float:
    """The value below which the share `level` of all values lies, of images with quantiles `[n, len(LEVELS)]`."""
    low, high = float(quantiles.min()), float(quantiles.max())
    for _ in range(40):
        middle = (low + high) / 2
        share = np.mean([np.interp(middle, one, LEVELS) for one in quantiles])
        low, high = (middle, high) if share < level else (low, middle)
    return high


def to_8_bits(pixels: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """Stretch pixels `[h, w, bands]`; a band whose limits are equal becomes 0 up to that value and 255 above."""
    low, high = (np.array(values, np.float32) for values in (limits.low, limits.high))
    values = np.nan_to_num(pixels.astype(np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    scaled = (values - low) * (255 / np.maximum(high - low, np.finfo(np.float32).tiny))
    return np.nan_to_num(scaled, nan=0.0).clip(0, 255).round().astype(np.uint8)


def _quantiles(sample: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles `[len(at), bands]` of the finite values; 0 where a band has none."""
    columns: list[NDArray[np.float64]] = []
    for band in range(sample.shape[1]):
        values = sample[:, band]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        columns.append(np.quantile(values, at) if values.size else np.zeros(len(at)))
    return np.stack(columns, axis=1).astype(np.float64)
