"""Which accepted images a model learns from, and which judge it: what judged once never teaches a later model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from samtune.errors import DataError
from samtune.studio.state import StudioImage
from samtune.studio.studio import Studio
from samtune.types import Split

PATTERN = (Split.TRAIN, Split.TEST, Split.TRAIN, Split.VALID, Split.TRAIN)
"""Splits of groups of images in the order in which they came to have objects; once given, a split is kept."""
FEWEST_GROUPS = 4
"""Groups of images from which on each split has one."""


def split_images(studio: Studio, images: Sequence[StudioImage]) -> dict[str, Split]:
    """The split of each image, by its id; what is new among them is kept in the journal.

    What the source holds out stays held out. Where it holds out images for validation and for testing, the rest is for
    training; otherwise groups of the rest take turns, see `PATTERN`.

    Raises:
        DataError: too few images with objects.
        StorageError: the disk refused.
    """
    group = {image.id: studio.entry(image).group for image in images}
    known: dict[str, Split] = {}
    if studio.source.has_splits:
        own = {group[image.id]: studio.entry(image).split for image in images}
        known = {name: split for name, split in own.items() if split is not Split.TRAIN}
    is_held_out = {known[group[image.id]] for image in images if image.kept and group[image.id] in known}
    pattern = (Split.TRAIN,) if len(is_held_out) == len(Split) - 1 else PATTERN
    turns = {group[image.id]: Split(image.split) for image in images if image.split and group[image.id] not in known}
    for image in sorted(images, key=_first_object):
        if group[image.id] not in known:
            turns.setdefault(group[image.id], pattern[len(turns) % len(pattern)])
    splits = {image.id: (known | turns)[group[image.id]] for image in images}
    _check(splits, group, images, studio.name)
    studio.store.set_splits({image.id: splits[image.id].value for image in images if not image.split})
    return splits


def _check(splits: dict[str, Split], group: dict[str, str], images: Sequence[StudioImage], name: str) -> None:
    count = len({group[image.id] for image in images if image.kept})
    found = Counter(splits[image.id] for image in images if image.kept)
    if count < FEWEST_GROUPS or len(found) < len(Split):
        shares = ", ".join(f"{found[split]} for {split.value}" for split in Split)
        raise DataError.of(
            expected=f"at least {FEWEST_GROUPS} images with objects, to learn from and to judge by",
            found=f"{count} (copies of one image count once): {shares}",
            where=name,
            do="annotate more images first",
        )


def _first_object(image: StudioImage) -> int:
    """Number of the image's first object; images without any come last."""
    return min((int(one.id) for one in image.kept), default=1 << 60)
