"""Real images to pre-train on: where they come from, how they are drawn, and views of them.

A source is a prepared dataset, an annotation file or folder in any format that samtune reads, or a folder of such: one
without annotations of its own and without folders named train, images or the like. Every dataset in it is a set. Sets
are drawn evenly, then images of the set, then objects of the image: otherwise those with the most objects would drown
the rest. Images are decoded once and kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.config import PretrainConfig, PretrainStage
from samtune.data.images import read_image
from samtune.data.masks import Region, rasterise_region, region_of
from samtune.data.prepare.spool import TABLE
from samtune.data.readers import read
from samtune.data.readers.common import split_named
from samtune.data.table import Dataset
from samtune.errors import ConfigError, DataError
from samtune.nano.augment import TrainingView, choose_window, crop_view, paste
from samtune.types import MaskFile, Segmentation, Split

LONGEST = 640
"""Longest side of the images that are kept, in pixels."""
_KEPT = 6000
"""Most images that are kept in memory, about 1 MB each."""
_TRIES = 30
_LAYOUT = {"images", "labels", "annotations", "masks"}
"""Names of folders that are parts of a set, not sets."""
_ANNOTATIONS = {".json", ".geojson", ".yaml", ".yml", ".csv", ".xml", ".zip"}

Decoded: TypeAlias = tuple[NDArray[np.uint8], tuple[Region, ...]]
"""An image `[H, W, 3]` and the masks of its objects."""


@dataclass(frozen=True, slots=True)
class RealImage:
    """An image with at least one object, not yet read."""

    path: Path
    width: int
    height: int
    objects: tuple[Segmentation, ...]

    def decode(self) -> Decoded:
        """Read it, at most `LONGEST` pixels long; objects without a pixel are left out.

        Raises:
            DataError: the file is missing, damaged, or of another size than its annotations say.
        """
        image = read_image(self.path)
        if (self.width, self.height) not in ((0, 0), (image.shape[1], image.shape[0])):
            raise DataError.of(
                expected=f"an image of {self.width} x {self.height} pixels, as its annotations say",
                found=f"{image.shape[1]} x {image.shape[0]}",
                where=str(self.path),
                do="run samtune prepare on this set and give the prepared dataset",
            )
        height, width = image.shape[:2]
        regions = [rasterise_region(shape, height, width) for shape in self.objects]
        scale = LONGEST / max(height, width)
        if scale < 1:
            size = (round(width * scale), round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            regions = [None if region is None else _shrunk(region, (height, width), size) for region in regions]
        return image, tuple(region for region in regions if region is not None)


def _shrunk(region: Region, old: tuple[int, int], size: tuple[int, int]) -> Region | None:
    whole = region.paste(*old).astype(np.uint8) * 255
    return region_of(np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA)) > 127)


@dataclass(frozen=True, slots=True)
class RealSet:
    """One set: its name, its images, and whether every object in them is labelled."""

    name: str
    images: tuple[RealImage, ...]
    complete: bool


@dataclass(frozen=True)
class RealImages:
    """Everything real there is to learn from, and to measure on.

    Attributes:
        sources: the sets of each source.
        shares: which share of the views each source has; the rest are scenes.
        held_out: sets that only measure.
    """

    sources: tuple[tuple[RealSet, ...], ...]
    shares: tuple[float, ...]
    held_out: tuple[RealSet, ...]
    _decoded: dict[Path, Decoded] = field(default_factory=dict, repr=False, compare=False)

    def decoded(self, image: RealImage) -> Decoded:
        """An image's pixels and masks, from memory where it has been read before."""
        found = self._decoded.get(image.path)
        if found is None:
            found = image.decode()
            if len(self._decoded) < _KEPT:
                self._decoded[image.path] = found
        return found

    def draw(self, rng: np.random.Generator) -> int | None:
        """Which source the next view comes from; None for a scene."""
        place = int(np.searchsorted(np.cumsum(self.shares), rng.random(), side="right"))
        return place if place < len(self.sources) else None

    def view(self, rng: np.random.Generator, source: int, stage: PretrainStage) -> TrainingView:
        """A view of a random object's image: set, image and object are each drawn evenly.

        Args:
            rng: the source of randomness.
            source: which source.
            stage: side of the view, most targets, how many show the whole image, and how many get one to five objects
                of other images.

        Raises:
            DataError: an image cannot be read, or objects large enough are too rare to be found.
        """
        sets = self.sources[source]
        for _ in range(_TRIES):
            chosen = sets[rng.integers(len(sets))]
            image, regions = self.decoded(chosen.images[rng.integers(len(chosen.images))])
            if not regions:
                continue
            first = int(rng.integers(len(regions)))
            height, width = image.shape[:2]
            window = choose_window(rng, height, width, regions[first].box, stage.size, stage.whole)
            view = crop_view(rng, image, regions, first, window, stage.size, stage.objects, complete=chosen.complete)
            if view is not None:
                return self.with_pasted(rng, view, stage.paste)
        raise DataError.of(
            expected="objects of at least 4 x 4 pixels of the input",
            found=f"none in {_TRIES} views",
            where=", ".join(chosen.name for chosen in sets),
            do="leave these sets out",
        )

    def with_pasted(self, rng: np.random.Generator, view: TrainingView, share: float) -> TrainingView:
        """The view, in `share` of the cases with one to five objects of any set laid over it."""
        if not self.sources or rng.random() >= share:
            return view
        for _ in range(int(rng.integers(1, 6))):
            sets = self.sources[rng.integers(len(self.sources))]
            chosen = sets[rng.integers(len(sets))]
            image, regions = self.decoded(chosen.images[rng.integers(len(chosen.images))])
            if regions:
                view = paste(rng, view, image, regions[rng.integers(len(regions))])
        return view


