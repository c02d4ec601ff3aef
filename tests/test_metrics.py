"""Overlap, trivial guesses and calibration, against definitions written another way and against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from samtune.evaluation.metrics import (
    Overlap,
    box_mask,
    calibration,
    detection,
    ellipse_mask,
    spearman,
)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_iou_and_dice_are_what_their_definitions_say(seed, first, second):
    rng = np.random.default_rng(seed)
    a, b = rng.random((7, 9)) < first, rng.random((7, 9)) < second
    pixels = [set(zip(*np.nonzero(mask), strict=True)) for mask in (a, b)]
    overlap = Overlap.of(a, b)
    union = len(pixels[0] | pixels[1])
    assert overlap.iou == (len(pixels[0] & pixels[1]) / union if union else 1.0)
    assert overlap.dice == pytest.approx(2 * overlap.iou / (1 + overlap.iou))


def test_masks_of_two_shapes_are_a_bug():
    with pytest.raises(ValueError, match="shapes"):
        Overlap.of(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_trivial_guesses():
    box = box_mask((2, 1, 6, 4), 6, 8)
    assert box.sum() == 12
    assert box[1:4, 2:6].all()
    disc = ellipse_mask((0, 0, 200, 100), 100, 200)
    assert disc.mean() == pytest.approx(np.pi / 4, abs=0.002)
    assert not disc[0, 0]
    assert disc[50, 0]
    assert ellipse_mask((3, 3, 3, 5), 6, 8).sum() == 0


def test_rank_correlation_by_the_formula_for_distinct_ranks_and_with_ties():
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.820783, abs=1e-5)
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([], []) is None


def test_calibration_tells_error_from_bias():
    found = calibration([0.9, 0.5, 0.7], [0.7, 0.7, 0.7])
    assert found.mean_error == pytest.approx(0.4 / 3)
    assert found.bias == pytest.approx(0)
    assert found.rank_correlation is None
    assert calibration([], []) is None


@given(st.integers(0, 2**32 - 1))
def test_calibration_by_its_definition(seed):
    rng = np.random.default_rng(seed)
    predicted, reached = rng.random(50).round(2), rng.random(50)
    found = calibration(predicted, reached)
    expected, count = 0.0, 0
    for number in range(10):
        above = predicted > number / 10 if number else predicted >= 0
        chosen = above & (predicted <= (number + 1) / 10)
        count += bool(chosen.any())
        if chosen.any():
            expected += chosen.mean() * abs(predicted[chosen].mean() - reached[chosen].mean())
    assert found.expected_error == pytest.approx(expected)
    assert len(found.bins) == count
    assert sum(one.count for one in found.bins) == 50
    assert found.rank_correlation == pytest.approx(stats.spearmanr(predicted, reached).statistic)


def test_nothing_here_has_precision_and_recall():
    found = detection([1.0, -1.0, 2.0], [-3.0, -2.0, -1.0, 0.5])
    assert (found.precision, found.recall) == (3 / 4, 3 / 4)
    assert detection([1.0], [1.0]).precision is None
    assert detection([1.0], []) is None
