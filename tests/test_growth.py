"""Data curves: nested shares of whole groups, the fitted curve, how often the forecast holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from samtune.data.training_share import with_training_share
from samtune.labelling.growth import Growth, Measured, band, forecast
from tests.small import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("shares") / "set", train=9, valid=2, test=2, empty=3)


@settings(max_examples=30)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 99))
def test_a_smaller_share_is_part_of_a_larger_one(dataset, one, other, seed):
    small, large = (with_training_share(dataset, share, seed) for share in sorted((one, other)))
    groups = [{image.group for image in part.split("train").images} for part in (small, large)]
    assert groups[0] <= groups[1]
    assert len(groups[0]) == max(1, round(min(one, other) * 9))
    assert any(image.objects for image in small.split("train").images)
    assert small.split("test").table.equals(dataset.split("test").table)


def simulated(rng, groups, truth, shares=(0.125, 0.25, 0.5, 1.0), runs=3, images=150):
    """Held-out groups whose gains differ, runs that differ by 0.01, objects with noise of their own."""
    member = np.repeat(np.arange(groups), rng.integers(1, 6, groups))
    base = truth.base + rng.normal(0, 0.05, groups)[member] + rng.normal(0, 0.08, len(member))
    strength = 1 + rng.normal(0, 0.3, groups)[member]
    counts = np.array([[max(1, share * images + rng.integers(-2, 3)) for share in shares] for _ in range(runs)])
    gains = np.vectorize(truth.at)(counts) - truth.base
    noise = rng.normal(0, 0.01, counts.shape)[..., None] + rng.normal(0, 0.03, (*counts.shape, len(member)))
    return Measured(counts, base + gains[..., None] * strength + noise, base, [str(one) for one in member])


def test_the_fit_is_as_good_as_scipys():
    truth = Growth(0.6, 0.3, 40, 0.8)
    found = simulated(np.random.default_rng(1), 25, truth)
    at, ious, base = found.images.ravel(), found.ious.mean(2).ravel(), found.base.mean()

    def curve(n, height, bend, steepness):
        return base + height * (1 - (1 + n / bend) ** -steepness)

    best, _ = curve_fit(curve, at, ious, p0=(0.3, 40, 0.8), bounds=([-1, 1, 0.2], [1 - base, 3000, 2.1]))
    ours = forecast(found, 50).curve
    errors = [((fitted(at) - ious) ** 2).mean() for fitted in (lambda n: curve(n, *best), np.vectorize(ours.at))]
    assert errors[1] <= 1.1 * errors[0] + 1e-6


def held(sets, groups, truth, seed=3):
    rng = np.random.default_rng(seed)
    hits = []
    for _ in range(sets):
        found = forecast(simulated(rng, groups, truth), 50)
        hits.append(found.low <= truth.at(found.images + 50) - truth.at(found.images) <= found.high)
    return np.mean(hits)


def test_the_forecast_mostly_holds_what_comes():
    assert held(60, 12, Growth(0.6, 0.3, 100, 0.5)) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("groups", [6, 12, 25])
@pytest.mark.parametrize("truth", [Growth(0.6, 0.3, 20, 1), Growth(0.6, 0.3, 100, 0.5), Growth(0.7, 0.1, 5, 2)])
def test_the_forecast_mostly_holds_what_comes_over_many_sets(groups, truth):
    share = held(300, groups, truth)
    print(groups, truth, share)
    assert share >= 0.9


def test_nothing_gained_is_foretold_as_nothing_and_the_band_goes_through_the_base():
    flat = Growth(0.7, 0.0, 10, 1)
    found = simulated(np.random.default_rng(0), 12, flat)
    ahead = forecast(found, 50)
    assert ahead.low <= 0 <= ahead.high
    assert abs(ahead.gain) < 0.01
    low, high = band(found, [0, 150])
    assert low[0] < found.base.mean() < high[0]
    assert ahead.check == pytest.approx(0.7, abs=0.05)


def test_the_band_of_two_runs_is_wide_and_stays_an_iou():
    found = simulated(np.random.default_rng(0), 12, Growth(0.9, 0.05, 10, 1), shares=(0.25, 1.0), runs=1)
    low, high = band(found, [0, 40, 150])
    assert low.min() >= 0
    assert high.max() == 1
