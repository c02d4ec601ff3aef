"""Evaluation on a small dataset with a random model: every figure against the predictor's own masks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from samtune.config import EvalConfig
from samtune.data.masks import write_mask_file
from samtune.errors import DataError
from samtune.evaluation.metrics import Overlap, box_mask, ellipse_mask
from samtune.evaluation.protocol import evaluate, evaluate_all, read_truth, spread
from samtune.evaluation.results import Evaluation
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.types import Prompt
from tests.small import make_dataset
from tests.tiny import tiny_sam2


@pytest.fixture(scope="module")
def predictor(tiny_folder):
    return Predictor(load_model(tiny_folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", train=1, valid=1, test=5, empty=1)


@pytest.fixture(scope="module")
def found(predictor, dataset):
    return evaluate(predictor, dataset, EvalConfig(clicks=2), name="tiny")


def test_every_figure_is_that_of_the_mask_a_user_is_handed(predictor, dataset, found):
    results = {one.annotation_id: one for one in found.objects}
    for image in dataset.split("test").images:
        embedded = predictor.embed(dataset.read_image(image))
        for entry in image.objects:
            truth, result = dataset.read_mask(entry), results.pop(entry.annotation_id)
            (box,) = predictor.predict(embedded, [Prompt.box(*entry.box)])
            assert result.answers["box"].iou == pytest.approx(Overlap.of(box.masks[0], truth).iou, abs=1e-3)
            assert result.answers["box"].dice == pytest.approx(Overlap.of(box.masks[0], truth).dice, abs=1e-3)
            assert result.answers["box"].predicted_iou == pytest.approx(box.iou_scores[0], abs=1e-5)
            assert result.answers["box"].best_of_three is None
            assert result.filled_box == Overlap.of(box_mask(entry.box, *truth.shape), truth).iou
            assert result.ellipse == Overlap.of(ellipse_mask(entry.box, *truth.shape), truth).iou
            center = _deepest(truth)
            (three,) = predictor.predict(embedded, [Prompt.clicks([center])], multimask_output=True)
            ious = [Overlap.of(mask, truth).iou for mask in three.masks]
            point = result.answers["point"]
            assert point.best_of_three == pytest.approx(max(ious), abs=1e-3)
            assert point.first_of_three == pytest.approx(ious[int(three.iou_scores.argmax())], abs=1e-3)
    assert not results


def _deepest(mask):
    """The set pixel farthest from any that is not set, searched by hand."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    inside = np.argwhere(padded)
    depth = [((outside - pixel) ** 2).sum(1).min() for pixel in inside]
    row, column = inside[int(np.argmax(depth))] - 1
    return float(column), float(row)


@pytest.mark.parametrize("part", ["mask_decoder.iou_prediction_head", "vision_encoder.backbone.patch_embed"])
def test_models_measured_together_get_the_figures_they_get_alone(predictor, dataset, tmp_path, part):
    """Whether they share their encoder, so that an image is embedded once for both, or not."""
    other = tiny_sam2(seed=0)
    for parameter in other.get_submodule(part).parameters():
        parameter.data.mul_(1.5)
    save_model(other, tmp_path / "other")
    both, config = (predictor, Predictor(load_model(tmp_path / "other"))), EvalConfig(clicks=1)
    together = evaluate_all(both, dataset, config, names=("first", "second"))
    assert together == [
        evaluate(one, dataset, config, name=name) for one, name in zip(both, ("first", "second"), strict=True)
    ]
    assert together[0].objects != together[1].objects


def test_annotators_start_with_the_same_click_and_go_on(found):
    for one in found.objects:
        assert len(one.clicks) == 3
        assert one.clicks[0] == one.answers["point"].iou
    assert any(len(set(one.clicks)) > 1 for one in found.objects)
    needed = found.clicks_needed(0.0)
    assert (needed.clicks, needed.failed) == (1.0, 0.0)
    hopeless = found.clicks_needed(1.1)
    assert (hopeless.clicks, hopeless.failed) == (3.0, 1.0)


def test_background_clicks_cover_empty_images_and_stay_the_same(predictor, dataset, found):
    assert len(found.background) == 3 * found.images == 15
    again = evaluate(predictor, dataset, EvalConfig(clicks=2, chunk=1), name="tiny")
    assert [click.object_score for click in again.background] == [click.object_score for click in found.background]
    assert again.values("box") == pytest.approx(found.values("box"), abs=1e-3)


def test_saved_and_loaded_it_is_the_same(found, tmp_path):
    found.save(tmp_path / "a.json")
    again = Evaluation.load(tmp_path / "a.json")
    assert again == found
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert any("exact box" in line for line in again.lines())


DAMAGES = {
    "another format": lambda content: content | {"format": 1},
    "no objects": lambda content: content | {"objects": []},
    "no groups": lambda content: content | {"objects": [{"image_path": "x"}]},
    "words": lambda content: content | {"images": "many"},
    "a list": lambda content: [content],
    "no answer": lambda content: content | {"objects": [content["objects"][0] | {"answers": {}}]},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(found, tmp_path, damage):
    (tmp_path / "a.json").write_text(json.dumps(damage(found.to_json())))
    with pytest.raises(DataError, match=r"a\.json"):
        Evaluation.load(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        Evaluation.load(tmp_path / "nowhere.json")


def test_a_split_without_objects_says_where_they_are(predictor, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=2, valid=1, test=1, empty=1)
    with pytest.raises(DataError, match="choose --split train"):
        evaluate(predictor, dataset, EvalConfig(split="test"))


def test_crowds_are_left_out_and_some_objects_are_spread(dataset):
    images = dataset.split("test").images
    everything = [one for _, objects in spread(images, 0) for one in objects]
    some = [one for _, objects in spread(images, 3) for one in objects]
    assert len(some) == 3
    assert (some[0], some[-1]) == (everything[0], everything[-1])
    crowd = replace(images[0], objects=tuple(replace(one, iscrowd=True) for one in images[0].objects))
    assert spread([crowd], 0) == []


def test_an_empty_mask_file_is_named(dataset):
    entry = dataset.split("test").images[0].objects[0]
    path = dataset.root / "masks/empty.png"
    write_mask_file(path, np.zeros((72, 80), bool))
    with pytest.raises(DataError, match=r"empty\.png"):
        read_truth(dataset, replace(entry, mask_path="masks/empty.png"))
