"""Evaluation on a small dataset with a random model: every figure against the predictor's own masks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import astuple, replace

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from scipy import ndimage
from scipy.spatial import Delaunay

from samtune.config import CacheConfig, EvalConfig
from samtune.data.masks import write_mask_file
from samtune.errors import DataError
from samtune.evaluation.boundaries import Boundary
from samtune.evaluation.comparison import compare
from samtune.evaluation.fixed_prompts import ObjectPrompts, PromptSet, TrueMasks, make_prompts, masks_of
from samtune.evaluation.full_size import full_size_masks, overlap_of
from samtune.evaluation.metrics import Overlap, box_mask, ellipse_mask
from samtune.evaluation.protocol import evaluate, evaluate_all, read_truth, spread
from samtune.evaluation.results import Evaluation
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.model.preprocess import mask_prompt, upscale_masks
from samtune.types import Prompt
from tests.small import make_dataset
from tests.test_distributed import environment, free_port
from tests.tiny import tiny_sam2

JITTERED = "box_jitter_0.2"
CONFIG = EvalConfig(clicks=2, jitter=(0.2,), boundaries=True)


@pytest.fixture(scope="module")
def predictor(tiny_folder):
    return Predictor(load_model(tiny_folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", train=1, valid=1, test=5, empty=1)


@pytest.fixture(scope="module")
def found(predictor, dataset):
    return evaluate(predictor, dataset, CONFIG, name="tiny")


@pytest.fixture(scope="module")
def prompts(dataset):
    return make_prompts(dataset, CONFIG)


def test_every_figure_is_that_of_the_mask_that_a_user_gets(predictor, dataset, found, prompts):
    asked = {one.annotation_id: one for image in prompts.images for one in image.objects}
    results = {one.annotation_id: one for one in found.objects}
    for image in dataset.split("test").images:
        embedded = predictor.embed(dataset.read_image(image))
        for entry in image.objects:
            truth, result = dataset.read_mask(entry), results.pop(entry.annotation_id)
            (box,) = predictor.predict(embedded, [Prompt.box(*entry.box)])
            assert result.answers["box"].iou == pytest.approx(Overlap.of(box.masks[0], truth).iou, abs=1e-3)
            assert result.answers["box"].dice == pytest.approx(Overlap.of(box.masks[0], truth).dice, abs=1e-3)
            assert result.answers["box"].predicted_iou == pytest.approx(box.iou_scores[0], abs=1e-5)
            (moved,) = predictor.predict(embedded, [Prompt.box(*asked[entry.annotation_id].jittered_boxes[JITTERED])])
            assert result.answers[JITTERED].iou == pytest.approx(Overlap.of(moved.masks[0], truth).iou, abs=1e-3)
            assert result.answers[JITTERED].best_of_three is None
            assert result.filled_box == Overlap.of(box_mask(entry.box, *truth.shape), truth).iou
            assert result.ellipse == Overlap.of(ellipse_mask(entry.box, *truth.shape), truth).iou
            for kind, prompt in (("box", Prompt.box(*entry.box)), ("point", Prompt.clicks([_deepest(truth)]))):
                (three,) = predictor.predict(embedded, [prompt], multimask_output=True)
                ious = [Overlap.of(mask, truth).iou for mask in three.masks]
                answer = result.answers[kind]
                assert answer.best_of_three == pytest.approx(max(ious), abs=1e-3)
                assert answer.first_of_three == pytest.approx(ious[int(three.iou_scores.argmax())], abs=1e-3)
                expected = Boundary.of(_single(predictor, embedded, prompt), truth)
                assert astuple(answer.boundary) == pytest.approx(astuple(expected), rel=1e-6)
            hull = ndimage.binary_fill_holes(_hull(truth))
            click = Prompt.clicks([_deepest(truth)])
            outline = replace(click, input_mask=mask_prompt(_at_input(hull), predictor.loaded.mask_size)[None].numpy())
            (mask,) = predictor.predict(embedded, [outline])
            assert result.answers["mask"].iou == pytest.approx(Overlap.of(mask.masks[0], truth).iou, abs=0.05)
    assert not results


def _single(predictor, embedded, prompt):
    return predictor.predict(embedded, [prompt])[0].masks[0]


def _hull(mask):
    """The pixels whose centre lies in the convex hull of a mask's pixels, searched by triangulation."""
    points = np.argwhere(mask)
    hull = Delaunay(points)
    return (hull.find_simplex(np.argwhere(np.ones_like(mask))) >= 0).reshape(mask.shape)


