"""Splits: groups stay whole, categories get their share, and nothing but items, shares and seed decides."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.data.prepare.split import SplitItem, assign_splits, group_of, join_groups, source_stem
from samtune.errors import ConfigError
from samtune.types import Split

SHARES = (0.8, 0.1, 0.1)

ITEMS = st.lists(
    st.tuples(st.integers(0, 15), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9))), min_size=1, max_size=40
).map(
    lambda rows: [SplitItem(f"image{number}", f"group{group}", counts) for number, (group, counts) in enumerate(rows)]
)
WEIGHTS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any)


@settings(max_examples=150, deadline=None)
@given(ITEMS, WEIGHTS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_properties(items: list[SplitItem], weights: tuple[int, int, int], seed: int, shuffle: random.Random) -> None:
    shares = tuple(weight / sum(weights) for weight in weights)
    assert len(shares) == 3
    splits = assign_splits(items, shares, seed)
    assert set(splits) == {item.key for item in items}
    by_group: dict[str, set[Split]] = {}
    for item in items:
        by_group.setdefault(item.group, set()).add(splits[item.key])
    assert all(len(found) == 1 for found in by_group.values()), "a group was torn apart"
    wanted = {split for split, share in zip(Split, shares, strict=True) if share > 0}
    assert set(splits.values()) <= wanted
    positive = {splits[item.key] for item in items if sum(item.categories.values())}
    if positive and Split.TRAIN in wanted:
        assert Split.TRAIN in positive, "train has nothing to learn from"
    if len(by_group) >= len(wanted):
        assert set(splits.values()) == wanted, "a split that was asked for is empty"
    other = items.copy()
    shuffle.shuffle(other)
    assert assign_splits(other, shares, seed) == splits, "the order of the items decided something"


def test_every_category_gets_its_share() -> None:
    rng = random.Random(1)
    items = [
        SplitItem(f"{group}-{copy}", f"g{group}", {"leaf": rng.randint(0, 6), "rare": int(group % 20 == 0)})
        for group in range(400)
        for copy in range(rng.randint(1, 4))
    ]
    splits = assign_splits(items, SHARES, seed=0)
    images = Counter(splits.values())
    leaves: Counter[Split] = Counter()
    rare: Counter[Split] = Counter()
    for item in items:
        leaves[splits[item.key]] += item.categories["leaf"]
        rare[splits[item.key]] += item.categories["rare"]
    for split, share in zip(Split, SHARES, strict=True):
        assert images[split] / images.total() == pytest.approx(share, abs=0.01)
        assert leaves[split] / leaves.total() == pytest.approx(share, abs=0.01)
        assert rare[split] / rare.total() == pytest.approx(share, abs=0.06)
        assert rare[split] > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("positive", [1, 2, 5])
def test_train_keeps_the_few_images_with_objects(seed: int, positive: int) -> None:
    """Of 1,000 images few show an object: train is nothing without them, and the other splits share the rest."""
    items = [SplitItem(str(number), str(number), {"crack": int(number < positive)}) for number in range(1000)]
    splits = assign_splits(items, SHARES, seed)
    found = Counter(splits[str(number)] for number in range(positive))
    assert found[Split.TRAIN] >= 1
    if positive == 5:
        assert found[Split.TRAIN] >= 3, "train's share of the images with objects is the largest"
    assert Counter(splits.values()) == {Split.TRAIN: 800, Split.VALID: 100, Split.TEST: 100}


def test_the_seed_matters() -> None:
    items = [SplitItem(str(number), str(number), {"a": 1}) for number in range(100)]
    assert assign_splits(items, SHARES, 0) != assign_splits(items, SHARES, 1)


def test_hash_seed_does_not_matter() -> None:
    """Two processes with different PYTHONHASHSEED give the same split."""
    program = (
        "from samtune.data.prepare.split import *\n"
        "items = [SplitItem(str(n), str(n % 37), {'a': n % 3, 'b': n % 5}) for n in range(200)]\n"
        "print(sorted(assign_splits(items, (0.6, 0.2, 0.2), 3).items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "test" in outputs.pop()


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_must_sum_to_one(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        assign_splits([SplitItem("a", "a", {})], shares, 0)


def test_source_stem() -> None:
    assert source_stem("train/IMG_7_jpg.rf.0a1b2c.jpg") == "IMG_7_jpg"
    assert source_stem("valid\\IMG_7_jpg.rf.ffff00.png") == "IMG_7_jpg"
    assert source_stem("train/IMG_7.jpg") is None
    assert source_stem("a.rf.b/plain.jpg") is None


def test_group_by() -> None:
    assert group_of("train/x_jpg.rf.01.jpg") == group_of("test/x_jpg.rf.02.jpg") == "x_jpg"
    assert group_of("a/1.jpg") != group_of("b/1.jpg")
    assert group_of("a/b/1.jpg", "folder") == "a/b"
    assert group_of("a/patient07_slice3.png", r"(patient\d+)_") == "patient07"


@pytest.mark.parametrize(("pattern", "word"), [("(", "'('"), ("patient", "no group"), (r"(x\d+)", "no match")])
def test_group_by_expressions_that_cannot_work(pattern: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        group_of("a/1.jpg", pattern)
    assert word in str(caught.value)


def test_joined_groups_are_transitive_and_named_alike() -> None:
    groups = {"1": "c", "2": "b", "3": "a", "4": "d", "5": "b"}
    assert join_groups(groups, [("1", "2"), ("5", "3")]) == {"1": "a", "2": "a", "3": "a", "4": "d", "5": "a"}
    assert join_groups(groups, [("3", "5"), ("2", "1")]) == join_groups(groups, [("1", "2"), ("5", "3")])


def test_many_groups() -> None:
    items = [SplitItem(str(n), str(n // 3), {f"c{n % 50}": 3, f"c{n % 7}": 1}) for n in range(60_000)]
    splits = assign_splits(items, SHARES, 0)
    assert Counter(splits.values())[Split.VALID] == pytest.approx(6_000, rel=0.02)
