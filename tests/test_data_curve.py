"""`samtune curve` on small runs: the table, going on after an interruption, and what is refused."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

from samtune import api
from samtune.config import CurveConfig, EvalConfig, TrainConfig
from samtune.errors import ConfigError, DataError
from tests.small import make_dataset

FEW = CurveConfig(shares=(0.5, 1.0), seeds=2, more=10)


@pytest.fixture(scope="module")
def settings(tiny_folder):
    return TrainConfig(model=str(tiny_folder), steps=2, eval_objects=4, device="cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory, settings):
    root = tmp_path_factory.mktemp("curve")
    make_dataset(root / "set", train=6, valid=2, test=3, empty=1)
    return root, api.curve(root / "set", root / "out", FEW, settings, quiet=True)


def test_every_share_is_measured_as_evaluate_measures_it(measured, settings, tmp_path):
    root, found = measured
    assert [(one.share, one.images) for one in found.points] == [(0, 0), (0.5, 3), (1, 6)]
    run = api.train(
        root / "set",
        settings.model_copy(update={"train_share": 0.5, "seed": 1, "out": tmp_path / "run"}),
        finder=False,
        quiet=True,
    )
    alone = api.evaluate(root / "set", run.folder, EvalConfig(), quiet=True)
    for kind in ("box", "point"):
        assert found.points[1].seeds[kind][1] == pytest.approx(alone.summary(kind).mean, abs=1e-6)
        assert len(set(found.points[1].seeds[kind])) == 2
    content = json.loads((root / "out/curve.json").read_text())
    assert content["forecasts"]["box"]["more"] == 10
    assert pl.read_csv(root / "out/curve.csv").height == 6
    assert (root / "out/curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (root / "out/runs").exists()
    assert any("10 more images" in line for line in found.lines())


def test_the_same_command_goes_on_where_it_was(measured, settings, tmp_path):
    root, found = measured
    shutil.copytree(root / "out", tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/points").glob("*.json")}
    missing = tmp_path / "out/points/share-0.5-seed-1.json"
    missing.unlink()
    again = api.curve(root / "set", tmp_path / "out", FEW, settings, quiet=True)
    assert again.to_json() == found.to_json()
    changed = [path for path, then in kept.items() if path.stat().st_mtime_ns != then]
    assert changed == [missing]


def test_a_run_killed_on_the_way_is_made_again(measured, settings, tmp_path):
    root, found = measured
    shutil.copytree(root / "out", tmp_path / "out")
    (tmp_path / "out/points/share-1-seed-0.json").unlink()
    half = tmp_path / "out/runs/share-1-seed-0"
    half.mkdir(parents=True)
    (half / "run.json").write_text("{}")  # killed before its first checkpoint
    again = api.curve(root / "set", tmp_path / "out", FEW, settings, quiet=True)
    assert again.to_json() == found.to_json()


def test_other_settings_another_dataset_and_strange_folders_are_refused(measured, settings, tmp_path):
    root, _ = measured
    with pytest.raises(ConfigError, match=r"another train\.steps"):
        api.curve(root / "set", root / "out", FEW, settings.model_copy(update={"steps": 3}), quiet=True)
    with pytest.raises(ConfigError, match=r"another curve\.seeds"):
        api.curve(root / "set", root / "out", FEW.model_copy(update={"seeds": 3}), settings, quiet=True)
    make_dataset(tmp_path / "other", train=6, valid=2, test=3, empty=1, seed=5)
    with pytest.raises(ConfigError, match="another dataset"):
        api.curve(tmp_path / "other", root / "out", FEW, settings, quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        api.curve(root / "set", tmp_path / "mine", FEW, settings, quiet=True)
    make_dataset(tmp_path / "one", train=2, valid=1, test=2, empty=1)
    with pytest.raises(DataError, match="2 independent groups"):
        api.curve(tmp_path / "one", tmp_path / "out", FEW, settings, quiet=True)
    assert not (tmp_path / "out").exists()
