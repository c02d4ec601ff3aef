"""Which images to label next: signs of doubt by hand, copies of known images last, copies of each other apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from samtune import api
from samtune.config import FinderConfig, RankConfig, TrainConfig
from samtune.errors import DataError
from samtune.finder.storage import load_finder, save_finder
from samtune.inference.predictor import Predictor
from samtune.labelling.doubt import Doubt, masks_iou, measure_doubt, mirrored_prompts
from samtune.model.io.load import load_model
from samtune.prompts.batch import PromptBatch
from tests.small import make_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    root = tmp_path_factory.mktemp("run")
    make_dataset(root / "set", train=4, valid=2, test=2, empty=0)
    config = TrainConfig(model=str(tiny_folder), steps=2, out=root / "run", eval_objects=4, device="cpu")
    return api.train(root / "set", config, finder=False, quiet=True).folder


@pytest.fixture
def images(tmp_path, run):
    """A copy of a labelled image, a strange one twice, three ordinary ones, and a broken file."""
    folder = tmp_path / "images"
    folder.mkdir()
    labelled = run.parent / "set/images"
    (folder / "known.png").write_bytes((labelled / "train-0.png").read_bytes())
    more = make_dataset(tmp_path / "more", train=3, valid=0, test=0, empty=0, seed=9)
    for number, image in enumerate(more.images):
        (folder / f"plain-{number}.png").write_bytes((more.root / image.image_path).read_bytes())
    strange = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    for name in ("strange-a.png", "strange-b.png"):
        Image.fromarray(strange).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_unlike_images_first_copies_last(images, run, tmp_path):
    config = RankConfig(doubt_weight=0, points_per_side=3)
    found = api.rank_images(images, run, config, out=tmp_path / "next.json", quiet=True)
    order = [one.image for one in found.ranked]
    assert order[0] == "strange-a.png"
    assert set(order[-2:]) == {"known.png", "strange-b.png"}
    last = {one.image: one for one in found.ranked}
    assert last["known.png"].unlike == pytest.approx(0, abs=0.05)
    assert last["known.png"].nearest == "images/train-0.png"
    assert (last["strange-b.png"].unlike, last["strange-b.png"].nearest) == (0, "strange-a.png")
    assert [name for name, _ in found.unread] == ["broken.png"]
    assert found.labelled == 8
    content = json.loads((tmp_path / "next.json").read_text())
    assert [one["image"] for one in content["ranked"]] == order
    table = pl.read_csv(tmp_path / "next.csv")
    assert table["image"].to_list() == order
    assert {"rank", "score", "doubt", "unlike", "disagreement", "predicted_error", "views"} <= set(table.columns)
    assert any("broken.png" in line for line in found.lines())


def test_doubt_alone_orders_by_doubt(images, run):
    config = RankConfig(doubt_weight=1, points_per_side=3, most=3, views=False)
    found = api.rank_images(images, run, config, quiet=True)
    assert len(found.ranked) == 3
    doubts = [one.doubt for one in found.ranked]
    assert doubts == sorted(doubts, reverse=True)
    assert all(one.signs.views is None for one in found.ranked)


def test_a_finder_proposes_what_is_asked(images, run, tmp_path):
    api.train_finder(run, FinderConfig(steps=3, device="cpu"), quiet=True)
    found = api.rank_images(images, run, RankConfig(points_per_side=3), quiet=True)
    assert found.prompts == "finder" and not any("another decoder" in line for line in found.lines())
    other = shutil.copytree(run, tmp_path / "run")
    save_finder(replace(load_finder(run), decoder="of other weights"), other / "finder")
    elsewhere = api.rank_images(images, other, RankConfig(points_per_side=3, views=False), quiet=True)
    assert any("another decoder" in line for line in elsewhere.lines())
    for one in found.ranked:
        assert (one.signs.undecided is None) == (one.signs.prompts == 0)


def test_the_signs_by_hand(tiny_folder):
    predictor = Predictor(load_model(tiny_folder))
    pixels = np.random.default_rng(1).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    embedded, mirrored = predictor.embed(pixels), predictor.embed(np.ascontiguousarray(pixels[:, ::-1]))
    found = measure_doubt(predictor, embedded, mirrored, finder=None, points_per_side=2, most=9)
    points = torch.tensor([[x, y] for y in (16.0, 48.0) for x in (16.0, 48.0)])[:, None]
    one = predictor.decode(embedded, PromptBatch.from_clicks(points))
    other = predictor.decode(
        mirrored, PromptBatch.from_clicks(torch.tensor([63.0, 0.0]) - points * torch.tensor([1.0, -1.0]))
    )
    disagreements, errors, views = [], [], []
    for row in range(4):
        if one.object_score_logits[row] <= 0:
            continue
        masks, best = one.masks[row] > 0, 1 + int(one.iou_scores[row, 1:].argmax())
        ious = [
            float((masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum().clamp(min=1))
            for a, b in ((1, 2), (1, 3), (2, 3))
        ]
        disagreements.append(1 - np.mean(ious))
        errors.append(1 - float(one.iou_scores[row, best].clamp(0, 1)))
        flipped = (other.masks[row, best] > 0).flip(1)
        views.append(1 - float((masks[best] & flipped).sum() / (masks[best] | flipped).sum().clamp(min=1)))
    assert found.prompts == len(errors)
    if errors:
        assert found.disagreement == pytest.approx(np.mean(disagreements), abs=1e-5)
        assert found.predicted_error == pytest.approx(np.mean(errors), abs=1e-5)
        assert found.views == pytest.approx(np.mean(views), abs=1e-5)


def test_mirrored_boxes_stay_boxes_and_two_empty_masks_agree():
    boxes = PromptBatch.from_boxes(torch.tensor([[10.0, 5.0, 30.0, 25.0]]))
    assert mirrored_prompts(boxes, 64).points.flatten().tolist() == [34, 5, 54, 25]
    assert masks_iou(np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)) == 1
    assert Doubt(0).value is None
    assert Doubt(3, 0.2, 0.4, None, 0.6).value == pytest.approx(0.4)


def test_no_readable_image_is_named(tmp_path, tiny_folder):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="can be read"):
        api.rank_images(tmp_path, tiny_folder, quiet=True)
    with pytest.raises(DataError, match="no such file"):
        api.rank_images(tmp_path / "none", tiny_folder, out=tmp_path / "next.json", quiet=True)
    assert not (tmp_path / "next.json").exists()


def test_without_anything_labelled_images_are_compared_with_each_other(images, tiny_folder):
    found = api.rank_images(images, tiny_folder, RankConfig(doubt_weight=0, points_per_side=2, views=False), quiet=True)
    assert found.labelled == 0
    assert (found.ranked[0].unlike, found.ranked[0].nearest) == (1, "")
    assert found.ranked[-1].unlike == 0
