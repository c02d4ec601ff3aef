"""Two evaluations on the same prompts: paired differences, guards, and the verdict from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from samtune.errors import DataError
from samtune.evaluation.paired import Guard, PairedDifference, paired_change
from samtune.evaluation.results import FORMAT, Answer, Evaluation
from samtune.evaluation.verdict import Verdict, corrected_confidence, damage_text, decide
from samtune.utils.results import Result

GAINS = ("box", "point")
"""Prompt kinds that a gain is looked for in."""
_TRUST = "Do not rank or filter masks by it without a look."


@dataclass(frozen=True)
class Comparison(Result):
    """Two models on the same split.

    Attributes:
        base, tuned: the evaluations.
        box, point: the differences for exact boxes and for single clicks.
        categories: the difference for boxes, by category. These intervals are not corrected for there being many.
        guards: what else tuning changed; single clicks are among them because tuning on boxes may cost them.
        models: tuned models compared with this base; the verdict is corrected for their number.
    """

    base: Evaluation
    tuned: Evaluation
    box: PairedDifference
    point: PairedDifference
    categories: dict[str, PairedDifference]
    guards: tuple[Guard, ...]
    models: int = 1

    @property
    def is_better(self) -> bool:
        """Whether tuning helped on boxes, with an interval that excludes 0."""
        return self.box.is_better

    @cached_property
    def verdict(self) -> Verdict:
        """Whether to use the tuned model, with reasons."""
        confidence = corrected_confidence(len(GAINS), self.models)
        gains = {
            kind: paired_change(
                self.base.values(kind), self.tuned.values(kind), self.base.groups, confidence=confidence
            )
            for kind in GAINS
        }
        return decide(
            {"box": self.box, "point": self.point},
            gains,
            self.guards,
            is_held_out=self.base.split != "train",
            is_unchanged=self.base.weights == self.tuned.weights,
        )

    @cached_property
    def warnings(self) -> list[str]:
        """What to keep in mind, in words; empty where nothing was found."""
        found = [damage_text(guard) for guard in self.guards if guard.is_damaged]
        if self.base.split == "train":
            found.append("These are training images: nothing here says how the tuned model does on new ones.")
        if self.base.split == "valid":
            found.append("The tuned weights were chosen on this split, which flatters them a little; judge on test.")
        if self.base.weights == self.tuned.weights:
            found.append(
                "Both models have the same weights: training kept the base model, or one was compared with itself."
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
            str(self.verdict),
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
            "verdict": str(self.verdict),
            **self.verdict.to_json(),
            "warnings": self.warnings,
            "box": asdict(self.box) | {"state": self.box.state},
            "point": asdict(self.point) | {"state": self.point.state},
            "categories": {name: asdict(found) | {"state": found.state} for name, found in self.categories.items()},
            "guards": {guard.name: asdict(guard) | {"state": guard.state} for guard in self.guards},
        }


def compare(base: Evaluation, tuned: Evaluation, *, models: int = 1) -> Comparison:
    """Compare two evaluations of the same objects.

    Args:
        base, tuned: on the same prompts.
        models: tuned models that are compared with this base, this one included.

    Raises:
        DataError: they are not of the same objects with the same prompts.
    """
    if _prompts_of(base) != _prompts_of(tuned):
        raise DataError.of(
            expected="two evaluations of the same objects with the same prompts",
            found=f"{_size_of(base)}, and {_size_of(tuned)}",
            do="evaluate both models on the same split of the same dataset, with the same settings",
        )
    return Comparison(
        base=base,
        tuned=tuned,
        box=_difference(base, tuned, "box"),
        point=_difference(base, tuned, "point"),
        categories={
            name: _difference(base, tuned, "box", name) for name in sorted({found.category for found in base.objects})
        },
        guards=tuple(_guards(base, tuned)),
        models=models,
    )


def _difference(base: Evaluation, tuned: Evaluation, kind: str, category: str | None = None) -> PairedDifference:
    """The difference for one prompt kind, over all objects or those of one category."""
    chosen = [number for number, found in enumerate(base.objects) if category in (None, found.category)]
    before, after = ([model.objects[number].answers[kind].iou for number in chosen] for model in (base, tuned))
    return PairedDifference.of(before, after, [base.groups[number] for number in chosen])


def _guards(base: Evaluation, tuned: Evaluation) -> Iterator[Guard]:
    """What tuning on boxes may damage; tools rank masks by the predicted IoU and drop them by the object score."""
    clicks = "Train on clicks too (--prompts.point 0.5)."
    watched: list[tuple[str, str, str, Callable[[Answer], float], bool, str]] = [
        ("box", "IoU of exact boxes", "box", _iou, False, "Train on boxes too (--prompts.box 1)."),
        ("click", "IoU of one click", "point", _iou, False, clicks),
        ("click_first_of_three", "IoU of the guess ranked first of three, one click", "point", _first, False, clicks),
        ("click_best_of_three", "IoU of the best of three guesses, one click", "point", _best, False, clicks),
        ("predicted_iou_box", "Error of the predicted IoU, boxes", "box", _error, True, _TRUST),
        ("predicted_iou_click", "Error of the predicted IoU, one click", "point", _error, True, _TRUST + " " + clicks),
    ]
    for name, title, kind, figure, lower, advice in watched:
        before, after = ([figure(found.answers[kind]) for found in model.objects] for model in (base, tuned))
        change = paired_change(before, after, base.groups)
        limits = "ranking masks by predicted IoU" if figure is _error else kind
        yield Guard(name, title, fmean(before), fmean(after), change, lower, advice, limits)
    if base.background:
        before, after = ([float(click.is_refused) for click in model.background] for model in (base, tuned))
        change = paired_change(before, after, [click.group for click in base.background])
        title = "Share of background clicks answered with 'nothing here'"
        advice = "Train on background clicks too (--prompts.negative 0.2)."
        limits = "automatic masks"
        yield Guard("background_refused", title, fmean(before), fmean(after), change, False, advice, limits)


def _iou(answer: Answer) -> float:
    return answer.iou


def _first(answer: Answer) -> float:
    assert answer.first_of_three is not None
    return answer.first_of_three


def _best(answer: Answer) -> float:
    assert answer.best_of_three is not None
    return answer.best_of_three


def _error(answer: Answer) -> float:
    return abs(answer.predicted_iou - answer.iou)


def _prompts_of(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """What the model was asked, without its answers."""
    objects = [(one.image_path, one.annotation_id, one.group, str(one.area)) for one in evaluation.objects]
    return [
        *objects,
        *((click.image_path, click.group) for click in evaluation.background),
        (str(evaluation.config.seed),),
    ]


def _size_of(evaluation: Evaluation) -> str:
    return f"{len(evaluation.objects)} objects and {len(evaluation.background)} clicks on {evaluation.split}"