def open_images(config: PretrainConfig) -> RealImages:
    """Find the sets of `config.images`.

    Raises:
        DataError: a source that is not there, has no masks, or cannot be read.
        ConfigError: a set named in `hold_out`, `background` or `incomplete` that is in no source; one that is named
            as incomplete and for background; no set left to learn from.
    """
    found = [list(_sets(path)) for path in config.images]
    names = {name for sets in found for name, _ in sets}
    for option in ("hold_out", "background", "incomplete"):
        for name in getattr(config, option):
            if name not in names:
                raise ConfigError.of(
                    expected=f"the name of a set in the sources: {', '.join(sorted(names)) or 'there are none'}",
                    found=repr(name),
                    where=f"--{option.replace('_', '-')}",
                    do="correct the name, or add the source with --images",
                )
    both = sorted(set(config.background) & set(config.incomplete))
    if both:
        raise ConfigError.of(
            expected="background only from sets in which every object is labelled",
            found=f"{both[0]!r}, which is named as incomplete too",
            where="--background",
            do="take it out of --background: an object without a label would be taught as 'nothing here'",
        )
    held_out: list[RealSet] = []
    sources: list[tuple[RealSet, ...]] = []
    for path, sets in zip(config.images, found, strict=True):
        learned: list[RealSet] = []
        for name, images in sets:
            held = name in config.hold_out
            usable = tuple(image for split, image in images if held or split is Split.TRAIN)
            if held:
                held_out.append(RealSet(name, usable, complete=False))
            elif usable:
                learned.append(RealSet(name, usable, complete=name in config.background))
        if not learned:
            raise ConfigError.of(
                expected="a set with a train split to learn from",
                found="none that is not held out",
                where=str(path),
                do="hold out fewer sets, or leave this source out",
            )
        sources.append(tuple(learned))
    return RealImages(tuple(sources), _shares(config, found), tuple(held_out))


def _shares(config: PretrainConfig, found: Sequence[Sequence[object]]) -> tuple[float, ...]:
    """The share of each source: as given, or `real_share` by the number of their sets."""
    if config.shares:
        return config.shares
    total = sum(map(len, found))
    return tuple(config.real_share * len(sets) / total for sets in found)


def _sets(path: Path) -> Iterator[tuple[str, list[tuple[Split, RealImage]]]]:
    """Names and images of the sets in a source."""
    if (path / TABLE).is_file():
        yield path.resolve().name, _required(path, list(_of_dataset(path)))
        return
    parts = _sets_inside(path)
    if parts:
        for part in parts:
            yield from _sets(part)
        return
    name = path.resolve().stem if path.is_file() else path.resolve().name
    yield name, _required(path, list(_of_source(path)))


def _sets_inside(path: Path) -> list[Path]:
    """The sets that a folder collects: its folders, unless it has annotations or a layout of its own."""
    if not path.is_dir():
        return []
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    parts = [entry for entry in inside if entry.is_dir()]
    own = any(part.name.lower() in _LAYOUT or split_named(part.name) for part in parts)
    return [] if own or any(entry.suffix.lower() in _ANNOTATIONS for entry in inside) else parts


def _required(path: Path, images: list[tuple[Split, RealImage]]) -> list[tuple[Split, RealImage]]:
    if not images:
        raise DataError.of(
            expected="images with masks of objects",
            found="no object with a mask",
            where=str(path),
            do="leave this folder out, or annotate its images",
        )
    return images


def _of_dataset(path: Path) -> Iterator[tuple[Split, RealImage]]:
    dataset = Dataset.open(path)
    for entry in dataset.images:
        objects = tuple(MaskFile(path / found.mask_path) for found in entry.single_objects)
        if objects:
            yield entry.split, RealImage(path / entry.image_path, entry.width, entry.height, objects)


def _of_source(path: Path) -> Iterator[tuple[Split, RealImage]]:
    for record in read(path, on_issue=lambda issue: None):
        objects = tuple(
            found.segmentation for found in record.annotations if found.segmentation is not None and not found.iscrowd
        )
        if objects:
            yield record.split, RealImage(record.path, record.width, record.height, objects)
