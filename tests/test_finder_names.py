"""Names: outlines are the same in any place and turn, and other for other shapes; voices count as they were right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.finder.name_training import EXPECTED, Heard, weigh
from samtune.finder.naming import Voices, likelihoods
from samtune.finder.outlines import COLUMNS, HARMONICS, outlines

SIDE = 64
PLACE = torch.arange(SIDE) + 0.5


def regular(corners: int, radius: float, turn: float, x: float, y: float) -> torch.Tensor:
    """Logits of a regular polygon, in cells from its edge; of a disc for 0 corners."""
    dx, dy = PLACE[None] - x, PLACE[:, None] - y
    if not corners:
        return radius - (dx**2 + dy**2).sqrt()
    angles = [turn + 2 * math.pi * side / corners for side in range(corners)]
    return torch.stack([radius - dx * math.cos(angle) - dy * math.sin(angle) for angle in angles]).amin(0)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0, 3, 4, 6]), st.floats(0, 6.3), st.floats(26, 38), st.floats(26, 38))
def test_an_outline_is_the_same_in_any_place_and_turn(corners, turn, x, y):
    here, there = outlines(torch.stack([regular(corners, 10, 0.1, 32, 32), regular(corners, 10, turn, x, y)]))
    strong = here[:HARMONICS] > -3
    assert torch.allclose(here[:HARMONICS][strong], there[:HARMONICS][strong], atol=0.3)
    assert torch.allclose(here[HARMONICS:], there[HARMONICS:], atol=0.12)


@pytest.mark.parametrize("radius", [4.0, 8.0, 20.0])
def test_outlines_tell_shapes_apart_by_what_they_are(radius):
    shapes = [regular(corners, radius, 0.2, 31, 33) for corners in (0, 3, 4, 6)]
    disc, three, four, six = outlines(torch.stack(shapes))
    assert disc[:HARMONICS].max() < -4.5
    for found, corners in ((three, 3), (four, 4), (six, 6)):
        assert found[:HARMONICS].argmax() == corners - 1
    area, circle, hull, rectangle, narrow, round_, seen = disc[HARMONICS:].tolist()
    assert area == pytest.approx(math.log(math.pi * radius**2), abs=0.05)
    assert (
        circle == pytest.approx(1, abs=0.05)
        and hull == pytest.approx(1, abs=0.05)
        and seen == pytest.approx(0, abs=0.05)
    )
    assert rectangle == pytest.approx(math.pi / 4, abs=0.03) and narrow == pytest.approx(1, abs=0.03)
    assert round_ == pytest.approx(1, abs=0.03) and four[HARMONICS + 3] == pytest.approx(1, abs=0.04)


def test_empty_masks_and_masks_at_the_edge_have_an_outline():
    masks = torch.stack([torch.full((SIDE, SIDE), -1.0), torch.full((SIDE, SIDE), 1.0), regular(0, 5, 0, 0, 0)])
    found = outlines(masks)
    assert found.shape == (3, COLUMNS) and found.isfinite().all() and (found[0] == 0).all() and found[2].any()
    assert outlines(masks[:0]).shape == (0, COLUMNS)


def heard(seed: int, surest: int, images: int = 12, mixed: bool = True) -> list[Heard]:
    """Objects of three classes: one voice is right most of the time, the other says anything."""
    rng = np.random.default_rng(seed)
    found = list[Heard]()
    for _ in range(images):
        classes = rng.integers(3, size=20) if mixed else np.full(20, rng.integers(3))
        right = np.where(rng.random(20) < 0.7, classes, rng.integers(3, size=20))
        sure, noise = 3.0 * np.eye(3)[right], 3.0 * np.eye(3)[rng.integers(3, size=20)]
        first, second = (torch.tensor(one).float() for one in ((sure, noise) if surest == 0 else (noise, sure)))
        found.append(Heard(first, second, torch.tensor(classes)))
    return found


@pytest.mark.parametrize("surest", [0, 1])
def test_the_voice_that_is_right_counts_most(surest):
    voices = weigh(heard(0, surest), [1 / 3] * 3)
    counts = (voices.maps, voices.outline)
    assert counts[surest] >= 0.5 and counts[1 - surest] <= 0.25 and voices.company is None


def test_objects_of_one_kind_speak_for_each_other_and_mixtures_do_not():
    voices = weigh(heard(1, 1, mixed=False), [1 / 3] * 3)
    assert voices.company is not None
    one = heard(2, 1, images=1, mixed=False)[0]
    alone, together = (
        likelihoods(one.by_maps, one.by_outline, torch.ones(20), Voices(0.0, 1.0, company, (1 / 3,) * 3))
        for company in (None, voices.company)
    )
    assert (together.argmax(1) == one.classes).all() and not (alone.argmax(1) == one.classes).all()
    assert torch.allclose(together.sum(1), torch.ones(20, dtype=together.dtype))
    nobody = likelihoods(one.by_maps, one.by_outline, torch.zeros(20), Voices(0.0, 1.0, 3.0, (1 / 3,) * 3))
    assert (nobody.argmax(1) == alone.argmax(1)).all()  # finds that are none say nothing


def test_without_held_out_images_the_weights_are_the_expected_ones():
    assert weigh([], [0.5, 0.5]) == Voices(EXPECTED.maps, EXPECTED.outline, None, (0.5, 0.5))
