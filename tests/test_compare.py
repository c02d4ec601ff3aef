"""Verdicts on evaluations made by hand: what is better, worse, unclear, damaged; and what must not be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from samtune.config import EvalConfig
from samtune.errors import DataError
from samtune.evaluation.comparison import compare, ranked
from samtune.evaluation.results import Answer, BackgroundResult, Evaluation, ObjectResult


def evaluation(box, *, point=0.5, predicted=None, score=-1.0, groups=None, split="test", weights="a"):
    """An evaluation whose object i has the box IoU `box[i]`."""
    objects = []
    for number, iou in enumerate(box):
        score_of_box = iou if predicted is None else predicted
        answers = {
            "box": Answer(iou, iou, score_of_box, 1.0, iou, iou),
            "point": Answer(point, point, point, 1.0, point, point),
        }
        group = f"group {number % 10}" if groups is None else groups[number]
        objects.append(ObjectResult(f"{number}.jpg", str(number), "cat", group, 9, 0.3, 0.4, answers))
    background = tuple(BackgroundResult(f"{n}.jpg", f"group {n}", score if n else -1.0) for n in range(10))
    return Evaluation("m", weights, "set", EvalConfig(split=split), 10, 0, 0, tuple(objects), background)


BASE = [0.5 + 0.01 * (number % 7) for number in range(30)]


def shifted(by, spread=0.02):
    return [iou + by + spread * ((number * 7) % 10 - 4.5) / 4.5 for number, iou in enumerate(BASE)]


@pytest.mark.parametrize(
    ("by", "spread", "state", "outcome"),
    [
        (0.1, 0.02, "better", "ship"),
        (-0.1, 0.02, "worse", "do not ship"),
        (0.0, 0.2, "unclear", "too little data to say"),
        (0.0, 0.002, "unclear", "do not ship"),
    ],
)
def test_the_verdict_says_what_the_interval_says(by, spread, state, outcome):
    found = compare(evaluation(BASE), evaluation(shifted(by, spread), weights="b"))
    assert found.box.state == state
    assert found.verdict.outcome == outcome
    assert found.is_better == (state == "better")
    assert found.box.change.mean == pytest.approx(by, abs=0.01)
    content = found.to_json()
    assert (content["outcome"], content["verdict"]) == (outcome, str(found.verdict))


def test_one_group_of_images_gives_no_verdict():
    groups = ["one"] * 30
    found = compare(evaluation(BASE, groups=groups), evaluation(shifted(0.1), groups=groups, weights="b"))
    assert found.verdict.outcome == "too little data to say"
    assert found.box.state == "unclear"


def test_two_held_out_objects_give_no_verdict_but_what_was_seen():
    """It used to say that tuning helped."""
    found = compare(evaluation([0.5, 0.52]), evaluation([0.7, 0.72001], weights="b"))
    assert found.box.is_better
    assert found.verdict.outcome == "too little data to say"
    assert "hold out more images" in str(found.verdict)
    assert any("0.510 -> 0.710" in reason for reason in found.verdict.reasons)
    assert not found.verdict.meets("some")


def test_few_groups_give_no_verdict_however_many_objects():
    groups = [f"group {number % 4}" for number in range(30)]
    found = compare(evaluation(BASE, groups=groups), evaluation(shifted(0.1), groups=groups, weights="b"))
    assert found.verdict.outcome == "too little data to say"


def test_a_gain_for_boxes_that_costs_clicks_ships_for_boxes_only():
    found = compare(evaluation(BASE), evaluation(shifted(0.1), point=0.3, weights="b"))
    assert found.verdict.outcome == "ship for these prompts only"
    assert found.verdict.prompts == ("box",)
    assert "clicks" in found.verdict.excluded
    assert "Ship for boxes only" in str(found.verdict)
    assert (found.verdict.meets("some"), found.verdict.meets("ship")) == (True, False)


def test_a_gain_for_clicks_that_costs_boxes_says_so():
    found = compare(evaluation(shifted(0.1)), evaluation(BASE, point=0.8, weights="b"))
    assert found.verdict.prompts == ("point",)
    assert any(reason.startswith("Boxes: ") and "worse" in reason for reason in found.verdict.reasons)
    assert found.verdict.outcome == "ship for these prompts only"


def test_the_same_weights_are_called_unchanged():
    found = compare(evaluation(BASE), evaluation(BASE))
    assert found.verdict.outcome == "do not ship"
    assert "same weights" in str(found.verdict)


def test_the_verdict_is_corrected_for_the_number_of_models():
    base, tuned = evaluation(BASE), evaluation(shifted(0.035, 0.05), weights="b")
    alone = compare(base, tuned)
    assert alone.verdict.outcome == "ship"
    assert compare(base, tuned, models=100).verdict.outcome == "too little data to say"


def test_counts_leave_out_what_nobody_would_notice():
    after = [BASE[0] + 0.3, BASE[1] - 0.3, BASE[2] + 0.01, *BASE[3:]]
    found = compare(evaluation(BASE), evaluation(after, weights="b"))
    assert (found.box.improved, found.box.worsened) == (1, 1)


def test_damage_is_named_and_only_damage():
    good = compare(evaluation(BASE), evaluation(shifted(0.1), weights="b"))
    assert good.warnings == []
    tuned = evaluation(shifted(0.1), point=0.2, predicted=0.1, score=2.0, weights="b")
    found = compare(evaluation(BASE), tuned)
    damaged = {guard.name for guard in found.guards if guard.is_damaged}
    assert damaged >= {"click", "click_best_of_three", "predicted_iou_box", "background_refused"}
    assert "predicted_iou_click" not in damaged
    assert len(found.warnings) == len(damaged)
    healed = {guard.name: guard.state for guard in compare(tuned, evaluation(BASE)).guards}
    assert healed["predicted_iou_box"] == healed["click"] == "better"


def with_kinds(found, jittered, mask, clicks):
    more = {"box_jitter_0.1": Answer(jittered, 0, 0, 0), "mask": Answer(mask, 0, 0, 0)}
    objects = tuple(replace(one, answers=one.answers | more, clicks=(0.5, clicks)) for one in found.objects)
    return replace(found, objects=objects)


def test_every_prompt_kind_and_other_images_are_guarded():
    base = with_kinds(evaluation(BASE), 0.5, 0.6, 0.8)
    tuned = with_kinds(evaluation(shifted(0.1), weights="b"), 0.4, 0.5, 0.7)
    forgotten = (evaluation(BASE), evaluation(shifted(-0.1), weights="b"))
    found = compare(base, tuned, sets={"scenes": forgotten})
    damaged = {guard.name for guard in found.guards if guard.is_damaged}
    assert damaged == {"box_jitter_0.1", "mask", "corrections", "scenes/box"}
    assert found.verdict.outcome == "ship for these prompts only"
    others = {"boxes that are not exact", "mask prompts", "correction clicks", "images like scenes"}
    assert set(found.verdict.excluded) == others
    assert found.clicks[1].change.mean == pytest.approx(-0.1)
    slight = (evaluation(BASE), evaluation(shifted(-0.015), weights="b"))
    guards = {guard.name: guard for guard in compare(base, tuned, sets={"scenes": slight}).guards}
    assert (guards["scenes/box"].state, guards["scenes/box"].is_damaged) == ("worse", False)


def test_several_models_are_ranked_by_outcome_and_gain():
    base = evaluation(BASE)
    gains = {"b": 0.05, "c": 0.1, "d": -0.1}
    found = ranked([compare(base, evaluation(shifted(by), weights=name), models=3) for name, by in gains.items()])
    assert [one.tuned.weights for one in found] == ["c", "b", "d"]


def test_what_makes_a_verdict_worth_less_is_said():
    worthless = compare(evaluation([0.2] * 30), evaluation([0.2 + n / 1000 for n in range(30)], weights="b"))
    assert sum("without any model" in warning for warning in worthless.warnings) == 2
    trained = compare(evaluation(BASE, split="train"), evaluation(shifted(0.1), split="train"))
    assert any("training images" in warning for warning in trained.warnings)
    assert any("same weights" in warning for warning in trained.warnings)


def test_only_the_same_prompts_are_compared():
    base = evaluation(BASE)
    for other in (evaluation(BASE[:-1]), replace(base, background=()), replace(base, config=EvalConfig(seed=1))):
        with pytest.raises(DataError, match="same objects"):
            compare(base, other)
