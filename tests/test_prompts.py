"""Simulated prompts: they must ask about the object they are made from, whatever its shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samtune.config.prompts import DEFAULT_PRESET, PRESETS, PromptPolicy
from samtune.data.low_res import low_res_targets
from samtune.errors import UsageError
from samtune.prompts.batch import BOX_LOWER_RIGHT, BOX_UPPER_LEFT, PADDING, PromptBatch, low_res_to_input
from samtune.prompts.simulate import (
    CorrectionDraws,
    PromptDraws,
    background_prompts,
    correction_clicks,
    deepest_correction,
    deepest_points,
    deepest_points_by_minima,
    empty_boxes,
    jitter_boxes,
    pick_points,
    random_points,
    rough_masks,
    simulate_prompts,
)
from samtune.training.losses.tuning import binary
from samtune.types import Prompt

SIZE = 24


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def masks(draw):
    """One to four masks of any shape, none empty."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    found = rng.random((draw(st.integers(1, 4)), SIZE, SIZE)) < draw(st.sampled_from([0.002, 0.1, 0.5, 1.0]))
    found[:, rng.integers(SIZE), rng.integers(SIZE)] = True
    return torch.from_numpy(found)


def values(masks: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    column, row = points.long().unbind(1)
    return masks[torch.arange(len(masks)), row, column]


@given(masks(), st.integers(0, 100), st.sampled_from(["random", "center"]))
def test_picked_points_lie_inside(found, seed, where):
    points = pick_points(found, PromptPolicy(point_at=where), torch.rand(len(found), generator=seeded(seed)))
    assert values(found, points).all()


def test_random_points_are_uniform():
    region = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    region[0, 3, 5:9] = True
    drawn = random_points(region.expand(4000, -1, -1), torch.rand(4000, generator=seeded(0)))
    counts = torch.bincount(drawn[:, 0].long())[5:9]
    assert (counts > 850).all()
    places = torch.rand(1, 7, generator=seeded(1))
    alone = [random_points(region, place) for place in places.unbind(1)]
    assert random_points(region, places).tolist() == torch.stack(alone, dim=1).tolist()
    assert (
        random_points(region[:0], places[:0]).shape == (0, 7, 2) and len(random_points(region[:0], places[0, :0])) == 0
    )


def test_the_deepest_point_is_the_centre_of_a_disc():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((x - 10) ** 2 + (y - 12) ** 2 < 49)[None]
    assert deepest_points(disc).tolist() == [[10.0, 12.0]]


@given(masks())
def test_a_gpu_finds_a_point_as_deep_as_exact_distances_say(found):
    """Held to brute force over all pairs of pixels."""
    edge = np.pad(np.zeros((SIZE, SIZE), bool), 1, constant_values=True)
    rows, columns = np.mgrid[: SIZE + 2, : SIZE + 2].reshape(2, -1)
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    for region, (x, y) in zip(found.numpy(), deepest_points_by_minima(found).long().tolist(), strict=True):
        outside = edge | ~np.pad(region, 1)
        depth = squared[:, outside.ravel()].min(1).reshape(SIZE + 2, SIZE + 2)[1:-1, 1:-1]
        assert depth[y, x] == depth.max()


def test_prompts_do_not_depend_on_those_beside_them():
    found = torch.rand(5, SIZE, SIZE, generator=seeded(3)) < 0.3
    policy = PromptPolicy(box=0.5, point=0.5, correction_clicks=1)
    numbers = torch.rand(5, sum(PromptDraws.count(policy)), generator=seeded(4))
    boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0]]).expand(5, 4)

    def made(rows):
        draws = PromptDraws.of(numbers[rows])
        first = simulate_prompts(found[rows], boxes[rows], policy, draws)
        return first.points, first.labels, *correction_clicks(found[rows], ~found[rows], policy, draws.corrections[0])

    together = made(slice(0, 5))
    apart = [torch.cat(parts) for parts in zip(made(slice(0, 2)), made(slice(2, 5)), strict=True)]
    for whole, parts in zip(together, apart, strict=True):
        assert torch.equal(whole, parts)


