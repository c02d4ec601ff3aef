"""The command line as a user meets it: the main job from export to export, mistakes answered, exit codes kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from samtune.cli import main
from samtune.data.table import Dataset
from tests.small import write_export


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small Roboflow-like export."""
    folder = tmp_path_factory.mktemp("place")
    write_export(folder / "export")
    return folder


def run(*tokens) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    return int(ended.value.code or 0)


class _Addresses(HTMLParser):
    """Collects everything a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_main_job_from_export_to_export(place, tiny_folder, capsys):
    dataset, tuned = place / "dataset", place / "run"
    assert run("prepare", place / "export", "--out", dataset, "--quiet") == 0
    assert len(Dataset.open(dataset).images) == 9
    settings = ("--model", tiny_folder, "--steps", "4", "--images-per-step", "2", "--prompts.point", "0.5")
    assert run("train", dataset, *settings, "--out", tuned, "--quiet") == 0
    files = {path.name for path in tuned.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "results.csv", "checkpoints", "tensorboard"} <= files
    steps = [json.loads(line)["step"] for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == 0
    assert steps[-1] == 4

    assert run("evaluate", dataset, "--model", tuned, "--out", place / "figures.json", "--quiet") == 0
    assert json.loads((place / "figures.json").read_text())["format"]
    capsys.readouterr()
    compared = place / "comparison"
    assert run("compare", dataset, "--base", tiny_folder, "--tuned", tuned, "--out", compared, "--quiet") == 0
    assert "box" in capsys.readouterr().out
    page = (compared / "report.html").read_text()
    assert "<b>thing</b>" not in page
    addresses = _Addresses()
    addresses.feed(page)
    assert addresses.found
    assert all(address.startswith("data:") for address in addresses.found)

    images = place / "export/test"
    assert run("predict", images, "--model", tuned, "--out", place / "masks", "--box", "6,8,30,28", "--quiet") == 0
    assert len(json.loads((place / "masks/predictions.json").read_text())) == 3
    assert run("export", tuned, "--out", place / "hf", "--format", "hf") == 0
    assert "checked" in capsys.readouterr().out
    assert run("cache", "info", dataset) == 0


def test_a_yaml_file_sets_what_options_do_not(place, tiny_folder, tmp_path):
    run("prepare", place / "export", "--out", tmp_path / "dataset", "--quiet")
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"model": str(tiny_folder), "steps": 5, "optimizer": {"lr": 0.001}}))
    out = tmp_path / "run"
    assert run("train", tmp_path / "dataset", "--config", file, "--steps", "2", "--out", out, "--quiet") == 0
    used = yaml.safe_load((out / "config.yaml").read_text())
    assert (used["steps"], used["optimizer"]["lr"], used["model"]) == (2, 0.001, str(tiny_folder))
    again = ("train", "--config", out / "config.yaml", "--out", tmp_path / "again", "--quiet")
    assert run(*again) == 0
    first, second = (
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (out, tmp_path / "again")
    )
    assert first == second


MISTAKES = {
    "an unknown command": (["trian"], 'Did you mean "train"?'),
    "an unknown option": (["train", "x", "--stps", "3"], "Did you mean --steps?"),
    "a value out of range": (["train", "x", "--steps", "0"], "--steps"),
    "a value of two types": (["train", "x", "--batch", "0"], "--batch: Input should be 'auto', or: Input should be"),
    "an option with its own name": (["find-train", "x", "--find-classes", "some"], "--find-classes: Input"),
    "one value too many": (["train", "x", "y"], "'y', which belongs to none"),
    "no dataset": (["train"], "a dataset to train on"),
    "no such dataset": (["train", "nowhere"], "samtune prepare"),
    "no such model": (["evaluate", "DATASET", "--model", "nanno"], "did you mean 'nano'"),
    "no such source": (["prepare", "nowhere", "--out", "x"], "nowhere"),
    "shares that do not add up": (["prepare", "nowhere", "--out", "x", "--split", "1,1,1"], "add up to 1"),
    "a run that is none": (["train", "--resume", "EXPORT"], "a folder without it"),
    "no such run": (["train", "--resume", "nowhere"], "no such folder"),
    "a split without objects": (["evaluate", "ONLY_TRAIN", "--model", "MODEL"], "--split train"),
    "no settings file": (["train", "x", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "settings that are no YAML": (["train", "x", "--config", "TABLE"], "table.csv"),
    "a demo in place of a file": (["demo", "--out", "TABLE"], "found    a file"),
    "a box that is none": (["predict", "x", "--model", "nowhere", "--out", "x", "--box", "1,2"], "--box: a box is"),
    "no prompts": (["predict", "x", "--model", "nowhere", "--out", "x"], "--everything"),
    "a size that is none": (["embed", "DATASET", "--model", "nowhere", "--cache-limit", "lots"], "--cache-limit"),
    "a raw export": (["train", "EXPORT"], "samtune prepare"),
    "an unknown preset": (["train", "x", "--prompts", "boxs"], "did you mean 'boxes'"),
    "a preset and a part": (
        ["train", "x", "--prompts", "clicks", "--prompts.negative", "0.2"],
        "--prompts.preset NAME",
    ),
    "an unknown service": (["train", "x", "--track", "wandb", "tensorbord"], "samtune: --track: "),
    "a preset and weights": (["train", "x", "--prompts.preset", "boxes", "--prompts.point", "1"], "give one of them"),
    "mirrored twice": (["train", "x", "--flip", "--views", "4"], "flip or views, not both"),
    "nothing to choose by": (["train", "ONLY_TRAIN", "--train", "auto", "--out", "x"], "a validation split"),
    "patience without validation": (["train", "ONLY_TRAIN", "--patience", "2", "--out", "x"], "--patience waits"),
    "nothing to learn by": (
        ["train", "x", *(f"--loss.{term}=0" for term in ("focal", "dice", "iou", "object-score"))],
        "give one of them a weight",
    ),
    "a choice without auto": (["train", "x", "--trainable.try-encoder"], "--train auto"),
    "no image": (["predict", "nowhere", "--model", "MODEL", "--out", "x", "--point", "1,1"], "nowhere"),
}


@pytest.mark.parametrize(("tokens", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_with_exit_code_2(place, tiny_folder, tmp_path, capsys, monkeypatch, tokens, expected):
    monkeypatch.chdir(tmp_path)
    run("prepare", place / "export", "--out", "ds", "--quiet")
    run("prepare", place / "export", "--out", "only", "--split", "1,0,0", "--quiet")
    names = {
        "DATASET": "ds",
        "ONLY_TRAIN": "only",
        "EXPORT": place / "export",
        "MODEL": tiny_folder,
        "TABLE": "ds/table.csv",
    }
    capsys.readouterr()
    assert run(*(names.get(token, token) for token in tokens)) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not (tmp_path / "x").exists()


def test_a_typo_in_a_settings_file_is_named_with_its_file(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("prompts: {bocks: 1}\n")
    assert run("train", "x", "--config", file) == 2
    said = capsys.readouterr().err
    assert "bocks" in said
    assert "settings.yaml" in said
    assert "--prompts.box" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_saves_and_resumes(place, tiny_folder, tmp_path, number, code):
    run("prepare", place / "export", "--out", tmp_path / "dataset", "--quiet")
    out = tmp_path / "run"
    arguments = [
        "train",
        tmp_path / "dataset",
        "--model",
        tiny_folder,
        "--steps",
        "100000",
        "--eval-every",
        "2",
        "--out",
        out,
    ]
    command = [sys.executable, "-m", "samtune", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **streams, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert process.stderr is not None
    assert any(line.startswith("step 2") for line in process.stderr)  # measured twice: training is under way
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "--resume" in printed
    assert (out / "checkpoints/last/state.safetensors").exists()


def test_help_states_units_and_defaults(capsys):
    assert run("train", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for expected in ("--steps", "default: 3000", "Optimizer steps", "--prompts.box", "0 to 1"):
        assert expected in said


@pytest.mark.parametrize("name", ["--train", "--trainable.train"])
def test_what_learns_is_said_shortly_or_in_full(place, tiny_folder, tmp_path, name):
    if not (place / "dataset").exists():
        assert run("prepare", place / "export", "--out", place / "dataset", "--quiet") == 0
    settings = ("--model", tiny_folder, "--steps", "1", "--out", tmp_path / "run", "--quiet")
    assert run("train", place / "dataset", *settings, name, "decoder+prompt-encoder") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["trainable"]["what"] == "decoder+prompt-encoder"


def test_values_of_a_list_may_follow_one_option(tmp_path, capsys):
    for values in (("--shares", 0.25, 1.0), ("--shares", 0.25, "--shares", 1.0)):
        assert run("curve", tmp_path / "nowhere", *values, "--seeds", 2) == 2
        assert "no such folder" in capsys.readouterr().err
    assert run("curve", tmp_path / "nowhere", "--shares", 0.25) == 2
    assert "at least two different shares" in capsys.readouterr().err
