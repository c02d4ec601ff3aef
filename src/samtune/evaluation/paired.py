"""Tuned minus base on the same objects and prompts: differences, and guards for what tuning may damage.

Objects differ far more from each other than the two models do on one object. Only the difference on the same object,
with the same prompt, takes that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from samtune.evaluation.intervals import CONFIDENCE, DIFFERENCE, Summary, summarize

NOTICEABLE = 0.02
"""An object's IoU counts as changed from this difference on; below it, it is called the same."""
NEGLIGIBLE = 0.005
"""A mean difference smaller than this is neither a damage nor a gain, however sure it is."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Tuned minus base, over the same objects.

    Attributes:
        base, tuned: mean of each.
        change: mean difference, -1 to 1, and its 95 % interval.
        improved, worsened: objects whose IoU rose or fell by `NOTICEABLE` or more.
    """

    base: float
    tuned: float
    change: Summary
    improved: int
    worsened: int

    @classmethod
    def of(cls, base: Sequence[float], tuned: Sequence[float], groups: Sequence[str]) -> PairedDifference:
        """Compare one figure of each object, 0 to 1; at least one object."""
        changes = [after - before for before, after in zip(base, tuned, strict=True)]
        return cls(
            base=fmean(base),
            tuned=fmean(tuned),
            change=paired_change(base, tuned, groups),
            improved=sum(value >= NOTICEABLE for value in changes),
            worsened=sum(value <= -NOTICEABLE for value in changes),
        )

    @property
    def state(self) -> str:
        """`better` or `worse` where the whole interval lies on one side of 0, else `unclear`."""
        return interval_state(self.change)

    @property
    def is_better(self) -> bool:
        """The whole interval lies above 0."""
        return self.state == "better"

    @property
    def is_worse(self) -> bool:
        """The whole interval lies below 0."""
        return self.state == "worse"

    @property
    def change_text(self) -> str:
        """The mean difference and its interval, signed."""
        low, high = self.change.low, self.change.high
        interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
        return f"{self.change.mean:+.3f}{interval}"

    def __str__(self) -> str:
        return f"{self.base:.3f} -> {self.tuned:.3f}, difference {self.change_text}"


@dataclass(frozen=True, slots=True)
class Guard:
    """Something tuning was not asked to change.

    Attributes:
        name: stable, for programs.
        title: for people.
        base, tuned: mean of each, 0 to 1.
        change: tuned minus base with its 95 % interval, paired.
        lower_is_better: an error, not a score.
        advice: what to do where it was damaged.
        limits: the use that its damage rules out: a prompt kind, or a use of the model in words.
        tolerance: mean damage up to this is accepted, however sure it is.
    """

    name: str
    title: str
    base: float
    tuned: float
    change: Summary
    lower_is_better: bool
    advice: str
    limits: str
    tolerance: float = NEGLIGIBLE

    @property
    def state(self) -> str:
        """`better`, `worse` or `unclear`, by the interval and whatever direction is the good one."""
        state = interval_state(self.change)
        if self.lower_is_better and state != "unclear":
            return "worse" if state == "better" else "better"
        return state

    @property
    def is_damaged(self) -> bool:
        """Surely worse, and by more than is accepted."""
        return self.state == "worse" and abs(self.change.mean) >= self.tolerance


def paired_change(
    base: Sequence[float], tuned: Sequence[float], groups: Sequence[str], *, confidence: float = CONFIDENCE
) -> Summary:
    """Mean of tuned minus base with its interval; at least one object.

    Args:
        base, tuned: one figure per object, 0 to 1, in the same order.
        groups: the group of images of each object.
        confidence: of the interval.
    """
    changes = [after - before for before, after in zip(base, tuned, strict=True)]
    change = summarize(changes, groups, bounds=DIFFERENCE, confidence=confidence)
    assert change is not None, "no objects to compare"
    return change


def interval_state(change: Summary) -> str:
    """`better` or `worse` where the whole interval lies on one side of 0, else `unclear`."""
    if change.low is not None and change.low > 0:
        return "better"
    return "worse" if change.high is not None and change.high < 0 else "unclear"
