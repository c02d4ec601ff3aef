"""Measuring what a threshold keeps of the finds against annotated objects: precision, recall, confusion, counts.

Crowd regions are COCO's: finds inside count neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from faster_coco_eval import mask as native
from numpy.typing import NDArray

from samtune.data.masks import encode_rle, format_counts
from samtune.data.table import Dataset, ImageEntry
from samtune.evaluation.intervals import COUNT, Summary, summarize
from samtune.finder.finding import full_masks
from samtune.finder.matching import OperatingPoint, match
from samtune.finder.results import Finds
from samtune.types import RunLengths

MOST = 1000
"""Finds of an image that are looked at."""
RIGHT = 0.5
"""IoU from which a mask is right where one number is asked for."""
_CROWDED = 0.5
"""Share of a find that lies in a crowd region from which on it counts neither way."""
_ANNOTATED = 0.5
"""Share of a find that lies in annotated masks from which on it is not called unannotated."""


@dataclass(frozen=True)
class TrueImage:
    """The annotated objects of one image, as COCO run lengths.

    Attributes:
        image: the table's entry.
        masks: of the N single objects, in COCO's compressed form.
        classes: int64 `[N]`.
        crowd: masks of crowd regions, and of objects that another tile has: what is found there counts neither way.
    """

    image: ImageEntry
    masks: list[dict[str, Any]]
    classes: NDArray[np.int64]
    crowd: list[dict[str, Any]]

    def unnamed(self) -> TrueImage:
        """The same with all objects of one class."""
        return replace(self, classes=np.zeros_like(self.classes))


@dataclass(frozen=True)
class Judged:
    """The finds of one image matched to its objects, whatever their names: masks of an IoU of 0.5, one to one.

    Attributes:
        owner: int64 `[P]`, the object that each find is matched to, -1 for none.
        false: bool `[P]`, finds where no object is; those in crowd regions count neither way and are not among them.
        unannotated: bool `[P]`, those of them that lie mostly where nothing is annotated.
        missed: numbers of the objects that no find is matched to.
        misnamed: bool `[P]`, finds of an object that has another name.
    """

    owner: NDArray[np.int64]
    false: NDArray[np.bool_]
    unannotated: NDArray[np.bool_]
    missed: NDArray[np.int64]
    misnamed: NDArray[np.bool_]


@dataclass(frozen=True)
class FoundImage:
    """What was found in one image: masks in COCO's compressed form, classes `[P]`, scores `[P]`, best first."""

    masks: list[dict[str, Any]]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, finds: Finds) -> FoundImage:
        """Finds with their masks brought to the image's own size."""
        return cls([_as_coco(runs) for runs in full_masks(finds)], finds.classes, finds.scores)

    def __getitem__(self, rows: NDArray[Any]) -> FoundImage:
        """Some of them, by number."""
        return FoundImage([self.masks[row] for row in rows], self.classes[rows], self.scores[rows])

    def above(self, threshold: float) -> FoundImage:
        """Those scored at least `threshold`."""
        return self[np.flatnonzero(self.scores >= threshold)]

    def rescored(self, scores: NDArray[np.float64]) -> FoundImage:
        """The same with other scores, in their order."""
        return FoundImage(self.masks, self.classes, scores)[np.argsort(-scores, kind="stable")]


@dataclass(frozen=True)
class Matched:
    """Finds kept by a threshold, matched to objects at a mask IoU of 0.5.

    Attributes:
        finds, right: how many were kept, and how many of them are right, with the right name where there are names.
        point: precision and recall that come of it.
        confusion: `[K + 1, K + 1]`, objects of class (row) found as class (column); the last row counts finds where no
            object is, the last column objects that were not found. Names play no part in the matching here.
        count_error: |found - annotated| of each image, over images, with an interval over groups.
        relative_count_error: the same divided by the number annotated (at least 1).
        counts: per class, how many were annotated and found.
    """

    finds: int
    right: int
    point: OperatingPoint
    confusion: NDArray[np.int64]
    count_error: Summary
    relative_count_error: Summary
    counts: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The figures but for those of single classes."""
        return {
            "threshold": self.point.threshold,
            "precision": self.point.precision,
            "recall": self.point.recall,
            "f1": self.point.f1,
            "finds": self.finds,
            "right": self.right,
            "count_error": asdict(self.count_error),
            "relative_count_error": asdict(self.relative_count_error),
        }


def read_true(dataset: Dataset, image: ImageEntry, classes: Sequence[str]) -> TrueImage:
    """The annotated objects of an image; an object of an unknown class gets number K, which no find has."""
    number = {name: index for index, name in enumerate(classes)}
    kept = image.single_objects
    return TrueImage(
        image,
        [compress(dataset.read_mask(one)) for one in kept],
        np.array([number.get(one.category, len(classes)) if classes else 0 for one in kept], np.int64),
        [compress(dataset.read_mask(one)) for one in image.objects if not one.is_single],
    )


def right_finds(
    truth: TrueImage, found: FoundImage, *, named: bool = True
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which finds are right at a mask IoU of 0.5, and which count at all: `[P]` both; see `_CROWDED`."""
    objects = mask_iou(found.masks, truth.masks)
    if named:
        objects = np.where(found.classes[:, None] == truth.classes[None], objects, -1.0)
    right = match(objects.astype(np.float32), found.scores.astype(np.float32), RIGHT) >= 0
    return right, right | ~_in_crowd(truth, found)


