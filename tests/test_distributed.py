"""Several processes, for real: two of them on the CPU train what one process trains with twice the images per step."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from samtune.config import PromptPolicy
from samtune.errors import DataError, ModelError, SamtuneError
from samtune.runtime.distributed import Processes
from samtune.training.batches import Sampling, TrainingBatches
from samtune.training.run import resumed
from tests.small import make_dataset
from tests.train_worker import do

REPO = Path(__file__).resolve().parents[1]
STEPS = 50
POLICY = PromptPolicy(box=0.5, point=0.5, correction_clicks=1, negative=0.3)


def environment(**more: str) -> dict[str, str]:
    paths = [str(REPO / "src"), str(REPO), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **more}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_pair(jobs: list[dict], folder: Path) -> list[subprocess.Popen]:
    """Two processes with the environment that a launcher would give them."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-W", "error", "-m", "tests.train_worker", str(file)]
    return [
        subprocess.Popen(
            command,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **group),
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def dataset(place):
    return make_dataset(place / "set")


@pytest.fixture(scope="module")
def settings(place, tiny_folder):
    """Settings of a run; those given win."""

    def settings(out: str, **more) -> dict:
        common = {
            "model": str(tiny_folder),
            "out": str(place / out),
            "steps": STEPS,
            "eval_every": 10,
            "device": "cpu",
            "precision": "fp32",
            "flip": True,
            "prompts": POLICY.model_dump(),
            "optimizer": {"lr": 1e-4, "ema": 0.9},
        }
        return common | more

    return settings


@pytest.fixture(scope="module")
def pair(place, dataset, settings):
    """What two processes gave: a run from start to end, and one that was interrupted and resumed."""
    whole = {"dataset": str(dataset.root), "config": settings("whole"), "result": str(place / "result-whole")}
    cut = {
        "dataset": str(dataset.root),
        "config": settings("cut"),
        "stop_at": 20,
        "result": str(place / "result-cut"),
    }
    rest = {"resume": str(place / "cut"), "result": str(place / "result-rest")}
    no_set = {"dataset": "nowhere", "config": settings("never"), "error": str(place / "error-set")}
    no_run = {"resume": str(place / "never"), "error": str(place / "error-run")}
    processes = start_pair([no_set, no_run, whole, cut, rest], place)
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return {name: place / f"result-{name}" for name in ("whole", "cut", "rest")}


def losses(result: Path) -> list[float]:
    return json.loads(result.with_name(f"{result.name}.json").read_text())


def weights(result: Path) -> dict[str, torch.Tensor]:
    return load_file(result.with_name(f"{result.name}.safetensors"))


def test_two_processes_train_what_one_trains_with_twice_the_images(place, dataset, settings, pair):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = settings("alone", images_per_step=2)
        do({"dataset": str(dataset.root), "config": config, "result": str(place / "result-alone")})
    finally:
        torch.set_num_threads(threads)
    alone = place / "result-alone"
    assert len(losses(alone)) == STEPS + 1 + STEPS // 10
    assert losses(pair["whole"]) == pytest.approx(losses(alone), abs=1e-6)
    for name, tensor in weights(pair["whole"]).items():
        torch.testing.assert_close(tensor, weights(alone)[name], atol=1e-5, rtol=0, msg=name)


def test_a_resumed_pair_goes_on_with_the_same_numbers(place, pair):
    assert losses(pair["cut"]) + losses(pair["rest"]) == losses(pair["whole"])
    for name, tensor in weights(pair["whole"]).items():
        assert torch.equal(tensor, weights(pair["rest"])[name]), name


@pytest.mark.parametrize(
    ("what", "expected"), [("set", "DataError expected a prepared"), ("run", "ModelError expected a run")]
)
def test_the_main_process_alone_reports_what_all_have_found(place, pair, what, expected):
    assert (place / f"error-{what}-0").read_text().startswith(expected)
    assert (place / f"error-{what}-1").read_text() == "SystemExit 2"
    assert not (place / "never").exists()


def test_a_killed_process_ends_the_other_and_the_run_resumes_under_torchrun(place, dataset, settings, pair):
    job = {"dataset": str(dataset.root), "config": settings("killed"), "kill_at": 20, "pid": str(place / "pid")}
    first, second = start_pair([{**job, "result": str(place / "result-killed")}], place)
    second.communicate(timeout=600)
    _, error = first.communicate(timeout=60)
    assert second.returncode == -9
    assert first.returncode == 1
    assert error.count("expected") == 1
    assert "2 processes that train together" in error
    assert "--resume" in error

    command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), "-m", "samtune"]
    command = [sys.executable, "-m", *command, "train", "--resume", str(place / "killed")]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, cwd=place)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done: 50 steps") == 1
    (at,) = re.findall(r"resuming at step (\d+)", ended.stderr)
    found = load_file(place / "killed/checkpoints/last/state.safetensors")
    for name, tensor in weights(pair["whole"]).items():
        assert torch.equal(tensor, found[f"weights/{name}"]), name
    lines = [json.loads(line) for line in (place / "killed/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(int(at) + 1, STEPS + 1))


def test_a_run_of_two_processes_is_not_resumed_by_one(place, pair):
    with pytest.raises(ModelError, match="torchrun --nproc-per-node 2"):
        resumed(place / "whole")
    assert yaml.safe_load((place / "whole/config.yaml").read_text())["dataset"] == str(place / "set")


@pytest.mark.parametrize("world", [2, 3])
def test_what_is_drawn_does_not_depend_on_the_number_of_processes(dataset, world):
    """Images, mirroring, objects, background clicks and random numbers of a step, in order."""

    def parts(images: int, world: int) -> list:
        sampling = Sampling(16, images, 3, True, 5, POLICY)
        shares = [TrainingBatches(dataset.split("train"), sampling, rank=rank, world=world) for rank in range(world)]
        batches = [share[step] for step in range(4) for share in shares]
        views = [view for batch in batches for view in batch.views]
        assert [view.image for view in views] == [image for step in range(4) for image in shares[0].images_of(step)]
        tensors = [torch.cat(tensors) for tensors in zip(*(batch.tensors for batch in batches), strict=True)]
        return [views, tensors]

    (views, tensors), (alone, whole) = parts(1, world), parts(world, 1)
    assert views == alone
    for mine, other in zip(tensors, whole, strict=True):
        assert torch.equal(mine, other)


def test_an_error_of_the_main_process_is_raised_and_others_end_with_its_code():
    error = DataError.of(expected="an image", found="none")
    assert Processes().failure(error) is error
    ended = Processes(rank=1, count=2).failure(error)
    assert isinstance(ended, SystemExit)
    assert ended.code == 2


def test_a_process_alone_needs_no_group():
    alone = Processes()
    assert alone.is_main
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.on_main(lambda: "text") == "text"
    assert torch.equal(alone.sum(torch.ones(3)), torch.ones(3))

    def fails() -> None:
        raise SamtuneError.of(expected="a", found="b")

    with pytest.raises(SamtuneError):
        alone.all_or_none(fails)
