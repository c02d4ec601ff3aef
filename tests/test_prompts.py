"""Simulated prompts: they must ask about the object they are made from, whatever its shape."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from samtune.config import PromptPolicy
from samtune.prompts.batch import BOX_LOWER_RIGHT, BOX_UPPER_LEFT, PADDING, PromptBatch
from samtune.prompts.simulate import (
    Draws,
    _deepest_by_minima,
    background_prompts,
    correction_clicks,
    jitter_boxes,
    pick_points,
    simulate_prompts,
)
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
    points = pick_points(found, PromptPolicy(point_at=where), seeded(seed))
    assert values(found, points).all()


def test_random_points_are_uniform():
    region = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    region[0, 3, 5:9] = True
    drawn = pick_points(region.expand(4000, -1, -1), PromptPolicy(), seeded(0))
    counts = torch.bincount(drawn[:, 0].long())[5:9]
    assert (counts > 850).all()


def test_the_deepest_point_is_the_centre_of_a_disc():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((x - 10) ** 2 + (y - 12) ** 2 < 49)[None]
    assert pick_points(disc, PromptPolicy(point_at="center"), seeded(0)).tolist() == [[10.0, 12.0]]


@given(masks())
def test_a_gpu_finds_a_point_as_deep_as_exact_distances_say(found):
    """Held to brute force over all pairs of pixels."""
    edge = np.pad(np.zeros((SIZE, SIZE), bool), 1, constant_values=True)
    rows, columns = np.mgrid[: SIZE + 2, : SIZE + 2].reshape(2, -1)
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    for region, (x, y) in zip(found.numpy(), _deepest_by_minima(found).long().tolist(), strict=True):
        outside = edge | ~np.pad(region, 1)
        depth = squared[:, outside.ravel()].min(1).reshape(SIZE + 2, SIZE + 2)[1:-1, 1:-1]
        assert depth[y, x] == depth.max()


def test_numbers_drawn_beforehand_serve_as_a_generator_does():
    found = torch.rand(5, SIZE, SIZE, generator=seeded(3)) < 0.3
    policy = PromptPolicy(box=0.5, point=0.5, correction_clicks=1)
    numbers = torch.rand(5, Draws.needed(policy), generator=seeded(4))
    boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0]]).expand(5, 4)

    def made(rows):
        draws = Draws(numbers[rows])
        first = simulate_prompts(found[rows], boxes[rows], policy, draws)
        return first.points, first.labels, *correction_clicks(found[rows], ~found[rows], policy, draws)

    together = made(slice(0, 5))
    apart = [torch.cat(parts) for parts in zip(made(slice(0, 2)), made(slice(2, 5)), strict=True)]
    for whole, parts in zip(together, apart, strict=True):
        assert torch.equal(whole, parts)


@given(masks(), masks(), st.integers(0, 100))
def test_correction_clicks_point_at_an_error_and_say_which(predicted, found, seed):
    count = min(len(predicted), len(found))
    predicted, found = predicted[:count], found[:count]
    policy = PromptPolicy(correction_from_object=0.0)
    points, labels = correction_clicks(predicted, found, policy, seeded(seed))
    wrong = (predicted ^ found).flatten(1).any(1)
    assert (values(predicted ^ found, points) | ~wrong).all()
    assert torch.equal(labels.bool(), values(found, points))


def test_a_perfect_prediction_gets_a_negative_click_on_the_background():
    found = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    found[0, 2:8, 2:8] = True
    points, labels = correction_clicks(found, found, PromptPolicy(correction_from_object=0.0), seeded(0))
    assert labels.tolist() == [0]
    assert not values(found, points).any()


@given(st.floats(0, 1), st.integers(0, 100))
def test_jitter_moves_each_edge_by_at_most_its_share(share, seed):
    boxes = torch.tensor([[5.0, 5.0, 15.0, 9.0], [0.0, 0.0, 24.0, 24.0]])
    moved = jitter_boxes(boxes, (SIZE, SIZE), PromptPolicy(box_jitter=share, box_jitter_max=1.0), seeded(seed))
    sides = torch.tensor([[10.0, 4.0, 10.0, 4.0], [24.0] * 4])
    assert ((moved - boxes).abs() <= share * sides + 1e-4).all()
    assert (moved >= 0).all()
    assert (moved <= SIZE).all()


def test_the_policy_decides_between_boxes_and_clicks():
    found = torch.ones(2000, 4, 4, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(2000, 4)
    mixed = simulate_prompts(found, boxes, PromptPolicy(box=3.0, point=1.0, box_jitter=0.0), seeded(0))
    is_box = mixed.labels[:, 0] == BOX_UPPER_LEFT
    assert 0.7 < is_box.float().mean() < 0.8
    assert (mixed.labels[is_box] == torch.tensor([BOX_UPPER_LEFT, BOX_LOWER_RIGHT])).all()
    assert (mixed.labels[~is_box] == torch.tensor([1, PADDING])).all()
    only = simulate_prompts(found, boxes, PromptPolicy(box=0.0, point=1.0), seeded(0))
    assert only.labels.shape == (2000, 1)


def test_background_prompts_avoid_objects():
    occupied = torch.ones(SIZE, SIZE, dtype=torch.bool)
    occupied[4, 7] = False
    prompts = background_prompts(occupied, 3, PromptPolicy(), seeded(0))
    assert prompts is not None
    assert prompts.points.tolist() == [[[7.0, 4.0]]] * 3
    assert background_prompts(torch.ones(2, 2, dtype=torch.bool), 3, PromptPolicy(), seeded(0)) is None


def test_users_prompts_are_collected_and_padded():
    batch = PromptBatch.from_prompts([Prompt.box(1, 2, 3, 4), Prompt.clicks([(5, 6)], [0])])
    assert batch.points.tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]
    assert batch.labels.tolist() == [[2, 3], [0, PADDING]]
    assert batch.scaled(2.0, 10.0).points[0].tolist() == [[2, 20], [6, 40]]
