"""Did tuning help? Two evaluations on the same prompts, the paired difference with its interval, a verdict in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from samtune.errors import ModelError
from samtune.evaluation.evaluate import Evaluation, ObjectResult
from samtune.evaluation.metrics import Summary, summarize

NOTICEABLE = 0.02
"""An object's IoU counts as changed from this difference on; below it, it is called the same."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Tuned minus base, over the same objects.

    Attributes:
        base, tuned: mean IoU of each.
        change: mean difference and its 95 % interval, resampling groups of images with both models' answers together.
        improved, worsened: objects whose IoU rose or fell by `NOTICEABLE` or more.
    """

    base: float
    tuned: float
    change: Summary
    improved: int
    worsened: int

    @property
    def is_better(self) -> bool:
        """The whole interval lies above 0."""
        return self.change.low is not None and self.change.low > 0

    @property
    def is_worse(self) -> bool:
        """The whole interval lies below 0."""
        return self.change.high is not None and self.change.high < 0

    def __str__(self) -> str:
        interval = ""
        if self.change.low is not None and self.change.high is not None:
            interval = f" [{self.change.low:+.3f}, {self.change.high:+.3f}]"
        return f"{self.base:.3f} -> {self.tuned:.3f}, difference {self.change.mean:+.3f}{interval}"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same split.

    Attributes:
        base, tuned: the evaluations.
        box, point: the differences for exact boxes and for single clicks.
        categories: the difference for boxes, by category.
    """

    base: Evaluation
    tuned: Evaluation
    box: Difference
    point: Difference
    categories: dict[str, Difference]

    @property
    def is_better(self) -> bool:
        """Whether tuning helped on boxes, with an interval that excludes 0."""
        return self.box.is_better

    @property
    def verdict(self) -> str:
        """One sentence: better, worse, or no clear difference."""
        found = self.box.change
        where = f"on {found.count} held-out objects from {found.groups} independent groups of images"
        if found.low is None:
            return f"No verdict: {where} nothing can be said about chance. Box IoU {self.box}."
        if self.box.is_better:
            return f"Tuning helped: box IoU {self.box} {where}."
        if self.box.is_worse:
            return f"Tuning made it worse: box IoU {self.box} {where}. Use the base model, or tune otherwise."
        return f"No clear difference: box IoU {self.box} {where}; the interval includes 0."

    @property
    def warnings(self) -> list[str]:
        """What tuning damaged on the way, in words; empty where nothing was found."""
        found: list[str] = []
        if self.point.is_worse:
            found.append(f"Single clicks got worse: IoU {self.point}. Train on clicks too (--prompts.point 0.5).")
        before, after = (model.calibration("box").mean_error for model in (self.base, self.tuned))
        if after > before + NOTICEABLE:
            found.append(f"The model's own IoU estimate got less reliable: mean error {before:.3f} -> {after:.3f}.")
        before, after = self.base.refusals(), self.tuned.refusals()
        if before is not None and after is not None and after.mean < before.mean - NOTICEABLE:
            found.append(
                f"It says 'nothing here' to fewer clicks on the background: {before.mean:.0%} -> {after.mean:.0%}. "
                "Train on background clicks too (--prompts.negative 0.2)."
            )
        filled = self.tuned.trivial("filled_box").mean
        if self.box.tuned < filled:
            found.append(f"Even tuned, the model is no better than filling the box, which scores {filled:.3f}.")
        return found

    def lines(self) -> list[str]:
        """What to tell the user."""
        filled, ellipse = (self.tuned.trivial(guess).mean for guess in ("filled_box", "ellipse"))
        return [
            self.verdict,
            f"box        {self.box}; {self.box.improved} objects better, {self.box.worsened} worse",
            f"one click  {self.point}; {self.point.improved} objects better, {self.point.worsened} worse",
            f"trivial    filled box {filled:.3f}, ellipse {ellipse:.3f}",
            *(f"warning    {warning}" for warning in self.warnings),
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/evaluation.md."""
        return {
            "format": 1,
            "base": self.base.model,
            "tuned": self.tuned.model,
            "split": self.base.split,
            "verdict": self.verdict,
            "warnings": self.warnings,
            "box": asdict(self.box),
            "point": asdict(self.point),
            "categories": {name: asdict(found) for name, found in self.categories.items()},
        }


def compare(base: Evaluation, tuned: Evaluation) -> Comparison:
    """Compare two evaluations of the same objects.

    Raises:
        ModelError: they are not of the same objects.
    """
    if [_identity(found) for found in base.objects] != [_identity(found) for found in tuned.objects]:
        raise ModelError.of(
            expected="two evaluations of the same objects",
            found=f"{len(base.objects)} objects of {base.split} and {len(tuned.objects)} of {tuned.split}",
            do="evaluate both models on the same split of the same dataset",
        )
    pairs = list(zip(base.objects, tuned.objects, strict=True))
    categories = sorted({found.category for found in base.objects})
    return Comparison(
        base=base,
        tuned=tuned,
        box=_difference(pairs, "box"),
        point=_difference(pairs, "point"),
        categories={
            name: _difference([pair for pair in pairs if pair[0].category == name], "box") for name in categories
        },
    )


def _difference(pairs: Sequence[tuple[ObjectResult, ObjectResult]], kind: str) -> Difference:
    before = [base.answers[kind].iou for base, _ in pairs]
    after = [tuned.answers[kind].iou for _, tuned in pairs]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    change = summarize(changes, [base.group for base, _ in pairs])
    assert change is not None
    return Difference(
        base=sum(before) / len(before),
        tuned=sum(after) / len(after),
        change=change,
        improved=sum(value >= NOTICEABLE for value in changes),
        worsened=sum(value <= -NOTICEABLE for value in changes),
    )


def _identity(found: ObjectResult) -> str:
    return json.dumps([found.image_path, found.annotation_id, found.area])