def test_every_number_has_a_slot_of_its_own():
    """What one setting draws does not move when another setting is turned off."""
    policy = PromptPolicy(correction_clicks=2)
    numbers = torch.arange(2.0 * sum(PromptDraws.count(policy))).reshape(2, -1)
    draws = PromptDraws.of(numbers)
    slots = [draws.kind[:, None], draws.edges, draws.place[:, None]]
    slots += [torch.stack([one.from_object, one.place], dim=1) for one in draws.corrections]
    slots += [torch.stack([draws.tight, draws.spot, draws.clicks], dim=1)]
    slots += [draws.label, draws.further, draws.near, draws.outline]
    assert torch.equal(torch.cat(slots, dim=1), numbers)
    found = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0]]).expand(2, 4)
    numbers = torch.rand(2, sum(PromptDraws.count(policy)), generator=seeded(0))
    clicks = [
        simulate_prompts(found, boxes, PromptPolicy(box=box, point=1, box_jitter=jitter), PromptDraws.of(numbers))
        for box, jitter in ((0.0, 0.1), (0.0, 0.0), (1e-9, 0.1))
    ]
    assert all(torch.equal(one.points[:, 0], clicks[0].points[:, 0]) for one in clicks)


def discs(count: int, size: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs in random places of a square image: masks bool `[N, size, size]` and centres `[N, 2]`, pixel indices."""
    centers = radius + 1 + torch.rand(count, 2, generator=seeded(5)) * (size - 2 * radius - 3)
    line = torch.arange(size)
    squared = (line[None, None, :] - centers[:, 0, None, None]) ** 2 + (
        line[None, :, None] - centers[:, 1, None, None]
    ) ** 2
    return squared <= radius**2, centers


def test_clicks_made_on_the_low_res_grid_hit_small_objects():
    """Discs of radius 4 px: with low-res indices times 4, 31 % of the clicks missed them.

    About a tenth is left where clicks are rounded up to whole pixels, since 4 i + 1.5 lies between two.
    """
    masks, centers = discs(2000, 48, radius=4.0)
    low_res = torch.from_numpy(low_res_targets(list(masks.numpy()), 12)).float() / 255
    targets = binary(low_res)
    place = torch.rand(len(masks), generator=seeded(6))
    first = PromptBatch.from_clicks(random_points(targets, place)[:, None]).low_res_to_input().points[:, 0]
    policy = PromptPolicy(correction_from_object=0.0)
    points, labels = correction_clicks(torch.zeros_like(targets), targets, policy, CorrectionDraws(place, place))
    assert labels.all()
    for clicks in (first, low_res_to_input(points)):
        assert missed(clicks, centers) < 0.02
        assert missed((clicks + 0.5).floor(), centers) < 0.11
    assert missed(4 * points, centers) > 0.28


def missed(clicks: torch.Tensor, centers: torch.Tensor) -> float:
    """Share of the clicks that lie outside their discs."""
    return ((clicks - centers).square().sum(1) > 4.0**2).float().mean().item()


def test_box_corners_are_edges_and_scale_without_an_offset():
    boxes = PromptBatch.from_boxes(torch.tensor([[0.0, 1.0, 96.0, 48.0]]))
    clicks = PromptBatch.from_clicks(torch.tensor([[[0.0, 95.0]]]))
    converted = PromptBatch.cat([boxes, clicks]).low_res_to_input()
    assert converted.points[0].tolist() == [[0.0, 4.0], [384.0, 192.0]]
    assert converted.points[1, 0].tolist() == [1.5, 381.5]


@given(masks(), masks(), st.integers(0, 100))
def test_correction_clicks_point_at_an_error_and_say_which(predicted, found, seed):
    count = min(len(predicted), len(found))
    predicted, found = predicted[:count], found[:count]
    policy = PromptPolicy(correction_from_object=0.0)
    points, labels = correction_clicks(predicted, found, policy, CorrectionDraws.draw(count, seeded(seed)))
    wrong = (predicted ^ found).flatten(1).any(1)
    assert (values(predicted ^ found, points) | ~wrong).all()
    assert torch.equal(labels.bool(), values(found, points))


@given(masks(), masks())
def test_the_deepest_correction_is_the_correction_click_without_chance(predicted, found):
    count = min(len(predicted), len(found))
    nothing, everything = torch.zeros(1, SIZE, SIZE).bool(), torch.ones(1, SIZE, SIZE).bool()
    predicted = torch.cat([predicted[:count], found[:count], everything, nothing])
    found = torch.cat([found[:count], found[:count], everything, everything])
    policy = PromptPolicy(point_at="center", correction_from_object=0.0)
    draws = CorrectionDraws(torch.zeros(len(found)), torch.zeros(len(found)))
    points, labels = correction_clicks(predicted, found, policy, draws)
    for one, mask, (x, y), label in zip(predicted, found, points.tolist(), labels.tolist(), strict=True):
        assert deepest_correction(one.numpy(), mask.numpy()) == (x, y, label)


def test_a_perfect_prediction_gets_a_negative_click_on_the_background():
    found = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    found[0, 2:8, 2:8] = True
    draws = CorrectionDraws.draw(1, seeded(0))
    points, labels = correction_clicks(found, found, PromptPolicy(correction_from_object=0.0), draws)
    assert labels.tolist() == [0]
    assert not values(found, points).any()


@given(st.floats(0, 1), st.integers(0, 100))
def test_jitter_moves_each_edge_by_at_most_its_share(share, seed):
    boxes = torch.tensor([[5.0, 5.0, 15.0, 9.0], [0.0, 0.0, 24.0, 24.0]])
    edges = torch.rand(2, 4, generator=seeded(seed))
    moved = jitter_boxes(boxes, (SIZE, SIZE), PromptPolicy(box_jitter=share, box_jitter_max=1.0), edges)
    sides = torch.tensor([[10.0, 4.0, 10.0, 4.0], [24.0] * 4])
    assert ((moved - boxes).abs() <= share * sides + 1e-4).all()
    assert (moved >= 0).all()
    assert (moved <= SIZE).all()


def test_the_policy_decides_between_boxes_and_clicks():
    found = torch.ones(2000, 4, 4, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(2000, 4)
    draws = PromptDraws.draw(2000, seeded(0))
    mixed = simulate_prompts(found, boxes, PromptPolicy(box=3.0, point=1.0, box_jitter=0.0), draws)
    is_box = mixed.labels[:, 0] == BOX_UPPER_LEFT
    assert 0.7 < is_box.float().mean() < 0.8
    assert (mixed.labels[is_box] == torch.tensor([BOX_UPPER_LEFT, BOX_LOWER_RIGHT])).all()
    assert (mixed.labels[~is_box] == torch.tensor([1, PADDING])).all()
    only = simulate_prompts(found, boxes, PromptPolicy(box=0.0, point=1.0), draws)
    assert only.labels.shape == (2000, 1)


def test_background_prompts_avoid_objects():
    occupied = torch.ones(SIZE, SIZE, dtype=torch.bool)
    occupied[4, 7] = False
    prompts = background_prompts(occupied, 3, seeded(0))
    assert prompts is not None
    assert prompts.points.tolist() == [[[7.0, 4.0]]] * 3
    assert background_prompts(torch.ones(2, 2, dtype=torch.bool), 3, seeded(0)) is None


def test_users_prompts_are_collected_and_padded():
    batch = PromptBatch.from_prompts([Prompt.box(1, 2, 3, 4), Prompt.clicks([(5, 6)], [0])])
    assert batch.points.tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]
    assert batch.labels.tolist() == [[2, 3], [0, PADDING]]
    assert batch.scaled(2.0, 10.0).points[0].tolist() == [[2, 20], [6, 40]]


def test_clicks_without_labels_are_positive():
    prompt = Prompt(input_points=np.array([[3, 4], [5, 6]], np.float32))
    batch = PromptBatch.from_prompts([prompt])
    assert batch.points.tolist() == [[[3, 4], [5, 6]]]
    assert batch.labels.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({}, "none"),
        ({"input_labels": np.array([1])}, r"\[1\]"),
        ({"input_points": np.zeros((2, 2)), "input_labels": np.array([1])}, r"\[1\]"),
        ({"input_points": np.zeros((2, 3))}, r"\[2, 3\]"),
        ({"input_points": np.zeros((1, 2)), "input_labels": np.array([2])}, r"\[2\]"),
        ({"input_box": np.zeros((1, 4))}, r"\[1, 4\]"),
        ({"input_mask": np.zeros((8, 8))}, r"\[8, 8\]"),
    ],
)
def test_prompts_of_another_shape_are_refused(parts, found):
    with pytest.raises(UsageError, match=found):
        Prompt(**parts)


def mixture(count: int, policy: PromptPolicy, seed: int = 0) -> PromptDraws:
    return PromptDraws.draw(count, seeded(seed), corrections=policy.correction_clicks, mixture=True)


@given(masks(), st.integers(0, 1000))
def test_several_clicks_say_what_they_hit(found, seed):
    """Positive clicks lie on the object, negative ones outside, where there is an outside; the first is positive."""
    policy = PromptPolicy(points=1.0)
    prompts = simulate_prompts(found, torch.zeros(len(found), 4), policy, mixture(len(found), policy, seed))
    assert prompts.points.shape == (len(found), 4, 2)
    assert (prompts.labels[:, 0] == 1).all()
    assert (prompts.labels[:, 1] != PADDING).all()
    for place in range(4):
        labels = prompts.labels[:, place]
        is_there = labels != PADDING
        assert torch.equal(values(found, prompts.points[:, place])[is_there], labels[is_there] == 1)


def test_negative_clicks_miss_narrowly_or_hit_the_neighbour():
    found = torch.zeros(400, 48, 48, dtype=torch.bool)
    found[:, 10:20, 10:20] = True
    neighbours = torch.tensor([[40.0, 41.0]]).expand(400, 2)
    policy = PromptPolicy(points=1.0)
    prompts = simulate_prompts(found, torch.zeros(400, 4), policy, mixture(400, policy), neighbours)
    negative = prompts.points[prompts.labels == 0]
    on_neighbour = (negative == neighbours[0]).all(1)
    assert 0.4 < on_neighbour.float().mean() < 0.6
    near = negative[~on_neighbour]
    outside = torch.maximum((10 - near).clamp(min=0), (near - 19).clamp(min=0)).amax(1)
    assert (outside >= 2).all()
    assert (outside <= 3).all()


def test_mixed_clicks_are_deep_near_the_border_or_anywhere():
    found = torch.zeros(2000, 48, 48, dtype=torch.bool)
    found[:, 8:39, 8:39] = True
    points = pick_points(
        found,
        PromptPolicy(preset="mixture"),
        torch.rand(2000, generator=seeded(0)),
        torch.rand(2000, generator=seeded(1)),
    )
    assert values(found, points).all()
    depth = torch.minimum(points - 8, 38 - points).amin(1)
    assert 0.28 < (depth == 15).float().mean() < 0.34
    assert 0.28 < (depth == 0).float().mean() < 0.42


def test_a_share_of_the_boxes_is_exact():
    found = torch.ones(2000, SIZE, SIZE, dtype=torch.bool)
    boxes = torch.tensor([[5.0, 5.0, 15.0, 15.0]]).expand(2000, 4)
    policy = PromptPolicy(preset="boxes", box_tight=0.3, box_jitter_max=1.0)
    made = simulate_prompts(found, boxes, policy, mixture(2000, policy)).points.flatten(1)
    assert 0.25 < (made == boxes).all(1).float().mean() < 0.35


@given(masks(), st.integers(0, 1000))
def test_rough_masks_are_near_the_object_and_never_empty(found, seed):
    logits = rough_masks(found, mixture(len(found), PromptPolicy(preset="mixture"), seed))
    assert logits.shape == (len(found), 1, SIZE, SIZE)
    assert set(logits.unique().tolist()) <= {-10.0, 10.0}
    assert (logits > 0).flatten(1).any(1).all()


def test_rough_masks_of_a_disc_are_wider_and_narrower():
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = ((x - 40) ** 2 + (y - 50) ** 2 < 400).expand(300, 96, 96)
    areas = (rough_masks(disc, mixture(300, PromptPolicy(preset="mixture"))) > 0).flatten(1).sum(1) / disc[0].sum()
    assert areas.min() < 0.9
    assert areas.max() > 1.1
    assert areas.min() > 0.3
    assert areas.max() < 2.0


@given(st.integers(0, 1000), st.floats(0, 0.4))
def test_empty_boxes_are_empty(seed, share):
    occupied = torch.rand(SIZE, SIZE, generator=seeded(seed)) < share * share
    sides = torch.tensor([[3.0, 5.0], [40.0, 2.0], [24.0, 24.0]])
    found = empty_boxes(occupied, sides, seeded(seed + 1))
    for box in found.long().tolist():
        x0, y0, x1, y1 = box
        assert not occupied[y0:y1, x0:x1].any()
        assert 0 <= x0 <= x1 <= SIZE
        assert 0 <= y0 <= y1 <= SIZE
    if not occupied.any():
        assert (found[:, 2] > found[:, 0]).all()


def test_presets_fill_in_what_is_not_given():
    boxes = PromptPolicy(preset="boxes")
    assert (boxes.box, boxes.kinds, boxes.correction_clicks, boxes.negative) == (1.0, ("box",), 0, 0.0)
    assert PromptPolicy.model_validate("clicks").kinds == ("point",)
    assert PromptPolicy(preset="clicks", negative=0.4).negative == 0.4
    assert PromptPolicy(preset=DEFAULT_PRESET) == PromptPolicy()
    assert PromptPolicy(box=1.0) == boxes
    for name in PRESETS:
        policy = PromptPolicy(preset=name)
        assert PromptPolicy(**policy.model_dump()) == policy


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "boxs"}, "did you mean 'boxes'"),
        ({"preset": "boxes", "point": 0.5}, "preset 'boxes' and weights of your own"),
        ({"box": 0.0}, "give one of them a weight"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        PromptPolicy(**given)
