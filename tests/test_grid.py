"""The grid's thresholds: chosen on annotated images, kept in the run, used where none are given."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml

import samtune
from samtune.config import AutomaticConfig, PredictConfig
from samtune.errors import DataError, ModelError
from samtune.finder.grid import find_by_grid, fit_grid
from samtune.finder.matching import match
from samtune.finder.measure import compress, mask_iou, read_true
from samtune.inference.automatic import automatic_masks
from samtune.inference.predictor import Predictor
from samtune.inference.thresholds import GridThresholds, read_thresholds, with_thresholds, write_thresholds
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from tests.small import make_dataset
from tests.tiny import tiny_sam2

GRID = AutomaticConfig(points_per_side=6, min_area=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture
def run(tmp_path, dataset):
    """A run as far as predicting goes: its settings and its best weights, of a model that sees objects everywhere."""
    model = tiny_sam2(seed=0)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(100.0)
    folder = tmp_path / "run"
    save_model(model, folder / "checkpoints" / "best")
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": str(dataset.root)}))
    return folder


def f1_of(predictor, dataset, config):
    hits = finds = objects = 0
    for image in dataset.images:
        truth = read_true(dataset, image, ())
        found = automatic_masks(predictor, predictor.embed(dataset.read_image(image)), config)
        iou = mask_iou([compress(one.mask) for one in found], truth.masks).astype(np.float32)
        hits += int((match(iou, np.array([one.iou_score for one in found], np.float32), 0.5) >= 0).sum())
        finds, objects = finds + len(found), objects + len(truth.masks)
    return 2 * hits / (finds + objects)


def test_the_chosen_thresholds_give_the_f1_they_say_and_no_others_a_better_one(run, dataset):
    predictor = Predictor(load_model(run))
    fit = fit_grid(dataset, "valid", predictor, GRID, 32)
    split = dataset.split("valid")
    chosen = GRID.model_copy(
        update={name: getattr(fit.thresholds, name) for name in ("min_iou_score", "min_stability")}
    )
    assert f1_of(predictor, split, chosen) == pytest.approx(fit.f1[0], abs=1e-6)
    assert f1_of(predictor, split, GRID) == pytest.approx(fit.f1[1], abs=1e-6)
    for least, stability in ((0.0, 0.0), (0.3, 0.0), (0.5, 0.5), (0.4, 0.9)):
        other = GRID.model_copy(update={"min_iou_score": least, "min_stability": stability})
        assert f1_of(predictor, split, other) <= fit.f1[0] + 1e-6


def test_what_was_chosen_is_kept_in_the_run_and_counts_where_nothing_is_given(run, dataset, tmp_path):
    assert read_thresholds(load_model(run)) is None
    fit = samtune.fit_grid(run, dataset=dataset.root, config=GRID, quiet=True)
    loaded = load_model(run)
    assert read_thresholds(loaded) == fit.thresholds
    given = with_thresholds(GRID.model_copy(update={"min_stability": 0.123}), loaded)
    assert (given.min_iou_score, given.min_stability) == (fit.thresholds.min_iou_score, 0.123)
    shutil.copytree(dataset.root / "images", tmp_path / "images")
    asked = PredictConfig(everything=True, automatic=GRID)
    named = PredictConfig(everything=True, automatic=with_thresholds(GRID, loaded))
    counts = [
        samtune.predict(tmp_path / "images", run, tmp_path / f"out-{number}", config, quiet=True).objects
        for number, config in enumerate((asked, named))
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("is_fitted", [True, False])
def test_a_grid_keeps_what_its_users_get_and_ranks_more(run, dataset, is_fitted):
    predictor = Predictor(load_model(run))
    embedded = predictor.embed(dataset.read_image(dataset.split("test").images[0]))
    every = automatic_masks(predictor, embedded, AutomaticConfig(min_iou_score=0.0, min_stability=0.0))
    if is_fitted:
        least = float(np.median([one.iou_score for one in every]))
        figures = {"min_stability": 0.0, "precision": 0.5, "recall": 0.5, "chosen_on": "nothing"}
        write_thresholds(run, GridThresholds(min_iou_score=least, **figures))
    known = automatic_masks(predictor, embedded, with_thresholds(AutomaticConfig(), predictor.loaded))
    found = find_by_grid(predictor, embedded)
    assert found.kept.masks == [compress(one.mask) for one in known]
    assert found.kept.masks == found.ranked.masks[: len(known)] and (np.diff(found.ranked.scores) <= 0).all()
    assert (0 < len(known) < len(every)) == is_fitted


def test_what_cannot_be_chosen_on_is_named(run, dataset, tmp_path):
    with pytest.raises(ModelError, match="folder of a run"):
        samtune.fit_grid(tmp_path / "none")
    empty = make_dataset(tmp_path / "empty", train=2, valid=1, test=1, empty=1)
    with pytest.raises(DataError, match="annotated objects in the valid split"):
        samtune.fit_grid(run, dataset=empty.root, quiet=True)
    (run / "grid.json").write_text('{"format": 1, "min_iou_score": 7}')
    with pytest.raises(ModelError, match="fit-grid"):
        samtune.predict(dataset.root / "images", run, tmp_path / "out", PredictConfig(everything=True), quiet=True)
    assert not (tmp_path / "out").exists()
