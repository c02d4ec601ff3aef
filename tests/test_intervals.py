"""Intervals of grouped means: bounded, as wide as they should be, holding the true mean as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from samtune.evaluation.intervals import DIFFERENCE, mean_interval, student_t_quantile, summarize

numbers = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=12)


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 3.7, 10, 120, 3000])
@pytest.mark.parametrize("probability", [0.975, 0.9875, 0.999])
def test_student_t_as_scipy_has_it(degrees, probability):
    assert student_t_quantile(probability, degrees) == pytest.approx(student_t.ppf(probability, degrees), rel=2e-4)


@given(numbers, st.integers(0, 2**32 - 1))
def test_intervals_stay_in_the_range_and_hold_the_mean(values, seed):
    """Two to twelve objects in two groups: the interval used to be [-1.680, 2.736]."""
    groups = ["a", "b", *np.random.default_rng(seed).choice(["a", "b"], len(values) - 2)]
    low, high = mean_interval(values, groups)
    assert 0 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1
    low, high = mean_interval([2 * value - 1 for value in values], groups, bounds=DIFFERENCE)
    assert -1 <= low <= high <= 1


def test_the_intervals_that_left_the_range():
    low, high = mean_interval([0.35, 0.706], ["a", "b"])
    assert (0 <= low < 0.1, 0.9 < high <= 1) == (True, True)
    low, high = mean_interval([0.99, 0.95, 0.98, 0.70], list("abcd"))
    assert 0.4 < low < 0.905 < high < 1


def test_the_interval_by_hand():
    """Four objects in four groups: jackknife error, Student's t with three degrees, on the logit scale."""
    values = np.array([0.2, 0.5, 0.9, 0.4])
    without = np.array([np.delete(values, place).mean() for place in range(4)])
    error = math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    reach = student_t.ppf(0.975, 3) * error / 0.25
    expected = [1 / (1 + math.exp(-reach * sign)) for sign in (-1, 1)]
    assert mean_interval(values, list("abcd")) == pytest.approx(expected, rel=1e-3)


def test_objects_of_one_image_are_one_observation():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(20), 10)
    alone = [str(i) for i in range(200)]
    together = [str(i // 10) for i in range(200)]
    narrow, wide = (mean_interval(values, groups) for groups in (alone, together))
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])
    assert mean_interval(values, ["one"] * 200) is None


def test_a_group_with_most_of_the_objects_makes_the_interval_wider():
    rng = np.random.default_rng(3)
    means = rng.normal(0, 0.05, 10)
    even, uneven = np.full(10, 6), np.array([51, *[1] * 9])
    widths = []
    for sizes in (even, uneven):
        low, high = mean_interval(
            np.repeat(means, sizes), np.repeat(np.arange(10), sizes).astype(str), bounds=DIFFERENCE
        )
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def simulated_iou(rng, groups, beta=(8, 1.2)):
    """Skewed group means, 1 to 11 objects a group, objects of one group alike; the true mean is a / (a + b)."""
    sizes = rng.integers(1, 12, groups)
    means = rng.beta(*beta, groups)
    values = [rng.beta(20 * mean, 20 * (1 - mean), size) for mean, size in zip(means, sizes, strict=True)]
    return np.concatenate(values), np.repeat(np.arange(groups), sizes).astype(str)


def simulated_gain(rng, groups, gain=0.0):
    """Heavy-tailed differences: Student's t with 3 degrees, alike within a group, 1 to 11 objects a group."""
    sizes = rng.integers(1, 12, groups)
    means = gain + rng.normal(0, 0.03, groups)
    values = [mean + 0.04 * rng.standard_t(3, size) for mean, size in zip(means, sizes, strict=True)]
    return np.clip(np.concatenate(values), -1, 1), np.repeat(np.arange(groups), sizes).astype(str)


def coverage(sets, groups, seed=11):
    """Share of simulated IoU sets and of difference sets whose interval holds the true mean."""
    rng = np.random.default_rng(seed)
    held = np.zeros(2)
    for _ in range(sets):
        low, high = mean_interval(*simulated_iou(rng, groups))
        held[0] += low <= 8 / 9.2 <= high
        low, high = mean_interval(*simulated_gain(rng, groups), bounds=DIFFERENCE)
        held[1] += low <= 0 <= high
    return held / sets


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    assert (coverage(300, 12) >= 0.91).all()
    assert (coverage(300, 12) <= 0.99).all()


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 10, 20, 40])
def test_coverage_over_2000_simulated_sets(groups):
    found = coverage(2000, groups)
    assert (found >= 0.93).all(), found
    assert (found <= 0.97).all(), found


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 3, 4, 5, 6])
def test_few_groups_are_covered_too(groups):
    assert (coverage(2000, groups) >= 0.93).all()


def test_nothing_gives_none_and_what_cannot_be_is_refused():
    assert summarize([], []) is None
    found = summarize([0.5, 0.5, 0.5], ["a", "b", "b"])
    assert (found.low, found.high, found.count, found.groups) == (0.5, 0.5, 3, 2)
    with pytest.raises(ValueError, match="groups"):
        mean_interval([1.0, 0.2], ["a"])
    with pytest.raises(ValueError, match="expected 0"):
        mean_interval([1.5, 0.2], ["a", "b"])
