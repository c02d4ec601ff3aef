"""Blends: the weights in between, the curve, which one is taken, and a folder that loads as any model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from samtune import api
from samtune.config import EvalConfig
from samtune.errors import ConfigError, ModelError
from samtune.evaluation.blend import Blender, BlendPoint, best_of, beyond, point_of, sweep
from samtune.evaluation.comparison import compare
from samtune.evaluation.protocol import evaluate
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from tests.small import make_dataset
from tests.tiny import tiny_sam2

FEW = EvalConfig(split="valid", jitter=(), mask_prompt=False, clicks=0)


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory):
    """The tiny model with another decoder, as after tuning."""
    model, other = tiny_sam2(seed=0), tiny_sam2(seed=1)
    model.mask_decoder.load_state_dict(other.mask_decoder.state_dict())
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    save_model(model, folder)
    return folder


def test_weights_lie_in_between_and_the_ends_are_exact(tiny_folder, tuned_folder):
    base, tuned = load_model(tiny_folder), load_model(tuned_folder)
    first = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    second = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    blender = Blender(base, tuned)
    for alpha in (0.3, 1.0, 0.0, 1.0):
        state = blender.set(alpha).model.state_dict()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, first[name] + alpha * (second[name] - first[name]))
    assert all(torch.equal(tensor, second[name]) for name, tensor in blender.loaded.model.state_dict().items())
    assert all(torch.equal(tensor, first[name]) for name, tensor in base.model.state_dict().items())


def test_the_sweep_measures_what_evaluate_measures(tiny_folder, tuned_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=3, test=2, empty=0)
    base, tuned = load_model(tiny_folder), load_model(tuned_folder)
    points = sweep(base, tuned, dataset, FEW, guards={"other": dataset}, alphas=(0.0, 0.5, 1.0))
    before, after = (evaluate(Predictor(load_model(one)), dataset, FEW) for one in (tiny_folder, tuned_folder))
    for kind in ("box", "point"):
        gain = after.summary(kind).mean - before.summary(kind).mean
        assert points[-1].gains[kind] == pytest.approx(gain, abs=1e-6)
        assert points[0].gains[kind] == 0
    assert not points[0].damaged
    assert set(points[0].guards) >= {"other/box", "other/point", "background_refused"}


def moved(tiny_folder, dataset, by):
    """Two evaluations whose predicted IoU of every other object is off by so much more."""
    before = evaluate(Predictor(load_model(tiny_folder)), dataset, FEW)
    right = [
        replace(one, answers={kind: replace(a, predicted_iou=a.iou) for kind, a in one.answers.items()})
        for one in before.objects
    ]
    wrong = [
        replace(one, answers={kind: replace(a, predicted_iou=a.iou + by(row)) for kind, a in one.answers.items()})
        for row, one in enumerate(right)
    ]
    return replace(before, objects=tuple(right)), replace(before, objects=tuple(wrong), weights="other")


@pytest.mark.parametrize(
    ("images", "by", "is_damaged"),
    [(8, lambda row: 0.02, True), (8, lambda row: 0.3 if row == 0 else 0.0, False), (2, lambda row: 0.02, True)],
    ids=["sure", "one object", "too few groups to be sure"],
)
def test_a_guard_is_damaged_where_the_interval_says_so(tiny_folder, tmp_path, images, by, is_damaged):
    dataset = make_dataset(tmp_path / "set", train=0, valid=images, test=0, empty=0)
    base, tuned = moved(tiny_folder, dataset, by)
    found = point_of(0.5, compare(base, tuned))
    assert found.guards["predicted_iou_box"] < -0.005
    assert ("predicted_iou_box" in found.damaged) is is_damaged


def point(alpha, gain, *damaged):
    return BlendPoint(alpha, {"box": gain, "point": 0.0}, {}, damaged)


def test_the_blend_taken_has_nearly_the_largest_gain_of_those_that_damage_nothing():
    points = [point(0.0, 0.0), point(0.3, 0.02), point(0.5, 0.015), point(0.8, 0.04, "click")]
    assert best_of(points).alpha == 0.3
    assert beyond(points) == ()
    assert beyond([*points, point(0.4, 0.03, "click")]) == pytest.approx((0.325, 0.35, 0.375))
    assert beyond([point(0.0, 0.0), point(0.5, 0.02), point(1.0, 0.03)]) == ()
    flat = [point(0.0, 0.0), point(0.3, 0.017), point(0.4, 0.0181), point(0.5, 0.02), point(0.6, 0.02, "click")]
    assert (best_of(flat).alpha, beyond(flat)[0]) == (0.4, pytest.approx(0.525))
    assert best_of([point(0.0, 0.0), point(0.5, -0.01), point(1.0, 0.1, "click")]).alpha == 0.0


def test_a_blend_is_a_model_like_any_other(tiny_folder, tuned_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=1, test=0, empty=0)
    found = api.blend(
        tiny_folder, tuned_folder, tmp_path / "blend", dataset=dataset.root, config=FEW, guard_scenes=0, quiet=True
    )
    alphas = [one.alpha for one in found.points]
    assert alphas == sorted(alphas)
    assert set(alphas) >= {number / 10 for number in range(11)}
    again = json.loads((tmp_path / "blend/blend.json").read_text())
    assert (again["alpha"], len(again["points"])) == (found.alpha, len(found.points))
    api.blend(tiny_folder, tuned_folder, tmp_path / "blend", 0.25, quiet=True)
    blended, base, tuned = (
        load_model(one).model.state_dict() for one in (tmp_path / "blend", tiny_folder, tuned_folder)
    )
    name = "mask_decoder.iou_token.weight"
    torch.testing.assert_close(blended[name], 0.75 * base[name] + 0.25 * tuned[name])


def test_what_cannot_be_blended_is_named(tiny_folder, tuned_folder, tmp_path):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        api.blend(tiny_folder, tuned_folder, tmp_path / "out", 1.5)
    with pytest.raises(ConfigError, match="--dataset"):
        api.blend(tiny_folder, tuned_folder, tmp_path / "out")
    save_model(tiny_sam2(seed=0, size=128), tmp_path / "larger")
    with pytest.raises(ModelError, match="one architecture"):
        api.blend(tiny_folder, tmp_path / "larger", tmp_path / "out", 0.5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        api.blend(tiny_folder, tuned_folder, tmp_path / "mine", 0.5)
    assert not (tmp_path / "out").exists()
