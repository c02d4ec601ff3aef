"""Where images go when a set is split anew: whole files, or, of a few very large images, blocks of tiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from samtune.data.prepare.split import SplitItem, assign_splits, join_groups
from samtune.data.prepare.spool import ImageSummary, TableRow, place_of
from samtune.types import Issue, Severity, Split

DEFAULT_SHARES = (0.8, 0.1, 0.1)
_BLOCKS = 36
"""Blocks that the tiles of a set of one or two images are grouped into, about."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where images are now.

    Attributes:
        splits, groups: by key, which is an image's path, or that and its block.
        rename: whether ids were unique within the source's splits only, so that they need the split's name in front.
        blocks: how many blocks of tiles were put into splits; 0 where whole files were.
        side: of a block, in pixels.
    """

    splits: dict[str, Split]
    groups: dict[str, str]
    rename: bool
    blocks: int = 0
    side: int = 0

    def id_of(self, image_id: str, split: str) -> str:
        """The id of what had this id in this split of the source."""
        return f"{split}-{image_id}" if self.rename else image_id

    def moved(self, rows: Iterable[TableRow]) -> Iterator[TableRow]:
        """The rows in the splits and groups that their images are in now."""
        for row in rows:
            key = _key(row.image_path, place_of(row), self.side)
            image_id = self.id_of(row.image_id, row.split)
            yield row._replace(split=self.splits[key].value, image_id=image_id, group=self.groups[key])


def new_shares(
    images: Iterable[ImageSummary], asked: tuple[float, float, float] | None
) -> tuple[float, float, float] | None:
    """The shares of new splits where these are asked for or the source has only one; None where its splits are kept."""
    if asked is None and {image.split for image in images} == {Split.TRAIN.value}:
        return DEFAULT_SHARES
    return asked


def place_images(
    images: Sequence[ImageSummary], shares: tuple[float, float, float], same: Iterable[tuple[str, str]], seed: int
) -> Placement:
    """Put the images into new splits, and write these into `images`.

    Files with the same bytes, or that look the same, stay together, so that no split leaks into another, and so do the
    tiles and pages of an image. Only where there are fewer groups of files than splits, blocks of neighbouring tiles or
    pages are put into splits: a set of one large image could not be measured otherwise.
    """
    files = {image.image_path: image.group for image in reversed(images)}
    groups = join_groups(files, same)
    wanted = sum(share > 0 for share in shares)
    side = 0
    if len(set(groups.values())) < wanted:
        side = _block_side(images)
        if side:
            keys = {_key(image.image_path, image.place, side) for image in images}
            groups = {key: key for key in keys}
    first: dict[str, ImageSummary] = {}  # a file may be listed in several splits
    objects: dict[str, Counter[str]] = {}
    for image in images:
        key = _key(image.image_path, image.place, side)
        first.setdefault(key, image)
        objects.setdefault(key, Counter()).update(image.categories)
    splits = assign_splits([SplitItem(key, groups[key], objects[key]) for key in first], shares, seed)
    rename = len({image.image_id for image in first.values()}) < len(first)
    placement = Placement(splits, groups, rename, len(first) if side else 0, side)
    for image in images:
        image.image_id = placement.id_of(image.image_id, image.split)
        image.split = splits[_key(image.image_path, image.place, side)].value
    return placement


def split_within_images(blocks: int, halo: int, source: Path) -> Issue:
    """The finding that splits share images, because there are too few of them."""
    text = (
        f"There are fewer images than splits, so {blocks} blocks of neighbouring tiles or pages were put into "
        f"splits instead. They share the look of an image, tiles a margin of {halo} pixels too: scores say little "
        "about others."
    )
    return Issue("split-within-images", Severity.WARNING, text, "Give more images, or --split 1,0,0.", file=str(source))


def _block_side(images: Sequence[ImageSummary]) -> int:
    """Side of the blocks that tiles (in pixels) or pages are grouped into; 0 where there are neither."""
    places = [image.place for image in images if image.place is not None]
    if len({(image.image_path, image.place) for image in images}) == len({image.image_path for image in images}):
        return 0
    area = (1 + max(x for x, _ in places)) * (1 + max(y for _, y in places))
    steps = sorted({x for x, _ in places} | {y for _, y in places})
    step = min((after - before for before, after in pairwise(steps)), default=1)
    return max(step, math.ceil(math.sqrt(area / _BLOCKS)))


def _key(image_path: str, place: tuple[int, int] | None, side: int) -> str:
    """What is put into a split as a whole: a file, or a block of its tiles."""
    if not side or place is None:
        return image_path
    return f"{image_path} block {place[0] // side},{place[1] // side}"
