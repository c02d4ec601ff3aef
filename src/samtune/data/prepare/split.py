"""Which image goes into train, valid and test: whole groups at a time, every category in its share, always the same.

A group is what must not be torn apart: the augmented copies of one image, the frames of one folder. Groups that share
bytes or look alike are joined first (`join_groups`), so that no split can leak into another however the shares fall.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from samtune.errors import ConfigError
from samtune.types import Split

_ROBOFLOW_COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z]+$")
_IMAGES, _WITH_OBJECTS, _WITHOUT_OBJECTS = "\0images", "\0images with objects", "\0images without objects"
"""Counted beside the categories, whose names never begin like this. Of images with and without objects only the rarer
are counted: where they have their share, the others have it too."""


@dataclass(frozen=True, slots=True)
class SplitItem:
    """One image to be put into a split.

    Attributes:
        key: unique name of the image.
        group: images with the same group stay together.
        categories: number of objects by category name.
    """

    key: str
    group: str
    categories: Mapping[str, int]


def source_stem(name: str) -> str | None:
    """The source image's name, for a file name as Roboflow gives its (augmented) copies; None for any other name.

    `IMG_7_jpg.rf.0a1b2c.jpg` is a copy of `IMG_7_jpg`.
    """
    match = _ROBOFLOW_COPY.match(PurePosixPath(name.replace("\\", "/")).stem)
    return match.group(1) if match else None


def group_of(name: str, group_by: str = "source") -> str:
    """The group of an image.

    Args:
        name: file name relative to the dataset's root, with forward slashes.
        group_by: `source` (the stem before `.rf.`; any other name is its own group), `folder` (the folder the file
            stands in), or a regular expression searched in `name` whose group 1 is the group.

    Raises:
        ConfigError: an expression that does not compile, has no group 1, or does not match `name`.
    """
    if group_by == "source":
        return source_stem(name) or name
    if group_by == "folder":
        return PurePosixPath(name).parent.as_posix()
    match = _group_pattern(group_by).search(name)
    if match is None or match.group(1) is None:
        raise ConfigError.of(
            expected=f"an expression that matches every image's file name, found {group_by!r} to match some",
            found=f"no match in {name!r}",
            where="--group-by",
            do="widen the expression; a part that may be missing can stand in group 1 as (|...)",
        )
    return match.group(1)


def join_groups(groups: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the groups of images that must not be torn apart.

    Args:
        groups: group by image key.
        pairs: keys of images that share bytes or look alike.

    Returns:
        The group by image key; joined groups have the name of the first among them in alphabetical order.
    """
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            parent[group] = parent.get(above, above)  # halve the path on the way up
            group = above
        return group

    for one, other in pairs:
        low, high = sorted((root(groups[one]), root(groups[other])))
        parent[high] = low
    return {key: root(group) for key, group in groups.items()}


def assign_splits(items: Sequence[SplitItem], shares: tuple[float, float, float], seed: int) -> dict[str, Split]:
    """Put every image into a split, group by group.

    The groups that hold the largest part of any one category come first, each into the split that lacks most of what
    the group brings. This is the iterative stratification of Sechidis et al., "On the Stratification of Multi-Label
    Data" (2011), with groups in place of single samples. The result depends on the items, the shares and the seed only,
    not on the order of the items.

    Args:
        items: the images; keys must be unique.
        shares: of train, valid and test; 0 or more, summing to 1.
        seed: changes which of equally good groups goes where.

    Returns:
        The split by key. Where there are at least as many groups as shares above 0, none of those splits is empty.
        Where any image has objects and train's share is above 0, train has one of those.

    Raises:
        ConfigError: shares that are negative or do not sum to 1.
    """
    _check_shares(shares)
    assert len({item.key for item in items}) == len(items), "keys must be unique"
    content = _count_by_group(items)
    totals: dict[str, int] = defaultdict(int)
    for counts in content.values():
        for category, number in counts.items():
            totals[category] += number
    split_of = _assign_groups(content, totals, dict(zip(Split, shares, strict=True)), seed)
    return {item.key: split_of[item.group] for item in items}


