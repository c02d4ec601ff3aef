"""The arithmetic of judging, against definitions written another way and against known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.evaluation.metrics import (
    Overlap,
    bootstrap_interval,
    box_mask,
    calibration,
    ellipse_mask,
    spearman,
    student_t_quantile,
    summarize,
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


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (120, 1.97993)]
)
def test_student_t_as_in_the_tables(degrees, value):
    assert student_t_quantile(0.975, degrees) == pytest.approx(value, rel=1e-4)


def test_few_groups_get_the_textbook_interval():
    values = [0.2, 0.5, 0.9, 0.4]
    low, high = bootstrap_interval(values, ["a", "b", "c", "d"])
    half = 3.18245 * np.std(values, ddof=1) / 2
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)


def test_objects_of_one_image_are_one_witness():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(20), 10)
    alone = [str(i) for i in range(200)]
    together = [str(i // 10) for i in range(200)]
    narrow, wide = (bootstrap_interval(values, groups) for groups in (alone, together))
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])
    assert bootstrap_interval(values, ["one"] * 200) is None


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        sizes = rng.integers(1, 8, 12)
        values = np.repeat(rng.beta(2, 1, 12), sizes)
        groups = np.repeat([str(i) for i in range(12)], sizes).tolist()
        low, high = bootstrap_interval(values, groups)
        held += low <= 2 / 3 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_nothing_gives_none():
    values, groups = np.random.default_rng(2).random(30), [str(i % 11) for i in range(30)]
    assert summarize(values, groups, seed=3) == summarize(values, groups, seed=3)
    assert summarize(values, groups, seed=3) != summarize(values, groups, seed=4)
    assert summarize([], []) is None
    assert calibration([], []) is None
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval([1.0, 2.0], ["a"])


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
