"""Guards: what tuning was not asked to change, compared between base and tuned model.

Every prompt kind that was measured, the predicted IoU, the object score, and images of another kind altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from samtune.data.table import Dataset
from samtune.errors import DataError
from samtune.evaluation.paired import NEGLIGIBLE, NOTICEABLE, Guard, paired_change
from samtune.evaluation.results import KINDS, MASK, Answer, Evaluation, kind_title
from samtune.types import Split

_CLICKS = "Train on clicks too (--prompts mixture, or interactive)."
_TRUST = "Do not rank or filter masks by it without a look."
BLEND_ADVICE = "Blend it with the base model (samtune blend BASE TUNED --alpha auto)."


@dataclass(frozen=True, slots=True)
class _Watched:
    """A figure of one prompt kind's answers that is guarded."""

    name: str
    title: str
    kind: str
    figure: Callable[[Answer], float]
    advice: str
    limits: str
    lower_is_better: bool = False


def guards_of(
    base: Evaluation, tuned: Evaluation, sets: Mapping[str, tuple[Evaluation, Evaluation]]
) -> Iterator[Guard]:
    """All guards of a comparison.

    Args:
        base, tuned: on the same prompts about the dataset's split.
        sets: by name, both models on images of another kind.
    """
    for watched in (*_WATCHED, *_other_kinds(base)):
        before, after = (
            [watched.figure(found.answers[watched.kind]) for found in model.objects] for model in (base, tuned)
        )
        yield _guard(watched, before, after, base.groups)
    yield from _correction_guard(base, tuned)
    yield from _background_guard(base, tuned)
    for name, (first, second) in sets.items():
        for kind in KINDS:
            title = f"IoU of {_PLURALS[kind]} on {name}"
            watched = _Watched(f"{name}/{kind}", title, kind, _iou, BLEND_ADVICE, f"images like {name}")
            yield _guard(watched, first.values(kind), second.values(kind), first.groups, NOTICEABLE)


def guarded_split(guard: Dataset) -> Split:
    """Which images of a guard are looked at: the test split, or the first that has objects.

    Raises:
        DataError: no split has any.
    """
    splits = {image.split for image in guard.images if image.single_objects}
    found = next((split for split in (Split.TEST, Split.VALID, Split.TRAIN) if split in splits), None)
    if found is None:
        raise DataError.of(
            expected="a guard with annotated objects, which both models are asked for",
            found=f"{len(guard.images)} images without any",
            where=str(guard.root),
            do="annotate some, or leave it out of --guard",
        )
    return found


def _guard(
    watched: _Watched, before: list[float], after: list[float], groups: list[str], tolerance: float = NEGLIGIBLE
) -> Guard:
    return Guard(
        name=watched.name,
        title=watched.title,
        base=fmean(before),
        tuned=fmean(after),
        change=paired_change(before, after, groups),
        lower_is_better=watched.lower_is_better,
        advice=watched.advice,
        limits=watched.limits,
        tolerance=tolerance,
    )


def _other_kinds(base: Evaluation) -> Iterator[_Watched]:
    """Jittered boxes and rough outlines, as far as they were measured."""
    for kind in base.kinds:
        if kind not in KINDS:
            advice = BLEND_ADVICE if kind == MASK else _JITTER
            limits = "mask prompts" if kind == MASK else "boxes that are not exact"
            yield _Watched(kind, f"IoU of {kind_title(kind)}", kind, _iou, advice, limits)


def _correction_guard(base: Evaluation, tuned: Evaluation) -> Iterator[Guard]:
    """IoU after the last correction click, where corrections were simulated."""
    if not base.objects[0].clicks:
        return
    before, after = ([found.clicks[-1] for found in model.objects] for model in (base, tuned))
    title = f"IoU after {len(base.objects[0].clicks)} clicks"
    advice = "Train with correction clicks (--prompts interactive)."
    watched = _Watched("corrections", title, "point", _iou, advice, "correction clicks")
    yield _guard(watched, before, after, base.groups)


def _background_guard(base: Evaluation, tuned: Evaluation) -> Iterator[Guard]:
    """Share of background clicks that are answered with "nothing here"."""
    if not base.background:
        return
    before, after = ([float(click.is_refused) for click in model.background] for model in (base, tuned))
    title = "Share of background clicks answered with 'nothing here'"
    advice = "Train on more background clicks (--prompts.negative 0.2)."
    watched = _Watched("background_refused", title, "point", _iou, advice, "automatic masks")
    yield _guard(watched, before, after, [click.group for click in base.background])


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


_PLURALS = {"box": "exact boxes", "point": "single clicks"}
_JITTER = "Train with box noise (--prompts.box-jitter 0.1)."
_THREE = "Train all masks of the decoder (the default losses do)."
_RANKING = "ranking masks by predicted IoU"
_WATCHED = (
    _Watched("box", "IoU of exact boxes", "box", _iou, "Train on boxes too (--prompts mixture).", "box"),
    _Watched("click", "IoU of one click", "point", _iou, _CLICKS, "point"),
    _Watched(
        "box_first_of_three", "IoU of the guess ranked first of three, box", "box", _first, _THREE, "three guesses"
    ),
    _Watched("box_best_of_three", "IoU of the best of three guesses, box", "box", _best, _THREE, "three guesses"),
    _Watched(
        "click_first_of_three", "IoU of the guess ranked first of three, one click", "point", _first, _CLICKS, "point"
    ),
    _Watched("click_best_of_three", "IoU of the best of three guesses, one click", "point", _best, _CLICKS, "point"),
    _Watched("predicted_iou_box", "Error of the predicted IoU, boxes", "box", _error, _TRUST, _RANKING, True),
    _Watched(
        "predicted_iou_click",
        "Error of the predicted IoU, one click",
        "point",
        _error,
        f"{_TRUST} {_CLICKS}",
        _RANKING,
        True,
    ),
)
"""The figures of boxes and clicks; tools rank masks by the predicted IoU and show the best of three guesses."""