def judged(truth: TrueImage, found: FoundImage) -> Judged:
    """Match the finds of an image to its objects."""
    owner = match(mask_iou(found.masks, truth.masks).astype(np.float32), found.scores.astype(np.float32), RIGHT)
    has_owner = owner >= 0
    misnamed = np.zeros(len(owner), bool)
    misnamed[has_owner] = truth.classes[owner[has_owner]] != found.classes[has_owner]
    missed = np.setdiff1d(np.arange(len(truth.masks)), owner)
    false = ~has_owner & ~_in_crowd(truth, found)
    return Judged(owner, false, false & (_covered(truth, found) < _ANNOTATED), missed, misnamed)


def matched(truth: Sequence[TrueImage], found: Sequence[FoundImage], classes: int, threshold: float) -> Matched:
    """Figures of the finds that a threshold keeps.

    Args:
        truth, found: of the same images, in order.
        classes: K, at least 1.
        threshold: the least score.
    """
    kept = [one.above(threshold) for one in found]
    hits, finds, objects = 0, 0, sum(len(one.masks) for one in truth)
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    counts = np.zeros((classes, 2), np.int64)
    errors: list[float] = []
    relative: list[float] = []
    for one, these in zip(truth, kept, strict=True):
        right, counted = right_finds(one, these)
        hits, finds = hits + int(right.sum()), finds + int(counted.sum())
        whose = judged(one, these)
        is_found = whose.owner >= 0
        np.add.at(confusion, (one.classes[whose.owner[is_found]], these.classes[is_found]), 1)
        confusion[classes] += np.bincount(these.classes[whose.false], minlength=classes + 1)
        confusion[:, classes] += np.bincount(one.classes[whose.missed], minlength=classes + 1)
        counts[:, 0] += np.bincount(one.classes, minlength=classes)[:classes]
        counts[:, 1] += np.bincount(these.classes[counted], minlength=classes)
        errors.append(abs(int(counted.sum()) - len(one.masks)))
        relative.append(errors[-1] / max(len(one.masks), 1))
    groups = [one.image.group for one in truth]
    error, share = (summarize(values, groups, bounds=COUNT) for values in (errors, relative))
    assert error is not None and share is not None
    precision = hits / finds if finds else 1.0
    point = OperatingPoint(threshold, precision, hits / max(objects, 1))
    return Matched(finds, hits, point, confusion, error, share, counts)


def mask_iou(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> NDArray[np.float64]:
    """IoU of every mask of `first` with every one of `second`: `[A, B]`."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(native.iou(first, second, [0] * len(second)), np.float64).reshape(len(first), len(second))


def _in_crowd(truth: TrueImage, found: FoundImage) -> NDArray[np.bool_]:
    """Which finds lie mostly in a crowd region; COCO's IoU with one is the share of the find inside it."""
    if not truth.crowd or not found.masks:
        return np.zeros(len(found.masks), bool)
    inside = np.asarray(native.iou(found.masks, truth.crowd, [1] * len(truth.crowd)), np.float64)
    return inside.reshape(len(found.masks), -1).max(1) >= _CROWDED


def _covered(truth: TrueImage, found: FoundImage) -> NDArray[np.float64]:
    """Share of each find that lies in what is annotated, crowd regions too: `[P]`, 0 to 1."""
    annotated = [*truth.masks, *truth.crowd]
    if not annotated or not found.masks:
        return np.zeros(len(found.masks))
    return np.asarray(native.iou(found.masks, [native.merge(annotated)], [1]), np.float64)[:, 0]


def compress(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask bool `[H, W]`."""
    return _as_coco(encode_rle(mask))


def decompress(mask: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of compressed run lengths, bool `[H, W]`."""
    return np.asarray(native.decode(mask), bool)


def _as_coco(runs: RunLengths) -> dict[str, Any]:
    return {"size": [runs.height, runs.width], "counts": format_counts(runs)}
