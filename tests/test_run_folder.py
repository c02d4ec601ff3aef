"""A run on disk: it resumes from anywhere, repeats nothing in its logs, and a failed start leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from samtune import api
from samtune.cli import main
from samtune.config import OptimizerConfig, TrainConfig
from samtune.errors import ConfigError, DataError, SamtuneError
from samtune.model.io.load import load_model
from samtune.training.checkpoint import RunFolder, cut_logs
from samtune.training.readings import Readings
from samtune.training.run import new, resumed
from samtune.training.step import learn
from samtune.training.tracking.events import Event, StepDone, Validated
from samtune.training.tracking.files import results_table
from samtune.training.tracking.tensorboard import tensorboard_listener
from samtune.training.update import Update
from tests.small import make_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def dataset(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made.root, tmp_path / "set")


@pytest.fixture
def config(tiny_folder, tmp_path):
    return TrainConfig(
        model=str(tiny_folder),
        out=tmp_path / "run",
        steps=8,
        eval_every=4,
        device="cpu",
        precision="fp32",
        cache=False,
        optimizer=OptimizerConfig(lr=1e-3),
    )


def interrupt(event):
    """Ask for a stop after the validation in the middle."""
    if isinstance(event, Validated) and event.step == 4:
        os.kill(os.getpid(), signal.SIGTERM)


def lines(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_goes_on_is_not_resumed_a_second_time(dataset, config):
    refused: list[ConfigError] = []

    def second(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 4:
            with pytest.raises(ConfigError, match="another process") as caught:  # locks are of files, not of processes
                api.resume(config.out, finder=False, quiet=True)
            refused.append(caught.value)

    assert api.train(dataset, config, listeners=[second], finder=False, quiet=True).step == 8
    assert len(refused) == 1 and refused[0].exit_code == 2
    steps = [line["step"] for line in lines(config.out) if "loss" in line]
    assert steps == sorted(set(steps))
    assert not (config.out / ".lock").exists()
    assert api.resume(config.out, finder=False, quiet=True).step == 8


def test_a_run_on_a_share_of_the_dataset_resumes(dataset, config):
    config = config.model_copy(update={"train_share": 0.5})
    assert api.train(dataset, config, listeners=[interrupt], finder=False, quiet=True).signal == signal.SIGTERM
    assert api.resume(config.out, finder=False, quiet=True).step == 8


def test_a_run_resumes_from_another_folder(dataset, config, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "model")
    config = config.model_copy(update={"model": "model", "out": None})
    assert api.train("set", config, listeners=[interrupt], quiet=True).signal == signal.SIGTERM
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = tmp_path / "runs/tune"
    assert yaml.safe_load((run / "config.yaml").read_text())["dataset"] == str(dataset)
    assert api.resume(run, quiet=True).step == 8
    (dataset).rename(tmp_path / "moved")
    with pytest.raises(DataError, match=f"no such folder\nin +{dataset}\nto do .*config.yaml"):
        resumed(run)


def test_a_resumed_run_repeats_no_step_in_its_logs(dataset, config):
    seen: list = []
    stopped = api.train(dataset, config, listeners=[interrupt, seen.append], quiet=True)
    assert 4 <= stopped.step < 8
    folder = RunFolder(stopped.folder)
    with folder.metrics.open("a") as file:  # as if the process had gone on for a while, and died while it wrote
        file.write('{"step": 8, "loss": 1.0}\n{"step": 8, "lo')
    with folder.results.open("a") as file:
        file.write("8,0.5,0.5,1\n8,0.")
    late = event_file(folder.path / "tensorboard")
    assert api.resume(stopped.folder, listeners=[seen.append], quiet=True).step == 8
    assert [line["step"] for line in lines(folder.path) if "loss" in line] == list(range(1, 9))
    assert [row.split(",")[0] for row in folder.results.read_text().splitlines()] == ["step", "0", "4", "8"]
    assert late == list(range(1, 9))
    assert event_steps(folder.path / "tensorboard") == list(range(1, 9))
    assert [event.step for event in seen if isinstance(event, StepDone)] == list(range(1, 9))


def event_file(folder):
    """Write what a process that died after its last checkpoint would have left; returns the steps then there."""
    log_steps(folder, max(event_steps(folder)), 9)
    return event_steps(folder)


def log_steps(folder, done, end):
    """What a run that went on after `done` steps writes of those before `end`."""
    with tensorboard_listener(folder, done) as listen:
        assert listen is not None
        for step in range(done + 1, end):
            listen(StepDone(step, -1.0, {}, 0.0, 0.0, 0.0, 0.0))


def test_a_run_resumed_in_the_second_it_began_shows_each_step_once(tmp_path):
    """TensorBoard reads files in the order of their names: second, host, process."""
    log_steps(tmp_path, 0, 6)
    (begun,) = tmp_path.iterdir()
    begun.rename(tmp_path / f"events.out.tfevents.{int(time.time()):010}.zzz.1.0")
    log_steps(tmp_path, 3, 9)
    assert event_steps(tmp_path) == list(range(1, 9))


def event_steps(folder):
    """The steps that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_logs_without_whole_lines_are_cut_to_nothing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("{\n[1]\nnull\n")
    folder.results.write_text("step,valid/box,best\n1")
    cut_logs(folder, 5)
    assert folder.metrics.read_text() == ""
    assert folder.results.read_text() == "step,valid/box,best\n"


