"""Questions and answers as values. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samtune.data.masks import Region
from samtune.types import Box

BASE, TUNED = "base", "tuned"
"""Keys of the model before tuning, and of the one the studio was started with where that is a tuned one."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asks about one object, in pixels of the image.

    Attributes:
        box: xyxy, or None.
        points: xy of the clicks.
        labels: 1 positive, 0 negative.
        previous: token of an earlier answer that this one corrects, or None.
        multimask: three masks instead of one.
    """

    box: Box | None = None
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    previous: str | None = None
    multimask: bool = False


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """One mask that a model found.

    Attributes:
        region: its pixels.
        iou: predicted IoU, 0 to 1; of proposals, their score.
        previous: token to correct it with; empty for proposals.
        category: name of its class; None where nobody knows.
    """

    region: Region | None
    iou: float
    previous: str = ""
    category: str | None = None


@dataclass(frozen=True, slots=True)
class StudioAnswer:
    """A model's answer: M = 1 or 3 masks, and the logit that there is an object at all."""

    masks: tuple[FoundRegion, ...]
    object_score: float

    @property
    def best(self) -> int:
        """Number of the mask with the highest predicted IoU."""
        return max(range(len(self.masks)), key=lambda number: self.masks[number].iou)


def iou_of(first: Region | None, second: Region | None) -> float:
    """IoU of two masks of one image, 0 to 1; 1 where both are empty."""
    from samtune.evaluation.full_size import overlap_of

    if first is None or second is None:
        return float(first is second)
    return overlap_of(first, second).iou
