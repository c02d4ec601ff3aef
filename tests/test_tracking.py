"""What a run tells others: its chart, TensorBoard's images, and services, where their packages are at hand."""

from __future__ import annotations

import importlib
import json
import signal
import sys

import pytest
from PIL import Image

from samtune import api
from samtune.cli import main
from samtune.config import TrainConfig
from samtune.training.tracking.events import Validated
from tests.small import make_dataset

NAMES = {"train/loss", "train/train_iou", "lr", "iou/valid/box"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set").root


def config(tiny_folder, out, **settings):
    plain = {"steps": 4, "eval_every": 2, "device": "cpu", "precision": "fp32"}
    return TrainConfig(model=str(tiny_folder), out=out, **plain, **settings)


def test_a_run_ends_with_a_chart_and_shows_validation_objects(dataset, tiny_folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []
    api.train(dataset, config(tiny_folder, tmp_path / "run"), listeners=[seen.append], finder=False, quiet=True)
    with Image.open(tmp_path / "run/training.png") as chart:
        assert chart.size[0] > chart.size[1] > 200
    events = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) >= NAMES
    shown = [event.images for event in seen if isinstance(event, Validated)]
    assert [set(images) for images in shown] == [set(events.Tags()["images"])] * 3
    assert len(shown[0]) == 2  # of three validation images one has no object
    for image in shown[0].values():
        assert image.shape[1] == 3 * image.shape[0]
    name = next(iter(shown[0]))
    assert [event.step for event in events.Images(name)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("service", "variable", "given"),
    [
        ("wandb", "WANDB_API_KEY", {}),
        ("mlflow", "MLFLOW_TRACKING_URI", {}),
        ("trackio", "HF_TOKEN", {"TRACKIO_SPACE_ID": "me/x"}),
    ],
)
def test_a_tracker_without_its_package_or_key_is_named(
    dataset, tiny_folder, tmp_path, monkeypatch, capsys, service, variable, given
):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "HF_TOKEN", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    command = ["train", str(dataset), "--model", str(tiny_folder), "--out", str(tmp_path / "run"), "--track", service]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    (tmp_path / "packages" / service).mkdir(parents=True)  # now one of this name is found, and the key is looked for
    (tmp_path / "packages" / service / "__init__.py").touch()
    if importlib.util.find_spec(service) is None:
        assert f"pip install 'samtune[{service}]'" in said
        monkeypatch.syspath_prepend(tmp_path / "packages")
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        said = capsys.readouterr().err
    assert f"environment variable {variable}" in said
    assert not (tmp_path / "run").exists()


def interrupted(event):
    if isinstance(event, Validated) and event.step == 2:
        signal.raise_signal(signal.SIGTERM)


def tracked(dataset, tiny_folder, out, service):
    """A run that is interrupted and resumed; its folder."""
    pytest.importorskip(service, reason=f"{service} is not installed")
    stopped = api.train(
        dataset, config(tiny_folder, out, track=(service,)), listeners=[interrupted], finder=False, quiet=True
    )
    assert stopped.step < 4
    assert api.resume(out, finder=False, quiet=True).step == 4
    return json.loads((out / "tracking.json").read_text())[service]


def test_mlflow_keeps_the_figures(dataset, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    identity = tracked(dataset, tiny_folder, tmp_path / "run", "mlflow")
    client = sys.modules["mlflow"].MlflowClient()
    run = client.get_run(identity)
    assert set(run.data.metrics) >= NAMES
    assert run.data.params["steps"] == "4"
    assert [one.step for one in client.get_metric_history(identity, "train/loss")] == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"


def test_wandb_keeps_the_figures_offline(dataset, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked(dataset, tiny_folder, tmp_path / "run", "wandb")
    kept = b"".join(file.read_bytes() for file in (tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert all(name.encode() in kept for name in NAMES)


def test_trackio_keeps_the_figures(dataset, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    identity = tracked(dataset, tiny_folder, tmp_path / "run", "trackio")
    runs = sys.modules["trackio"].Api().runs("samtune")
    assert identity in [run.name for run in runs]