@pytest.mark.parametrize("written", ["", "st", "step,valid/box,best", "step,valid/box,best\n0,0.50000,1\n3,0.61000,"])
def test_a_table_of_results_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, written):
    """Cut in the head, or in a row that has all its commas already."""
    folder = RunFolder(tmp_path)
    folder.results.write_text(written)
    cut_logs(folder, 5)
    for step, iou, is_best in ((0, 0.5, True), (3, 0.61, True)):
        if "\n" not in written or step:
            results_table(folder)(Validated(step, {"valid/box": iou}, is_best, {}, {}))
    assert folder.results.read_text() == "step,valid/box,best\n0,0.50000,1\n3,0.61000,1\n"


@pytest.mark.parametrize("split", ["valid", "train"])
def test_a_failed_start_leaves_nothing_and_the_same_command_works_later(dataset, config, tmp_path, split, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config.model_copy(update={"out": None, "eval_objects": 1})
    before = sorted(tmp_path.rglob("*"))
    hidden = [image for image in (dataset / "images").iterdir() if image.name.startswith(split)]
    (tmp_path / "away").mkdir()
    for image in hidden:
        image.rename(tmp_path / "away" / image.name)
    with pytest.raises(DataError, match="put it back") as failed:
        api.train(dataset, config, quiet=True)
    assert "--" not in str(failed.value.do)
    for image in hidden:
        (tmp_path / "away" / image.name).rename(image)
    (tmp_path / "away").rmdir()
    assert sorted(tmp_path.rglob("*")) == before
    assert api.train(dataset, config, quiet=True).folder.name == "tune"


def test_settings_beside_resume_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "runs/tune", "--steps", "9"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--steps beside it" in said
    assert "--model runs/tune" in said


def test_a_loss_that_is_no_number_stops_the_run(dataset, config):
    """A learning rate that throws the weights out of the range of fp32."""
    config = config.model_copy(update={"steps": 40, "eval_every": 20, "optimizer": OptimizerConfig(lr=1e30)})
    with pytest.raises(SamtuneError) as stopped:
        api.train(dataset, config, quiet=True)
    error = stopped.value
    assert error.exit_code == 1
    assert "steps 2 to 4" in error.found
    assert "learning rate" in error.found
    assert "images/train-" in str(error.where)
    assert "--optimizer.lr" in str(error.do)
    written = lines(config.out)
    assert [line["step"] for line in written if line.get("skipped")] == [2, 3, 4]
    assert all(line["loss"] is None or line["grad_norm"] is None for line in written if line.get("skipped"))
    kept = load_file(config.out / "checkpoints/last/state.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert load_model(config.out).name


def test_a_step_with_gradients_that_are_no_numbers_changes_nothing(dataset, config):
    run = new(dataset, config)
    update = Update(run)
    update(0, learn(run, run.batches[0]))
    before = [parameter.clone() for parameter in run.parameters.values()]
    moments = run.state.optimizer.state[next(iter(run.parameters.values()))]
    kept = {name: value.clone() for name, value in moments.items()}
    figures = learn(run, run.batches[1])
    next(parameter for parameter in run.parameters.values() if parameter.grad is not None).grad.fill_(torch.nan)
    assert update(1, figures)["skipped"] == 1
    assert all(torch.equal(old, new) for old, new in zip(before, run.parameters.values(), strict=True))
    assert all(torch.equal(value, kept[name]) for name, value in moments.items())
    assert update(2, learn(run, run.batches[2]))["skipped"] == 0
    assert run.state.is_finite()
    assert any(not torch.equal(old, new) for old, new in zip(before, run.parameters.values(), strict=True))


def test_skipped_steps_are_counted_in_a_row(dataset, config):
    run = new(dataset, config)
    seen: list[StepDone] = []
    readings = Readings(run, seen.append)

    def steps(first: int, *skipped: int) -> None:
        for step, skip in enumerate(skipped, start=first):
            loss = torch.tensor(torch.nan if skip else 1.0)
            norm = torch.tensor(1.0)
            figures = {"loss": loss, "train_iou": norm, "grad_norm": norm, "skipped": torch.tensor(float(skip))}
            readings.add(step, 0.5, figures)
        readings.read()

    steps(1, 1, 1, 0, 1)
    steps(5, 1, 0)
    with pytest.raises(SamtuneError, match=r"steps 7 to 9, at learning rate 0\.5"):
        steps(7, 1, 1, 1)
    assert [event.skipped for event in seen] == [True, True, False, True, True, False, True, True, True]
