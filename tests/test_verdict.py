"""How often the verdict is wrong: simulated sets without a gain, and with a known one."""

from __future__ import annotations

import numpy as np
import pytest

from samtune.evaluation.paired import PairedDifference, paired_change
from samtune.evaluation.verdict import corrected_confidence, decide
from tests.test_intervals import simulated_gain


def outcome(rng, groups, gain, models=1):
    """The verdict on a simulated set: two prompt kinds with the same gain, nothing else watched."""
    differences, gains = {}, {}
    for kind in ("box", "point"):
        changes, names = simulated_gain(rng, groups, gain)
        before, after = np.clip(0.5 - changes / 2, 0, 1).tolist(), np.clip(0.5 + changes / 2, 0, 1).tolist()
        differences[kind] = PairedDifference.of(before, after, names.tolist())
        confidence = corrected_confidence(2, models)
        gains[kind] = paired_change(before, after, names.tolist(), confidence=confidence)
    return decide(differences, gains, (), is_held_out=True, is_unchanged=False).outcome


def share_of_ship(sets, groups, gain, models=1):
    rng = np.random.default_rng(groups)
    return np.mean([outcome(rng, groups, gain, models) == "ship" for _ in range(sets)])


def test_without_a_gain_it_seldom_ships_and_with_a_large_one_always():
    assert share_of_ship(100, 12, 0.0) <= 0.08
    assert share_of_ship(40, 20, 0.1) == 1


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 10, 20, 40])
def test_without_a_gain_at_most_three_in_a_hundred_ship(groups):
    assert share_of_ship(2000, groups, 0.0) <= 0.03
    assert share_of_ship(500, groups, 0.0, models=5) <= 0.015


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "power"), [(10, 0.4), (20, 0.8), (40, 0.98)])
def test_a_gain_of_three_hundredths_is_seen(groups, power):
    assert share_of_ship(1000, groups, 0.03) >= power