def _at_input(mask):
    rows, columns = ((np.arange(64) + 0.5) * side / 64 for side in mask.shape)
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


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
    again = evaluate(predictor, dataset, CONFIG.model_copy(update={"chunk": 1}), name="tiny")
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
    "another format": lambda content: content | {"format": 2},
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


@pytest.mark.parametrize("size", [(72, 80), (333, 517), (16, 16), (50, 1300)])
def test_masks_at_full_size_are_those_of_the_logits_upscaled_whole(size):
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.randn(3, 4, 6, 5, generator=generator) - torch.tensor([-9.0, 0.0, 1.5, 9.0])[:, None, None]
    low_res = torch.nn.functional.interpolate(coarse, (24, 24), mode="bilinear")
    whole = (upscale_masks(low_res, size) > 0).numpy()
    truth = full_size_masks(low_res[:1, 1:2], size)[0][0]
    for row, masks in enumerate(full_size_masks(low_res, size)):
        for number, found in enumerate(masks):
            expected = whole[row, number]
            pasted = found.paste(*size) if found.mask.size else np.zeros(size, bool)
            assert np.count_nonzero(pasted != expected) <= 1e-4 * expected.size
            assert overlap_of(found, truth) == Overlap.of(pasted, truth.paste(*size))


@pytest.mark.parametrize("size", [(72, 80), (333, 517), (20, 31)])
def test_outlines_are_those_of_the_whole_mask_brought_down(size):
    rng = np.random.default_rng(size[0])
    limit = np.array(size[::-1])
    asked = []
    for number in range(30):
        middle, reach = rng.random(2) * limit, rng.random() * max(size) / 2
        points = (middle + rng.normal(size=(rng.integers(1, 9), 2)) * reach).clip(0, limit - 1).round()
        hull = cv2.convexHull(points.astype(np.int32)).reshape(-1).tolist()
        asked.append(ObjectPrompts(str(number), (0, 0, 1, 1), {}, (1, 1), tuple(map(float, hull))))
    found = masks_of(asked, size, 96).masks
    assert found is not None
    for logits, one in zip(found[:, 0], asked, strict=True):
        whole = np.zeros((384, 384), np.uint8)
        points = (np.array(one.outline).reshape(-1, 2) + 0.5) * 384 / limit - 0.5
        cv2.fillPoly(whole, [points.round().astype(np.int32)], 1)
        assert torch.allclose(logits, mask_prompt(whole.astype(bool), 96), atol=1e-5)


def test_masks_read_once_are_kept_as_they_were(dataset):
    kept = TrueMasks(dataset)
    for image in dataset.images:
        for one in image.objects:
            first, again, alone = kept(one), kept(one), read_truth(dataset, one)
            assert first.box == again.box == alone.box
            assert (again.mask == alone.mask).all()
            assert (first.mask == alone.mask).all()


def test_kept_embeddings_change_no_figure_and_spare_reading_the_images(predictor, dataset, found, tmp_path):
    keep = CacheConfig(cache_dir=tmp_path / "cache", cache_dtype="fp32")
    assert evaluate(predictor, dataset, CONFIG, name="tiny", keep=keep) == found
    entries = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(entries) == len(dataset.split("test").images)
    assert evaluate(predictor, dataset, CONFIG, name="tiny", keep=keep) == found
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")} == entries
    inside = evaluate(predictor, dataset, CONFIG.model_copy(update={"cache": True}), name="tiny")
    assert inside.objects == found.objects
    assert (dataset.root / "embeddings").is_dir()
    shutil.rmtree(dataset.root / "embeddings")


def test_prompts_in_a_file_are_the_same_prompts(predictor, dataset, found, prompts, tmp_path):
    prompts.save(tmp_path / "prompts.json")
    again = PromptSet.load(tmp_path / "prompts.json")
    assert again == prompts == make_prompts(dataset, CONFIG)
    assert evaluate(predictor, dataset, CONFIG, name="tiny", prompts=again) == found
    other = make_prompts(dataset, CONFIG.model_copy(update={"seed": 1}))
    assert other.images[0].objects[0].jittered_boxes != prompts.images[0].objects[0].jittered_boxes
    assert other.images[0].objects[0].click == prompts.images[0].objects[0].click


