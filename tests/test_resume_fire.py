"""Runs under fire, a share of `make resume-fire`: killed anywhere, on a disk that refuses, or changed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import polars as pl
import pytest
import yaml

from samtune import api
from samtune.config import OptimizerConfig, TrainConfig
from samtune.data.table import Dataset, write_table
from samtune.errors import ConfigError, DataError, ModelError
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.training.checkpoint import RunFolder
from samtune.training.identity import require_held_out
from samtune.training.run import new, resumed
from tests.conftest import REPO
from tests.fire.disk import compiler
from tests.small import make_dataset
from tests.tiny import tiny_sam2

KILLS, FAULTS = 10, 5


def test_nothing_is_lost_to_kills_and_write_faults():
    if sys.platform != "linux" or compiler() is None:
        pytest.skip("faults are injected with LD_PRELOAD, which needs Linux and a C compiler")
    command = [sys.executable, "-m", "tests.fire", "--kills", str(KILLS), "--faults", str(FAULTS), "--seed", "1"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["kills"]["equal"] == report["kills"]["kills"] == KILLS
    assert report["kills"]["while saving"] >= 3
    assert report["faults"]["said"] > 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on a small dataset; a test works on a copy."""
    root = tmp_path_factory.mktemp("fire")
    make_dataset(root / "set")
    save_model(tiny_sam2(seed=0), root / "model")
    settings = {"model": str(root / "model"), "steps": 4, "eval_every": 2, "device": "cpu", "precision": "fp32"}
    api.train(root / "set", TrainConfig(**settings, out=root / "run", cache=False), finder=False, quiet=True)
    return root


@pytest.fixture
def run(made, tmp_path):
    """The run, its dataset and its model, in another place, as its settings say."""
    shutil.copytree(made, tmp_path / "all")
    folder = RunFolder(tmp_path / "all/run")
    change(folder, dataset=str(tmp_path / "all/set"), model=str(tmp_path / "all/model"))
    return folder


def change(folder, **settings):
    folder.config.write_text(yaml.safe_dump(yaml.safe_load(folder.config.read_text()) | settings))


def test_a_moved_run_with_all_it_needs_goes_on(run):
    assert resumed(run.path).state.progress.step == 4


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json", "SHA256SUMS"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(run, file):
    content = bytearray((run.last / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run.last / file).write_bytes(content)
    again = resumed(run.path)
    assert again.state.progress.step == 2
    assert "checkpoints/last cannot be read" in again.notes[-1]
    with (run.previous / "state.safetensors").open("r+b") as cut:
        cut.truncate(100)
    with pytest.raises(ModelError, match="resumable checkpoint"):
        resumed(run.path)


def test_a_damaged_best_model_is_not_loaded(run):
    assert load_model(run.path).name
    content = bytearray((run.best / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run.best / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is not what was written"):
        load_model(run.path)


def test_a_changed_setting_is_named(run):
    change(run, steps=9, optimizer={"lr": 1e-3})
    with pytest.raises(ModelError, match=r"steps: 4, optimizer\.lr: auto(?s:.)*steps: 9, optimizer\.lr: 0\.001"):
        resumed(run.path)


def test_a_changed_dataset_is_named(run):
    root = run.path.parent / "set"
    image = next(iter(sorted((root / "images").iterdir())))
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(DataError, match=rf"images/{image.name} has \d+ bytes and had \d+"):
        resumed(run.path)
    image.unlink()
    with pytest.raises(DataError, match=rf"images/{image.name} is missing"):
        resumed(run.path)
    shutil.rmtree(root)
    make_dataset(root, train=7)
    with pytest.raises(DataError, match="13 images where there were 12"):
        resumed(run.path)


def test_no_verdict_on_images_that_a_run_was_tuned_on(run):
    root, out = run.path.parent / "set", run.path.parent / "compared"
    require_held_out(run.path, Dataset.open(root), "test")
    turned = {"train": "test", "test": "train"}
    write_table(root, Dataset.open(root).table.with_columns(pl.col("split").replace(turned)))
    again = Dataset.open(root)
    with pytest.raises(DataError, match=r"found:? +6 that it learned from, such as train-0\.png"):
        api.compare(root, run.path.parent / "model", run.path, out, quiet=True)
    assert not out.exists()
    require_held_out(run.path, again, "train")
    require_held_out(run.path, again, "valid")
    require_held_out(run.path.parent / "model", again, "test")


def test_a_changed_base_model_is_named(run):
    save_model(tiny_sam2(seed=1), run.path.parent / "model")
    with pytest.raises(ModelError, match="other weights under its name"):
        resumed(run.path)


def test_a_run_killed_before_its_first_checkpoint_starts_again(run):
    shutil.rmtree(run.last.parent)
    with pytest.raises(ModelError, match="resumable checkpoint"):  # its log says that steps were made
        resumed(run.path)
    run.metrics.write_text('{"step": 0, "valid/box": 0.5, "best": true}\n')
    again = resumed(run.path)
    assert again.state.progress.step == 0
    assert run.metrics.read_text() == ""


def test_patience_ends_a_run_and_needs_a_validation_split(made, tmp_path):
    config = TrainConfig(
        model=str(made / "model"), out=tmp_path / "run", steps=40, eval_every=2, patience=2, device="cpu",
        precision="fp32", cache=False, optimizer=OptimizerConfig(lr=1e-12),
    )  # fmt: skip
    ended = api.train(made / "set", config, finder=False, quiet=True)
    assert (ended.step, ended.best_step) == (4, 0)
    assert "2 validations without a better one" in ended.lines()[0]
    assert "--train auto" in ended.lines()[-1]
    again = api.resume(ended.folder, finder=False, quiet=True)
    assert (again.step, again.advice) == (4, ended.advice)
    too_long = config.model_copy(update={"out": tmp_path / "long", "patience": 20})
    assert any("cannot end this run early" in note for note in new(made / "set", too_long).notes)
    without = make_dataset(tmp_path / "set", valid=0)
    with pytest.raises(ConfigError, match="--patience"):
        new(without.root, config.model_copy(update={"out": tmp_path / "other"}))
    assert not (tmp_path / "other").exists()


def test_only_what_a_killed_start_left_is_removed(made, tmp_path):
    """A folder of the user's, with names like ours in it, is refused and kept; one of a killed start is taken over."""
    settings = {"model": str(made / "model"), "steps": 1, "device": "cpu", "precision": "fp32", "cache": False}
    out = tmp_path / "out"
    out.mkdir()
    for name in ("run.json", ".run.json.abcd1234"):
        (out / name).write_text("{}")
    (out / ".bashrc.old").write_text("mine")
    with pytest.raises(ConfigError, match="new or empty"):
        new(made / "set", TrainConfig(**settings, out=out))
    assert {path.name for path in out.iterdir()} == {"run.json", ".run.json.abcd1234", ".bashrc.old"}
    (out / ".bashrc.old").unlink()
    assert new(made / "set", TrainConfig(**settings, out=out)).folder.config.is_file()
    (out / ".notes.old").write_text("mine")
    (out / ".results.csv.abcd1234").write_text("half")
    resumed(out)
    assert (out / ".notes.old").read_text() == "mine"
    assert not (out / ".results.csv.abcd1234").exists()
