"""The finder's parts: targets, losses, suppression, matching and calibration, each against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from samtune.data.masks import region_of
from samtune.finder.calibration import EVIDENCE, ScoreCalibration, calibration_error, error_by_chance, fit
from samtune.finder.head import FinderHead, FinderOutput
from samtune.finder.losses import box_loss, class_loss, class_weights, generalized_iou, objectness_loss, pooled
from samtune.finder.matching import (
    OperatingPoint,
    at_half_of_best_f1,
    best_f1,
    match,
    operating_points,
    with_precision,
    with_recall,
)
from samtune.finder.proposals import box_iou, propose, similar_boxes, suppress
from samtune.finder.targets import LEAST_SPREAD, NEAR, REACH, SPREAD, draw
from samtune.inference.overlaps import MaskRuns, mask_boxes, without_duplicates
from samtune.model.encoder.embeddings import ImageEmbeddings

GRID = (20, 24)
seeds = st.integers(0, 2**32 - 1)


def random_boxes(seed: int, count: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.9, (count, 2)) * GRID[::-1]
    high = np.minimum(low + rng.uniform(0.05, 0.6, (count, 2)) * GRID[::-1], GRID[::-1])
    return torch.tensor(np.concatenate([low, high], 1), dtype=torch.float32)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 12))
def test_targets_are_what_whole_grids_would_give(seed, count):
    boxes = random_boxes(seed, count)
    target = draw(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, GRID)
    heat, owner, weight = np.zeros(GRID), np.full(GRID, -1), np.zeros(GRID)
    areas = [np.float32((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in boxes.numpy()]
    for one in sorted(range(count), key=lambda i: -areas[i]):
        x0, y0, x1, y1 = boxes[one].tolist()
        column, row = int((x0 + x1) / 2), int((y0 + y1) / 2)
        sx, sy = max(SPREAD * (x1 - x0), LEAST_SPREAD), max(SPREAD * (y1 - y0), LEAST_SPREAD)
        y, x = np.mgrid[: GRID[0], : GRID[1]]
        gauss = np.exp(-((x - column) ** 2) / (2 * sx**2) - (y - row) ** 2 / (2 * sy**2))
        heat = np.maximum(heat, gauss)
        near = gauss > NEAR
        owner[near], weight[near] = one, gauss[near]
    outside = np.exp(-(REACH**2) / 2)
    np.testing.assert_allclose(target.heat, heat, atol=outside)
    assert (target.owner.numpy() == owner).all()
    np.testing.assert_allclose(target.weight, weight, atol=1e-5)
    assert (target.heat == 1).sum() <= count
    assert count == 0 or (target.heat == 1).any()


def test_objectness_loss_is_the_formula():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    heat = torch.rand(2, 3, 4, dtype=torch.float64)
    heat[0, 1, 2] = heat[1, 0, 0] = 1.0
    counted = torch.rand(2, 3, 4) > 0.2
    counted[0, 1, 2] = counted[1, 0, 0] = True
    total = torch.zeros((), dtype=torch.float64)
    for place in counted.nonzero().tolist():
        p, h = logits[tuple(place)].sigmoid(), heat[tuple(place)]
        total = total - ((1 - p) ** 2 * p.log() if h == 1 else (1 - h) ** 4 * p**2 * (1 - p).log())
    loss = objectness_loss(logits, heat, counted)
    assert torch.allclose(loss, total / 2)
    ours, plain = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, total / 2))
    assert torch.allclose(ours, plain)
    assert torch.autograd.gradcheck(lambda x: objectness_loss(x, heat, counted), logits)


def test_box_loss_is_the_formula_and_has_its_gradient():
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([1 / 7 - 2 / 9, 0 - 1 / 3], dtype=torch.float64)
    assert torch.allclose(generalized_iou(first, second), expected)
    weight = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert torch.allclose(box_loss(first, second, weight), ((1 - expected) * weight).sum() / 4)
    assert torch.autograd.gradcheck(lambda x: box_loss(x, second, weight), first)
    assert box_loss(first[:0], second[:0], weight[:0]) == 0


def test_names_are_told_from_the_mean_under_the_mask():
    maps, masks = torch.randn(3, 5, 6), torch.rand(4, 5, 6)
    masks[3] = 0
    found = pooled(maps, masks)
    for one in range(3):
        mean = torch.stack([(layer * masks[one]).sum() / masks[one].sum() for layer in maps])
        assert torch.allclose(found[one], mean, atol=1e-6)
    assert (found[3] == 0).all()
    weights = class_weights(torch.tensor([4, 1, 0]))
    assert weights[2] == 0 and torch.allclose(weights[1], 2 * weights[0])
    assert torch.allclose((weights * torch.tensor([4, 1, 0])).sum(), torch.tensor(5.0))
    classes = torch.tensor([0, 1, 0])
    log = found[:3].log_softmax(1)
    plain = -sum(weights[c] * log[row, c] for row, c in enumerate(classes)) / weights[classes].sum()
    assert torch.allclose(class_loss(found[:3], classes, weights), plain)
    assert class_loss(found[:0], classes[:0], weights) == 0


def reference_suppression(scores, iou, most):
    kept: list[int] = []
    for one in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(iou[one, other] <= most for other in kept):
            kept.append(one)
    return kept


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 30), st.sampled_from([0.3, 0.6, 0.7]))
def test_suppression_is_the_brute_force_one(seed, count, most):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(seed, count).numpy()
    scores = rng.integers(0, 5, count).astype(np.float32) / 5
    kept = suppress(scores, similar_boxes(boxes, most))
    assert kept.tolist() == reference_suppression(scores, box_iou(boxes, boxes), most)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.6, 0.7, 1.0]))
def test_masks_without_duplicates_are_the_brute_force_ones(seed, count, most):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(seed, count).numpy(), rng.integers(0, 5, count).astype(np.float32) / 5
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    masks = np.array([(rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1) for x0, y0, x1, y1 in boxes])
    masks = masks.astype(bool).reshape(count, *GRID)
    masks &= rng.random(masks.shape) > 0.1
    flat = masks.reshape(count, GRID[0] * GRID[1]).astype(int)
    shared = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1)[None] - shared
    iou = shared / np.maximum(union, 1)
    expected = reference_suppression(scores, iou, most)
    half = count // 2
    runs = MaskRuns.cat([MaskRuns.of_masks(masks[:half]), MaskRuns.of_masks(masks[half:])])
    assert without_duplicates(runs, scores, most).tolist() == expected
    full = np.flatnonzero(masks.any((1, 2)))
    regions = MaskRuns.of_regions([found for mask in masks if (found := region_of(mask))], GRID[0])
    assert regions.areas.tolist() == flat.sum(1)[full].tolist()
    assert full[without_duplicates(regions, scores[full], most)].tolist() == [one for one in expected if one in full]
    for mask, box in zip(masks, mask_boxes(masks), strict=True):
        y, x = np.nonzero(mask)
        assert box.tolist() == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])


def test_peaks_become_boxes_inside_the_image():
    objectness = torch.full((1, 6, 8), -9.0)
    objectness[0, 1, 1], objectness[0, 1, 2], objectness[0, 4, 6] = 2.0, 1.0, 3.0
    distances = torch.zeros(1, 4, 6, 8)
    distances[0, :, 4, 6] = torch.tensor([1.0, 1.0, 5.0, 0.0])
    found = propose(FinderOutput(objectness, distances, torch.zeros(1, 0, 6, 8)), 0, most=10)
    e = np.e
    assert torch.allclose(found.boxes[0], torch.tensor([6.5 - e, 4.5 - e, 8.0, 5.5]), atol=1e-4)
    assert torch.allclose(found.boxes[1], torch.tensor([0.5, 0.5, 2.5, 2.5]))
    assert torch.allclose(found.objectness, torch.tensor([3.0, 2.0]).sigmoid())
    assert len(found) == 2
    assert len(propose(FinderOutput(objectness, distances, torch.zeros(1, 0, 6, 8)), 0, most=1)) == 1


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 12), st.integers(0, 12))
def test_matching_is_greedy_by_score(seed, finds, objects):
    rng = np.random.default_rng(seed)
    iou = rng.random((finds, objects)).astype(np.float32)
    scores = rng.permutation(finds).astype(np.float32)
    found = match(iou, scores, 0.5)
    taken: set[int] = set()
    for one in np.argsort(-scores):
        free = [other for other in range(objects) if other not in taken and iou[one, other] >= 0.5]
        expected = max(free, key=lambda other: iou[one, other]) if free else -1
        assert found[one] == expected
        taken |= {expected} - {-1}


def test_operating_points_keep_equal_scores_together():
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    points = operating_points(scores, np.array([True, False, True, False]), 4)
    assert [(p.precision, p.recall) for p in points] == [(1, 0.25), (2 / 3, 0.5)]
    assert [p.threshold for p in points] == pytest.approx([0.75, 0.25])
    assert best_f1(points) == points[1]
    assert with_precision(points, 0.6) == points[1] and with_precision(points, 0.9) == points[0]
    assert with_recall(points, 0.5) == points[1] and with_recall(points, 0.6) is None
    assert operating_points(scores, np.array([False, False, False, True]), 4)[0].threshold == pytest.approx(0.1)
    assert best_f1([]).recall == 0 and operating_points(np.zeros(0), np.zeros(0, bool), 3) == []


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 40))
def test_a_threshold_keeps_what_its_point_promises(seed, count):
    rng = np.random.default_rng(seed)
    scores, right = rng.integers(1, 12, count) / 12, rng.random(count) < 0.5
    points = operating_points(scores, right, count)
    for point in points:
        kept = scores >= point.threshold
        assert point.precision == pytest.approx(right[kept].mean()) and point.recall == right[kept].sum() / count
    every = [right[scores >= score].sum() * 2 / ((scores >= score).sum() + count) for score in scores]
    assert best_f1(points).f1 == pytest.approx(max(every))


evidence_rows = st.lists(st.floats(0, 1), min_size=len(EVIDENCE), max_size=len(EVIDENCE))


@settings(max_examples=60, deadline=None)
@given(
    evidence_rows,
    st.integers(0, len(EVIDENCE) - 1),
    st.floats(0, 1),
    st.lists(st.floats(0, 4), min_size=4, max_size=4),
    st.floats(-8, 8),
)
def test_more_evidence_never_lowers_a_score(row, column, value, weights, bias):
    less, more = np.array([row, row])
    less[column], more[column] = sorted((row[column], value))
    low, high = ScoreCalibration(tuple(weights), bias)(np.stack([less, more]))
    assert 0 <= low <= high <= 1


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 60))
def test_fitting_never_turns_evidence_around(seed, count):
    rng = np.random.default_rng(seed)
    found = fit(rng.random((count, len(EVIDENCE))), rng.random(count) < 0.5)
    assert all(np.isfinite([*found.weights, found.bias])) and min(found.weights) >= 0
    if count == 0:
        assert found.weights == pytest.approx(ScoreCalibration().weights) and found.bias == ScoreCalibration().bias


def test_fitted_scores_are_calibrated_and_the_fit_is_the_best_one():
    rng = np.random.default_rng(0)
    evidence = rng.random((6000, len(EVIDENCE)))
    truth = ScoreCalibration((1.5, 0.5, 0.2, 0.0), -1.0)(evidence)
    right = rng.random(len(evidence)) < truth
    found = fit(evidence[:3000], right[:3000])
    assert calibration_error(found(evidence[3000:]), right[3000:]) < 0.05
    assert np.allclose(found.weights, (1.5, 0.5, 0.2, 0.0), atol=0.15) and abs(found.bias + 1) < 0.2
    assert calibration_error(np.repeat([0.0, 1.0], 50), np.arange(100) >= 50) == 0
    assert calibration_error(np.repeat([0.0, 1.0], 50), np.arange(100) < 50) == 1
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == error_by_chance(np.zeros(0)) == 0
    few, many = (error_by_chance(rng.random(count)) for count in (40, 4000))
    assert 0.05 < few < 0.25 and many < few / 5 and error_by_chance(np.repeat([0.0, 1.0], 50)) == 0


def test_half_of_the_best_f1_is_the_best_threshold_of_calibrated_scores():
    rng = np.random.default_rng(0)
    scores = rng.random(20000) ** 2
    right = rng.random(len(scores)) < scores
    objects = int(right.sum()) + 3000
    best = best_f1(operating_points(scores, right, objects))
    found = at_half_of_best_f1(scores, right, objects)
    assert found.threshold == best.f1 / 2 and abs(found.threshold - best.threshold) < 0.05
    assert best.f1 - 0.005 < found.f1 <= best.f1


def test_a_threshold_for_few_finds():
    sure = at_half_of_best_f1(np.array([0.9, 0.95, 0.99, 0.02]), np.array([True, True, True, False]), 3)
    assert sure == OperatingPoint(0.5, 1.0, 1.0)
    poor = at_half_of_best_f1(np.array([0.3, 0.2, 0.1]), np.array([True, False, False]), 4)
    assert poor == OperatingPoint(0.2, 0.5, 0.25)
    assert at_half_of_best_f1(np.array([0.7, 0.2]), np.array([False, False]), 4) == OperatingPoint(0.5, 0.0, 0.0)
    assert at_half_of_best_f1(np.zeros(0), np.zeros(0, bool), 4) == OperatingPoint(0.5, 1.0, 0.0)


def features(images: int, seed: int = 0) -> ImageEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, 16, 4, 4, generator=generator) * 3 + 1
    fine, middle = (
        torch.randn(images, 2, 16, 16, generator=generator),
        torch.randn(images, 4, 8, 8, generator=generator),
    )
    return ImageEmbeddings(coarse, (fine, middle))


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("context", [True, False])
def test_the_network_answers_on_the_grid_of_the_masks(classes, context):
    head = FinderHead((16, 2, 4), classes, width=8, context=context)
    head.normalise_to(features(1, seed) for seed in range(20))
    head.start_boxes_at(6.0, 3.0)
    output = head(features(2))
    assert output.objectness.shape == (2, 16, 16) and output.classes.shape == (2, classes, 16, 16)
    sides = output.boxes()[..., 2:] - output.boxes()[..., :2]
    assert torch.allclose(sides, torch.tensor([6.0, 3.0]).expand_as(sides), atol=1e-4)
    assert (output.objectness.sigmoid() < 0.1).all()
    mean = torch.stack([features(1, seed).image_embeddings for seed in range(20)]).mean((0, 1, 3, 4))
    assert torch.allclose(head.get_buffer("coarse_mean"), mean, atol=1e-4)


def test_of_a_mirrored_image_the_same_is_said_mirrored():
    torch.manual_seed(0)
    said = FinderOutput(torch.randn(1, *GRID), torch.randn(1, 4, *GRID), torch.randn(1, 2, *GRID))
    other = said.mirrored()
    boxes = said.boxes().flip(2)
    boxes[..., [0, 2]] = GRID[1] - boxes[..., [2, 0]]
    assert torch.allclose(other.boxes(), boxes, atol=1e-4) and torch.equal(other.objectness, said.objectness.flip(-1))
    mean = said.mean(other.mirrored())
    for name in ("objectness", "distances", "classes"):
        assert torch.equal(getattr(mean, name), getattr(said, name))


def test_the_network_gives_every_parameter_a_gradient():
    head = FinderHead((16, 2, 4), 2, width=8)
    torch.nn.init.normal_(head.answer.weight)
    output = head(features(2))
    (output.objectness.square().mean() + output.boxes().mean() + F.relu(output.classes).mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
