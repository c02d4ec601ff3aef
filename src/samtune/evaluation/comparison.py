"""Two evaluations on the same prompts: paired differences, guards, and the verdict from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from samtune.errors import DataError
from samtune.evaluation.automatic import AutomaticComparison
from samtune.evaluation.guards import guards_of
from samtune.evaluation.paired import Guard, PairedDifference, paired_change
from samtune.evaluation.results import BOUNDARIES, FORMAT, HAUSDORFF, TARGETS, Evaluation, kind_title
from samtune.evaluation.verdict import NAMES, ORDER, Verdict, corrected_confidence, damage_text, decide
from samtune.utils.results import Result
from samtune.utils.text import html_lines, html_table

GAINS = ("box", "point")
"""Prompt kinds that a gain is looked for in."""


@dataclass(frozen=True)
class Comparison(Result):
    """Two models on the same split.

    Attributes:
        base, tuned: the evaluations.
        kinds: the difference for every prompt kind that was measured.
        clicks: the difference after each click of the simulated annotator; empty where none was simulated.
        categories, sizes: the difference for boxes, by category and by size bucket. These intervals are not corrected
            for there being many.
        guards: what tuning was not asked to change.
        sets: by name, both models on images of another kind; their guards are among `guards`.
        models: tuned models compared with this base; the verdict is corrected for their number.
        automatic: masks found without prompts, where they were measured; no part of the verdict.
        boundaries: by prompt kind and figure of edges, 0 to 1, the difference where edges were measured; no part of the
            verdict.
    """

    base: Evaluation
    tuned: Evaluation
    kinds: dict[str, PairedDifference]
    clicks: tuple[PairedDifference, ...]
    categories: dict[str, PairedDifference]
    sizes: dict[str, PairedDifference]
    guards: tuple[Guard, ...]
    sets: dict[str, tuple[Evaluation, Evaluation]]
    models: int = 1
    automatic: AutomaticComparison | None = None
    boundaries: dict[str, dict[str, PairedDifference]] = field(default_factory=dict)

    @property
    def box(self) -> PairedDifference:
        """The difference for exact boxes."""
        return self.kinds["box"]

    @property
    def point(self) -> PairedDifference:
        """The difference for single clicks."""
        return self.kinds["point"]

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
            *(
                f"{kind_title(kind):<14} {found}; {found.improved} objects better, {found.worsened} worse"
                for kind, found in self.kinds.items()
            ),
            *(
                f"{f'edges, {NAMES[kind]}':<14} {BOUNDARIES['iou']} {found['iou']}"
                for kind, found in self.boundaries.items()
            ),
            *self._click_lines(),
            *(self.automatic.lines() if self.automatic else []),
            f"{'trivial':<14} filled box {filled:.3f}, ellipse {ellipse:.3f}",
            *(f"{'warning':<14} {warning}" for warning in self.warnings),
        ]

    def _click_lines(self) -> list[str]:
        """Clicks needed to reach the highest target, before and after."""
        before, after = (model.clicks_needed(TARGETS[-1]) for model in (self.base, self.tuned))
        if before is None or after is None:
            return []
        return [
            f"{f'to IoU {TARGETS[-1]:g}':<14} {before.clicks:.2f} -> {after.clicks:.2f} clicks, not reached "
            f"{before.failed:.0%} -> {after.failed:.0%}"
        ]

    def _repr_html_(self) -> str:
        head = ("prompt", "base", "tuned", "difference", "better", "worse")
        rows = [
            (title, f"{one.base:.3f}", f"{one.tuned:.3f}", one.change_text, str(one.improved), str(one.worsened))
            for title, one in (("exact box", self.box), ("one click", self.point))
        ]
        return html_lines([str(self.verdict)]) + html_table(head, rows) + html_lines(self.warnings)

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
            "box": _with_state(self.box),
            "point": _with_state(self.point),
            "kinds": {name: _with_state(found) for name, found in self.kinds.items()},
            "clicks": [_with_state(found) for found in self.clicks],
            "boundaries": {
                kind: {name: _with_state(one) for name, one in found.items()} for kind, found in self.boundaries.items()
            },
            "categories": {name: _with_state(found) for name, found in self.categories.items()},
            "sizes": {name: _with_state(found) for name, found in self.sizes.items()},
            "automatic": None if self.automatic is None else asdict(self.automatic),
            "guards": {guard.name: asdict(guard) | {"state": guard.state} for guard in self.guards},
        }


def _with_state(found: PairedDifference) -> dict[str, Any]:
    return asdict(found) | {"state": found.state}


def compare(
    base: Evaluation,
    tuned: Evaluation,
    *,
    sets: Mapping[str, tuple[Evaluation, Evaluation]] | None = None,
    guards: Sequence[Guard] = (),
    models: int = 1,
) -> Comparison:
    """Compare two evaluations of the same objects.

    Args:
        base, tuned: on the same prompts.
        sets: by name, both models on the same prompts about images of another kind.
        guards: of what else was measured.
        models: tuned models that are compared with this base, this one included.

    Raises:
        DataError: they are not of the same objects with the same prompts.
    """
    for first, second in ((base, tuned), *(sets or {}).values()):
        _require_same_prompts(first, second)
    after_clicks = (
        zip(*(one.clicks for one in base.objects), strict=True),
        zip(*(one.clicks for one in tuned.objects), strict=True),
    )
    return Comparison(
        base=base,
        tuned=tuned,
        kinds={kind: _difference(base, tuned, kind, range(len(base.objects))) for kind in base.kinds},
        clicks=tuple(PairedDifference.of(*both, base.groups) for both in zip(*after_clicks, strict=True)),
        categories={name: _difference(base, tuned, "box", rows) for name, rows in base.rows_by("category").items()},
        sizes={name: _difference(base, tuned, "box", rows) for name, rows in base.rows_by("size").items()},
        guards=(*guards_of(base, tuned, sets or {}), *guards),
        sets=dict(sets or {}),
        models=models,
        boundaries={kind: found for kind in GAINS if (found := _edges(base, tuned, kind))},
    )


def ranked(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons of several tuned models with one base, the best first: by outcome, then by the gain for boxes."""
    return sorted(comparisons, key=lambda one: (ORDER.index(one.verdict.outcome), -one.box.change.mean))


