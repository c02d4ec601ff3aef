"""A search on a tiny model: trials are runs, bad ones are stopped early, a killed search goes on, the table is true."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from samtune import api
from samtune.cli import main
from samtune.config import OptimizerConfig, PromptPolicy, SweepConfig, TrainConfig
from samtune.errors import ConfigError, DataError
from samtune.model.io.load import load_model
from samtune.search import report
from samtune.search.space import GIVEN, first_choice, with_choice
from tests.small import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set").root


@pytest.fixture
def base(tiny_folder, tmp_path):
    return TrainConfig(
        model=str(tiny_folder),
        out=tmp_path / "sweep",
        steps=9,
        device="cpu",
        precision="fp32",
        eval_objects=6,
        objects_per_image=2,
        optimizer=OptimizerConfig(lr=1e-3),
        prompts=PromptPolicy(preset="boxes"),
    )


def test_a_search_ends_with_a_winner_that_is_a_run(dataset, base):
    found = api.sweep(dataset, base, SweepConfig(trials=5, search=("lr", "prompts", "loss")), quiet=True)
    ended = [one for one in found.trials if one.state == "complete"]
    assert len(found.trials) == 5
    assert found.trials[0].choice == {"lr": 1e-3, "prompts": GIVEN, "loss": GIVEN}
    assert ended[0].number == 0 and len(ended) >= 1
    best = max(ended, key=lambda one: one.iou)
    assert found.winner == base.out / f"trial-{best.number}"
    assert load_model(found.winner).name
    for one in found.trials:
        assert [step for step, _ in one.steps] == list(range(1, len(one.steps) + 1))
        assert (one.state == "complete") == (len(one.steps) == 9)
    assert (found.test is None) == (best.number == 0)
    with (base.out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["trial"] == f"trial-{best.number}"
    assert {row["trial"] for row in rows} == {f"trial-{number}" for number in range(5)}
    with Image.open(base.out / "sweep.png") as chart:
        assert chart.size[0] > 500
    again = api.sweep(dataset, base, SweepConfig(trials=5, search=("lr", "prompts", "loss")), quiet=True)
    assert again.trials == found.trials  # the budget is spent: nothing is done twice
    table = api.runs(base.out)
    assert [run.name for run in table.runs] == sorted(f"trial-{number}" for number in range(5))
    assert "optimizer.lr" in table.differing
    assert not {"out", "model", "steps"} & set(table.differing)


def test_a_killed_search_goes_on(dataset, base, tmp_path):
    settings = base.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({**settings, "trials": 3, "search": ["lr"]}))
    command = [sys.executable, "-m", "samtune", "sweep", str(dataset), "--config", str(tmp_path / "settings.yaml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("trial 0: complete"):
                break
        process.kill()
    assert lines and lines[-1].startswith("trial 0: complete"), lines
    found = api.sweep(dataset, base, SweepConfig(trials=3, search=("lr",)), quiet=True)
    ended = [one for one in found.trials if one.state in ("complete", "pruned")]
    assert len(ended) == 3
    assert not [one for one in found.trials if one.state == "running"]
    assert [one.choice.get("lr") for one in found.trials].count(1e-3) == 1  # what was done is not done again


def test_choices_change_what_they_name(base):
    assert with_choice(base, first_choice(base, ("lr", "prompts", "loss", "train", "views"))) == base
    other = with_choice(
        base, {"lr": 5e-4, "prompts": "clicks", "loss": "area_bce", "train": "decoder+lora", "views": 4}
    )
    assert (other.optimizer.lr, other.prompts.box, other.prompts.point) == (5e-4, 0.0, 0.6)
    assert (other.loss.area_bce, other.trainable.train, other.views, other.flip) == (5.0, "decoder+lora", 4, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "soon"], "30m"),
        (["--search", "colour"], "colour"),
        (["--train", "auto"], "--train auto"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(dataset, base, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(dataset), "--model", base.model, "--out", str(base.out), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not base.out.exists()


def test_a_search_needs_held_out_objects_and_its_own_folder(dataset, base, tmp_path):
    without = make_dataset(tmp_path / "set", valid=0)
    with pytest.raises(ConfigError, match="validation split"):
        api.sweep(without.root, base, SweepConfig(trials=1), quiet=True)
    assert not base.out.exists()
    base.out.mkdir()
    about = {"dataset": str(dataset), "settings": {}, "search": ["lr"], "measure": "both"}
    (base.out / report.ABOUT).write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="another settings"):
        api.sweep(dataset, base, SweepConfig(trials=1, search=("lr",)), quiet=True)
    (base.out / report.ABOUT).rename(base.out / "mine.txt")
    with pytest.raises(ConfigError, match="new or empty"):
        api.sweep(dataset, base, SweepConfig(trials=1), quiet=True)


def test_runs_are_listed_as_text_csv_and_json(dataset, base, tmp_path, capsys):
    with pytest.raises(DataError, match="no such folder"):
        api.runs(tmp_path / "runs")
    for lr in (1e-3, 2e-3):
        update = {"out": tmp_path / f"runs/lr-{lr}", "optimizer": OptimizerConfig(lr=lr), "steps": 2}
        api.train(dataset, base.model_copy(update=update), finder=False, quiet=True)
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path / "runs")])
    text = capsys.readouterr().out
    assert "optimizer.lr" in text.splitlines()[0] and "box best" in text.splitlines()[0]
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path / "runs"), "--csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["optimizer.lr"] for row in rows] == ["0.001", "0.002"]
    assert [row["steps"] for row in rows] == ["2/2", "2/2"]
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path / "runs"), "--json"])
    found = json.loads(capsys.readouterr().out)["runs"][0]
    lines = (tmp_path / "runs/lr-0.001/results.csv").read_text().splitlines()
    assert lines[0].split(",")[1] == "valid/box"
    assert found["before"]["box"] == pytest.approx(float(lines[1].split(",")[1]), abs=1e-5)
    (tmp_path / "runs/lr-0.001/config.yaml").write_text("nonsense: 1\n")
    assert api.runs(tmp_path / "runs").unread == ("lr-0.001",)


def test_the_settings_of_a_run_start_another(dataset, base, tmp_path):
    """All of them, from the file that a run keeps, as text that the command line reads."""
    first = base.model_copy(update={"out": tmp_path / "first", "steps": 1})
    api.train(dataset, first, finder=False, quiet=True)
    with pytest.raises(SystemExit) as ended:
        main(
            ["train", "--config", str(tmp_path / "first/config.yaml"), "--out", str(tmp_path / "second"), "--no-finder"]
        )
    assert ended.value.code == 0
    kept = [(tmp_path / name / "checkpoints/last/state.safetensors").read_bytes() for name in ("first", "second")]
    assert kept[0] == kept[1]
