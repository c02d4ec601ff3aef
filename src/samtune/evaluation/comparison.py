"""Did tuning help? Two evaluations on the same prompts, the paired difference with its interval, a verdict in words.

Pairing matters: objects differ far more from each other than the two models do on one object, and only the difference
on the same object, with the same prompt, takes that out. What tuning may damage is looked at in the same manner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from samtune.errors import DataError
from samtune.evaluation.metrics import Summary, summarize
from samtune.evaluation.results import FORMAT, Answer, Evaluation, ObjectResult
from samtune.utils.results import Result

NOTICEABLE = 0.02
"""An object's IoU counts as changed from this difference on; below it, it is called the same."""
WORTH_SAYING = 0.005
"""Damage smaller than this is no warning, however sure it is."""
_TRUST = "Do not rank or filter masks by it without a look."


@dataclass(frozen=True, slots=True)
class Difference:
    """Tuned minus base, over the same objects.

    Attributes:
        base, tuned: mean of each.
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

    @property
    def state(self) -> str:
        """`better`, `worse` or `unclear`."""
        return "better" if self.is_better else "worse" if self.is_worse else "unclear"

    def __str__(self) -> str:
        interval = ""
        if self.change.low is not None and self.change.high is not None:
            interval = f" [{self.change.low:+.3f}, {self.change.high:+.3f}]"
        return f"{self.base:.3f} -> {self.tuned:.3f}, difference {self.change.mean:+.3f}{interval}"


@dataclass(frozen=True, slots=True)
class Guard:
    """Something tuning was not asked to change.

    Attributes:
        name: stable, for programs.
        title: for people.
        base, tuned: mean of each, 0 to 1.
        change: tuned minus base with its interval, paired.
        lower_is_better: an error, not a score.
        advice: what to do where it was damaged.
    """

    name: str
    title: str
    base: float
    tuned: float
    change: Summary
    lower_is_better: bool
    advice: str

    @property
    def state(self) -> str:
        """`better`, `worse` or `unclear`, by the interval and whatever direction is the good one."""
        low, high = self.change.low, self.change.high
        if low is None or high is None:
            return "unclear"
        if self.lower_is_better:
            low, high = -high, -low
        return "better" if low > 0 else "worse" if high < 0 else "unclear"

    @property
    def is_damaged(self) -> bool:
        """Surely worse, and by more than a trifle."""
        return self.state == "worse" and abs(self.change.mean) >= WORTH_SAYING


@dataclass(frozen=True)
class Comparison(Result):
    """Two models on the same split.

    Attributes:
        base, tuned: the evaluations.
        box, point: the differences for exact boxes and for single clicks.
        categories: the difference for boxes, by category. These intervals are not corrected for there being many.
        guards: what else tuning changed; single clicks are among them because tuning on boxes may cost them.
    """

    base: Evaluation
    tuned: Evaluation
    box: Difference
    point: Difference
    categories: dict[str, Difference]
    guards: tuple[Guard, ...]

    @property
    def is_better(self) -> bool:
        """Whether tuning helped on boxes, with an interval that excludes 0."""
        return self.box.is_better

    @property
    def verdict(self) -> str:
        """Better, worse, or no clear difference, in one or two plain sentences."""
        found = self.box.change
        where = f"on {found.count} {self._whose} from {_groups(found.groups)}"
        if found.low is None:
            return f"No verdict: {where}, chance cannot be told from effect. Box IoU {self.box}."
        if self.box.is_better:
            return f"Tuning helped: box IoU {self.box}, {where}."
        if self.box.is_worse:
            return f"Tuning made it worse: box IoU {self.box}, {where}. Use the base model, or tune otherwise."
        return f"No clear difference: box IoU {self.box}, {where}; the interval includes 0."

    @cached_property
    def warnings(self) -> list[str]:
        """What to keep in mind, in words; empty where nothing was found."""
        found = [
            f"{guard.title} got worse: {guard.base:.3f} -> {guard.tuned:.3f}. {guard.advice}"
            for guard in self.guards
            if guard.is_damaged
        ]
        if self.base.split == "train":
            found.append("These are training images: nothing here says how the tuned model does on new ones.")
        if self.base.split == "valid":
            found.append("The tuned weights were chosen on this split, which flatters them a little; judge on test.")
        if self.base.weights == self.tuned.weights:
            found.append(
                "Both models have the same weights: training kept the base model, or one was compared to itself."
            )
        guesses = {"filling the box": "filled_box", "the ellipse inscribed in the box": "ellipse"}
        for words, guess in guesses.items():
            trivial = self.tuned.trivial(guess).mean
            if self.box.tuned < trivial:
                found.append(
                    f"Even tuned, the model is no better than {words}, which scores {trivial:.3f} without any model."
                )
        return found

    def lines(self) -> list[str]:
        """What to tell the user."""
        filled, ellipse = (self.tuned.trivial(guess).mean for guess in ("filled_box", "ellipse"))
        return [
            self.verdict,
            f"exact box  {self.box}; {self.box.improved} objects better, {self.box.worsened} worse",
            f"one click  {self.point}; {self.point.improved} objects better, {self.point.worsened} worse",
            f"trivial    filled box {filled:.3f}, ellipse {ellipse:.3f}",
            *(f"warning    {warning}" for warning in self.warnings),
        ]

    def to_json(self) -> dict[str, Any]:
        """The figures, as in docs/evaluation.md."""
        return {
            "format": FORMAT,
            "base": self.base.model,
            "tuned": self.tuned.model,
            "split": self.base.split,
            "verdict": self.verdict,
            "warnings": self.warnings,
            "box": asdict(self.box) | {"state": self.box.state},
            "point": asdict(self.point) | {"state": self.point.state},
            "categories": {name: asdict(found) | {"state": found.state} for name, found in self.categories.items()},
            "guards": {guard.name: asdict(guard) | {"state": guard.state} for guard in self.guards},
        }

    @property
    def _whose(self) -> str:
        return "training objects" if self.base.split == "train" else "held-out objects"


def compare(base: Evaluation, tuned: Evaluation) -> Comparison:
    """Compare two evaluations of the same objects.

    Raises:
        DataError: they are not of the same objects, asked for with the same prompts.
    """
    if _questions(base) != _questions(tuned):
        raise DataError.of(
            expected="two evaluations of the same objects with the same prompts",
            found=f"{_said(base)}, and {_said(tuned)}",
            do="evaluate both models on the same split of the same dataset, with the same settings",
        )
    pairs = list(zip(base.objects, tuned.objects, strict=True))
    categories = sorted({found.category for found in base.objects})
    seed = base.config.seed
    return Comparison(
        base=base,
        tuned=tuned,
        box=_difference(pairs, "box", seed),
        point=_difference(pairs, "point", seed),
        categories={
            name: _difference([pair for pair in pairs if pair[0].category == name], "box", seed) for name in categories
        },
        guards=tuple(_guards(base, tuned)),
    )


def _difference(pairs: Sequence[tuple[ObjectResult, ObjectResult]], kind: str, seed: int) -> Difference:
    before = [base.answers[kind].iou for base, _ in pairs]
    after = [tuned.answers[kind].iou for _, tuned in pairs]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    return Difference(
        base=fmean(before),
        tuned=fmean(after),
        change=_paired(before, after, [base.group for base, _ in pairs], seed),
        improved=sum(value >= NOTICEABLE for value in changes),
        worsened=sum(value <= -NOTICEABLE for value in changes),
    )


def _guards(base: Evaluation, tuned: Evaluation) -> Iterator[Guard]:
    """What tuning on boxes may damage; tools rank masks by the predicted IoU and drop them by the object score."""
    clicks = "Train on clicks too (--prompts.point 0.5)."
    watched: list[tuple[str, str, str, Callable[[Answer], float], bool, str]] = [
        ("click", "IoU of one click", "point", lambda answer: answer.iou, False, clicks),
        ("click_first_of_three", "IoU of the guess ranked first of three, one click", "point", _first, False, clicks),
        ("click_best_of_three", "IoU of the best of three guesses, one click", "point", _best, False, clicks),
        ("predicted_iou_box", "Error of the predicted IoU, boxes", "box", _error, True, _TRUST),
        ("predicted_iou_click", "Error of the predicted IoU, one click", "point", _error, True, _TRUST + " " + clicks),
    ]
    seed = base.config.seed
    for name, title, kind, figure, lower, advice in watched:
        before, after = ([figure(found.answers[kind]) for found in model.objects] for model in (base, tuned))
        change = _paired(before, after, base.groups, seed)
        yield Guard(name, title, fmean(before), fmean(after), change, lower, advice)
    if base.background:
        before, after = ([float(click.is_refused) for click in model.background] for model in (base, tuned))
        change = _paired(before, after, [click.group for click in base.background], seed)
        title = "Share of background clicks answered with 'nothing here'"
        advice = "Train on background clicks too (--prompts.negative 0.2)."
        yield Guard("background_refused", title, fmean(before), fmean(after), change, False, advice)


def _first(answer: Answer) -> float:
    assert answer.first_of_three is not None
    return answer.first_of_three


def _best(answer: Answer) -> float:
    assert answer.best_of_three is not None
    return answer.best_of_three


def _error(answer: Answer) -> float:
    return abs(answer.predicted_iou - answer.iou)


def _paired(before: Sequence[float], after: Sequence[float], groups: Sequence[str], seed: int) -> Summary:
    change = summarize([b - a for a, b in zip(before, after, strict=True)], groups, seed=seed)
    assert change is not None
    return change


def _questions(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """What was asked, without the answers."""
    objects = [(one.image_path, one.annotation_id, one.group, str(one.area)) for one in evaluation.objects]
    return [
        *objects,
        *((click.image_path, click.group) for click in evaluation.background),
        (str(evaluation.config.seed),),
    ]


def _said(evaluation: Evaluation) -> str:
    return f"{len(evaluation.objects)} objects and {len(evaluation.background)} clicks on {evaluation.split}"


def _groups(count: int) -> str:
    return f"{count} independent groups of images" if count != 1 else "a single group of images"
