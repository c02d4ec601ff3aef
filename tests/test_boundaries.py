"""Metrics of masks against references written from their definitions with scipy, on random masks of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from samtune.evaluation.boundaries import (
    Boundary,
    boundary_f,
    boundary_iou,
    edge_distances,
    hausdorff_95,
    surface_dice,
)
from samtune.evaluation.metrics import Overlap

CROSS = ndimage.generate_binary_structure(2, 1)


def random_mask(rng, shape):
    """Empty, full, one pixel, noise, or blobs as objects are."""
    kind = rng.integers(0, 8)
    if kind == 0:
        return np.zeros(shape, bool)
    if kind == 1:
        return np.ones(shape, bool)
    if kind == 2:
        mask = np.zeros(shape, bool)
        mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
        return mask
    if kind == 3:
        return rng.random(shape) < rng.random()
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 4))
    return smooth > np.quantile(smooth, rng.uniform(0.2, 0.95))


def random_pair(rng):
    shape = tuple(rng.integers(1, 40, 2))
    first = random_mask(rng, shape)
    if rng.random() < 0.5:
        return first, random_mask(rng, shape)
    return first, ndimage.shift(first.astype(np.uint8), rng.integers(-3, 4, 2), order=0).astype(bool)


def edge_points(mask):
    return np.argwhere(mask & ~ndimage.binary_erosion(mask, CROSS, border_value=0))


def reference(predicted, truth, depth, tolerance):
    """Boundary IoU, boundary F, surface Dice and Hausdorff 95, each from its definition."""
    bands = [
        mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=depth, border_value=0)
        for mask in (predicted, truth)
    ]
    union = (bands[0] | bands[1]).sum()
    band_iou = (bands[0] & bands[1]).sum() / union if union else 1.0
    first, second = edge_points(predicted), edge_points(truth)
    if not len(first) and not len(second):
        return band_iou, 1.0, 1.0, 0.0
    if not len(first) or not len(second):
        return band_iou, 0.0, 0.0, float(np.hypot(*predicted.shape))
    table = cdist(first, second)
    forth, back = table.min(1), table.min(0)
    precision, recall = (forth <= tolerance).mean(), (back <= tolerance).mean()
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    near = ((forth <= tolerance).sum() + (back <= tolerance).sum()) / (len(forth) + len(back))
    return band_iou, f_score, near, max(np.percentile(forth, 95), np.percentile(back, 95))


def check_pairs(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        predicted, truth = random_pair(rng)
        depth, tolerance = int(rng.integers(1, 4)), float(rng.choice([1.0, 1.5, 2.0, 3.0]))
        found = (
            boundary_iou(predicted, truth, depth),
            boundary_f(predicted, truth, tolerance),
            surface_dice(predicted, truth, tolerance),
            hausdorff_95(predicted, truth),
        )
        assert found == pytest.approx(reference(predicted, truth, depth, tolerance), abs=1e-4)
        overlap, both = Overlap.of(predicted, truth), (predicted & truth).sum()
        either, areas = (predicted | truth).sum(), predicted.sum() + truth.sum()
        assert overlap.iou == (both / either if either else 1.0)
        assert overlap.dice == (2 * both / areas if areas else 1.0)


def test_metrics_are_what_their_definitions_say():
    check_pairs(300, seed=0)


@pytest.mark.slow
def test_metrics_are_what_their_definitions_say_on_10000_pairs():
    check_pairs(10_000, seed=1)


def test_a_part_of_the_image_gives_the_figures_of_the_whole():
    rng = np.random.default_rng(2)
    predicted, truth = np.zeros((2, 80, 120), bool)
    predicted[20:50, 30:70] = rng.random((30, 40)) < 0.8
    truth[24:52, 28:66] = True
    part = np.s_[19:53, 27:71]
    assert Boundary.of(predicted[part], truth[part], predicted.shape) == Boundary.of(predicted, truth)


def test_the_same_mask_is_perfect_and_a_missing_one_as_bad_as_can_be():
    truth = np.zeros((30, 40), bool)
    truth[5:20, 5:20] = True
    assert Boundary.of(truth, truth) == Boundary(1.0, 1.0, 1.0, 0.0)
    assert Boundary.of(np.zeros_like(truth), truth) == Boundary(0.0, 0.0, 0.0, 50.0)
    empty = np.zeros_like(truth)
    assert Boundary.of(empty, empty) == Boundary(1.0, 1.0, 1.0, 0.0)


def test_masks_of_two_shapes_are_a_bug():
    for metric in (edge_distances, hausdorff_95, lambda a, b: boundary_iou(a, b, 1), Boundary.of):
        with pytest.raises(ValueError, match="shapes"):
            metric(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_distances_are_exact_roots_every_time():
    rng = np.random.default_rng(5)
    for _ in range(200):
        first, second = random_pair(rng)
        edges = edge_points(first), edge_points(second)
        if not all(len(edge) for edge in edges):
            continue
        exact = np.sqrt(cdist(*edges, "sqeuclidean")).astype(np.float32)
        found = edge_distances(first, second)
        assert (found[0] == exact.min(1)).all()
        assert (found[1] == exact.min(0)).all()