def _require_same_prompts(base: Evaluation, tuned: Evaluation) -> None:
    if _prompts_of(base) != _prompts_of(tuned):
        raise DataError.of(
            expected="two evaluations of the same objects with the same prompts",
            found=f"{_size_of(base)}, and {_size_of(tuned)}",
            do="evaluate both models on the same split of the same dataset, with the same settings",
        )


def _difference(base: Evaluation, tuned: Evaluation, kind: str, rows: Sequence[int]) -> PairedDifference:
    """The difference for one prompt kind over some objects."""
    before, after = ([model.objects[row].answers[kind].iou for row in rows] for model in (base, tuned))
    return PairedDifference.of(before, after, [base.groups[row] for row in rows])


def _edges(base: Evaluation, tuned: Evaluation, kind: str) -> dict[str, PairedDifference]:
    """The difference for every figure of edges that is a share; empty where edges were not measured of both."""
    if not base.boundaries(kind) or not tuned.boundaries(kind):
        return {}
    before, after = ([one.answers[kind].boundary for one in model.objects] for model in (base, tuned))
    return {
        name: PairedDifference.of(
            [getattr(one, name) for one in before], [getattr(one, name) for one in after], base.groups
        )
        for name in BOUNDARIES
        if name != HAUSDORFF
    }


def _prompts_of(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """What the model was asked, without its answers."""
    objects = [(one.image_path, one.annotation_id, one.group, str(one.area)) for one in evaluation.objects]
    return [
        *objects,
        *((click.image_path, click.group) for click in evaluation.background),
        (str(evaluation.config.seed), *evaluation.kinds, str(len(evaluation.objects[0].clicks))),
    ]


def _size_of(evaluation: Evaluation) -> str:
    return f"{len(evaluation.objects)} objects and {len(evaluation.background)} clicks on {evaluation.split}"