def _group_pattern(group_by: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        found = f"{group_by!r}: {error}"
    else:
        if pattern.groups >= 1:
            return pattern
        found = f"{group_by!r}, which has no group"
    raise ConfigError.of(
        expected="source, folder, or a regular expression with a group in parentheses",
        found=found,
        where="--group-by",
        do=r"for example --group-by '(patient\d+)_'",
    )


def _check_shares(shares: tuple[float, float, float]) -> None:
    if min(shares) < 0 or not abs(sum(shares) - 1) < 1e-6:
        raise ConfigError.of(
            expected="three shares of 0 or more that sum to 1",
            found=",".join(f"{share:g}" for share in shares),
            where="--split",
            do="for example --split 0.8,0.1,0.1",
        )


def _count_by_group(items: Sequence[SplitItem]) -> dict[str, dict[str, int]]:
    """Objects by category, and images, by group."""
    content: dict[str, dict[str, int]] = {}
    for item in items:
        counts = content.setdefault(item.group, defaultdict(int))
        counts[_IMAGES] += 1
        counts[_WITH_OBJECTS if any(number > 0 for number in item.categories.values()) else _WITHOUT_OBJECTS] += 1
        for category, number in item.categories.items():
            if number > 0:
                counts[category] += number
    totals = {
        name: sum(counts.get(name, 0) for counts in content.values()) for name in (_WITH_OBJECTS, _WITHOUT_OBJECTS)
    }
    commoner = max(totals, key=lambda name: totals[name])
    return {
        group: {name: count for name, count in counts.items() if name != commoner} for group, counts in content.items()
    }


def _assign_groups(
    content: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], shares: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    open_splits = [split for split in Split if shares[split] > 0]
    lacking = {split: {category: shares[split] * total for category, total in totals.items()} for split in open_splits}

    def hardest_first(group: str) -> tuple[float, str]:
        return -max(number / totals[category] for category, number in content[group].items()), _shuffled(seed, group)

    def need(split: Split, group: str) -> float:
        """How much the sum of squared relative shortfalls shrinks if the group goes here."""
        return sum(
            number * lacking[split][category] / totals[category] ** 2 for category, number in content[group].items()
        )

    split_of: dict[str, Split] = {}
    for group in sorted(content, key=hardest_first):
        chosen = max(open_splits, key=lambda split: need(split, group))
        split_of[group] = chosen
        for category, number in content[group].items():
            lacking[chosen][category] -= number
    _give_train_objects(split_of, content, open_splits, seed)
    _fill_empty(split_of, content, open_splits, seed)
    return split_of


def _has_objects(counts: Mapping[str, int]) -> bool:
    return any(not name.startswith("\0") for name in counts)


def _give_train_objects(
    split_of: dict[str, Split], content: Mapping[str, Mapping[str, int]], open_splits: Sequence[Split], seed: int
) -> None:
    """Put the smallest group with objects into train, where train would have none to learn from."""
    positive = [group for group, counts in content.items() if _has_objects(counts)]
    if Split.TRAIN not in open_splits or not positive or any(split_of[group] is Split.TRAIN for group in positive):
        return
    split_of[min(positive, key=lambda group: (content[group][_IMAGES], _shuffled(seed, group)))] = Split.TRAIN


def _fill_empty(
    split_of: dict[str, Split], content: Mapping[str, Mapping[str, int]], open_splits: Sequence[Split], seed: int
) -> None:
    """Give each empty split the smallest group of the split that has most groups, while that one has two.

    The only group with objects stays in train.
    """
    for empty in open_splits:
        members: dict[Split, list[str]] = {split: [] for split in open_splits}
        for group, split in split_of.items():
            members[split].append(group)
        largest = max(open_splits, key=lambda split: len(members[split]))
        if members[empty] or len(members[largest]) < 2:
            continue
        positive = [group for group in members[largest] if _has_objects(content[group])]
        needed = positive if largest is Split.TRAIN and len(positive) == 1 else []
        candidates = [group for group in members[largest] if group not in needed]
        smallest = min(candidates, key=lambda group: (content[group][_IMAGES], _shuffled(seed, group)))
        split_of[smallest] = empty


def _shuffled(seed: int, group: str) -> str:
    """A key that sorts groups in an order of the seed's own, alike in every process."""
    return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogatepass")).hexdigest()