def test_jittered_boxes_move_by_at_most_their_share(dataset):
    made = make_prompts(dataset, EvalConfig(jitter=(0.1, 0.3)))
    for image in made.images:
        for one in image.objects:
            x0, y0, x1, y1 = one.box
            for kind, share in (("box_jitter_0.1", 0.1), ("box_jitter_0.3", 0.3)):
                moved = np.abs(np.subtract(one.jittered_boxes[kind], one.box))
                assert (moved <= share * np.array([x1 - x0, y1 - y0] * 2) + 1e-4).all()
                assert moved.any()


CHANGES = {
    "split": (lambda prompts: replace(prompts, split="valid"), "choose --split valid"),
    "an image": (lambda p: replace(p, images=(replace(p.images[0], image_path="images/other.png"),)), "other.png"),
    "its size": (lambda p: replace(p, images=(replace(p.images[0], width=7),)), "7 x"),
    "an object": (lambda p: _with_object(p, annotation_id="lost"), "lost"),
    "its box": (lambda p: _with_object(p, box=(0.0, 0.0, 1.0, 1.0)), "object"),
}


def _with_object(prompts, **changes):
    image = prompts.images[0]
    objects = (replace(image.objects[0], **changes), *image.objects[1:])
    return replace(prompts, images=(replace(image, objects=objects), *prompts.images[1:]))


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_prompts_about_something_else_are_named(predictor, dataset, prompts, change, words):
    with pytest.raises(DataError, match=words):
        evaluate(predictor, dataset, CONFIG, prompts=change(prompts))


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 9}', '{"format": 1, "dataset": 3}', "no JSON"])
def test_a_damaged_prompt_file_is_named(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(DataError, match=r"prompts\.json"):
        PromptSet.load(tmp_path / "prompts.json")


def test_figures_of_edges_are_summed_up_where_they_were_measured(found):
    of_boxes = [one.answers["box"].boundary for one in found.objects]
    ours = found.boundaries("box")
    assert ours["iou"].mean == pytest.approx(sum(one.iou for one in of_boxes) / len(of_boxes))
    assert ours["hausdorff_95"].mean == pytest.approx(sum(one.hausdorff_95 for one in of_boxes) / len(of_boxes))
    assert found.to_json()["summary"]["point"]["boundary"]["f_score"]["count"] == len(of_boxes)
    assert found.boundaries(JITTERED) == {}
    assert found.to_json()["summary"][JITTERED]["boundary"] is None
    assert sum("boundary IoU" in line for line in found.lines()) == 2
    same = compare(found, found)
    assert {name: one.change.mean for name, one in same.boundaries["point"].items()} == {
        "iou": 0,
        "f_score": 0,
        "surface_dice": 0,
    }
    assert json.loads(json.dumps(same.to_json()))["boundaries"]["box"]["iou"]["state"] == "unclear"


def test_the_parquet_file_has_a_row_for_each_object_and_prompt(found, tmp_path):
    found.save(tmp_path / "a.json")
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert len(table) == len(found.objects) * len(found.kinds) == len(found.objects) * 4
    for kind in found.kinds:
        assert table.filter(pl.col("kind") == kind)["iou"].to_list() == found.values(kind)
    assert set(table["size"]) <= {"tiny", "small", "medium", "large"}
    assert table.filter(pl.col("kind") == "point")["boundary_iou"].null_count() == 0
    summaries = found.by("size", "box")
    assert sum(one.count for one in summaries.values()) == len(found.objects)
    assert set(found.by("image_path", "box")) == {one.image_path for one in found.objects}


def test_two_processes_find_what_one_finds(dataset, tiny_folder, tmp_path):
    command = [sys.executable, "-m", "samtune", "evaluate", str(dataset.root), "--model", str(tiny_folder), "--quiet"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    options = ["--device", "cpu", "--clicks", "1"]
    for name, start in (("one", command), ("two", [*torchrun, *command[1:]])):
        done = subprocess.run(
            [*start, *options, "--out", str(tmp_path / f"{name}.json")],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("exact box") == 1
    assert Evaluation.load(tmp_path / "two.json") == Evaluation.load(tmp_path / "one.json")
