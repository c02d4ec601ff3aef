"""The benchmark: real work on drawn images, arithmetic on given numbers, nothing about how fast this machine is."""

from __future__ import annotations

import json
import os
import signal
import threading
from itertools import pairwise

import pytest
import torch

from samtune.benchmark.figures import BenchReport, StepTime, duration, run_time, seconds
from samtune.benchmark.machine import Machine, MatmulRate, matmul_rate
from samtune.benchmark.measure import IMAGES, embed_all, set_up
from samtune.benchmark.traffic import Traffic
from samtune.benchmark.turns import STEPS, Turns
from samtune.cli import main
from samtune.config import BenchConfig
from samtune.data.table import Dataset
from samtune.synthetic.benchmark_images import OBJECTS, SIDE, write_work
from samtune.training.update import Update
from samtune.utils.text import text_table

RATES = tuple(MatmulRate(dtype, threads, 50.0 * threads, 1024) for dtype in ("fp32", "bf16") for threads in (1, 2))
MACHINE = Machine("a processor", "cpu", 2, 2, 0.5, RATES, 40.0, {"python": "3.11", "torch": "2.13"})


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return write_work(tmp_path_factory.mktemp("bench") / "work", 2)


@pytest.fixture
def model(tiny_folder):
    """A model so small that a step is little more than reading masks."""
    return tiny_folder


def run(*tokens) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    return int(ended.value.code or 0)


def report(**changes) -> BenchReport:
    steps = (
        StepTime(1, 1, "fast", (0.02, 0.01, 0.03), 1.0, 0.4),
        StepTime(1, 1, "plain", (0.04, 0.05, 0.06), 1.5, 0.8),
    )
    values = {"config": BenchConfig(steps=1000, images=10), "machine": MACHINE, "image_size": 256, "precision": "fp32"}
    return BenchReport(**(values | {"encode": (1.0, 3.0, 2.0), "look": (0.1,), "steps": steps} | changes))


def test_a_runs_time_is_its_images_and_its_steps():
    found = run_time(images=200, steps=3000, encode=1.0, look=0.01, step=0.05)
    assert found.first == pytest.approx(200 + 150)
    assert found.kept == pytest.approx(2 + 150)


def test_the_report_foretells_from_medians():
    """The default prompts ask 2.6 times as often as the boxes measured: twice, and three times more in a tenth."""
    found = report()
    fast = found.steps[0]
    assert found.run_time(fast).first == pytest.approx(10 * 2.0 + 1000 * 0.02 * 2.6)
    assert found.run_time(fast).kept == pytest.approx(10 * 0.1 + 1000 * 0.02 * 2.6)
    assert fast.over_bound(100.0) == pytest.approx(2.0)  # 1 GFLOP at 100 GFLOP/s takes 10 ms, and it took 20
    said = "\n".join(found.lines())
    assert "72 s the first time, 53 s later, with 1 x 1 a step" in said
    row = next(line for line in said.splitlines() if line.startswith("1 x 1"))
    assert row.split() == ["1", "x", "1", "20", "ms", "50", "ms", "2.50", "1.0", "2.0", "x", "0.40", "2.0", "x"]


def test_views_are_encoded_one_by_one():
    """Four views of ten images take what forty images take, and the report says so."""
    found = report(config=BenchConfig(steps=1000, images=10, views=4))
    assert found.run_time(found.steps[0]).first == pytest.approx(40 * 2.0 + 1000 * 0.02 * 2.6)
    assert any("on 10 images in 4 views" in line for line in found.lines())


def test_traffic_counts_each_tensor_of_an_operation_once_and_no_view():
    a, b = torch.ones(10, 10), torch.ones(1, 10).expand(10, 10)
    with Traffic() as traffic:
        (a.t() + b).t()
    assert traffic.bytes == 400 + 40 + 400


def test_the_rate_is_that_of_the_arithmetic_and_of_all_threads():
    assert MACHINE.rate("fp32").threads == 2
    assert MACHINE.rate("bf16", 1).gflops == 50.0


def test_numbers_are_said_as_people_say_them():
    assert [seconds(value) for value in (0.00123, 0.0456, 1.234, 62.0)] == ["1.23 ms", "45.6 ms", "1.23 s", "62 s"]
    assert [duration(value) for value in (7, 89, 91, 3600, 12_000)] == ["7 s", "89 s", "2 min", "60 min", "3 h 20 min"]


def test_a_tables_columns_line_up():
    lines = text_table(("what", "a"), [("x", "1.5"), ("longer", "10")])
    assert lines == ["what      a", "x       1.5", "longer   10"]


def test_the_work_is_a_dataset_like_any_other(work):
    again = Dataset.open(work.root)
    assert [len(again.split(split).images) for split in ("train", "valid")] == [2, 1]
    for image in again.images:
        assert again.read_image(image).shape == (SIDE, SIDE, 3)
        assert len(image.objects) == OBJECTS
        mask = again.read_mask(image.objects[0])
        assert mask.sum() == image.objects[0].area > 0


def test_the_same_seed_draws_the_same_work(work, tmp_path):
    again = write_work(tmp_path / "again", 2)
    files = [path for path in again.root.rglob("*") if path.is_file()]
    assert len(files) == 3 + 3 * OBJECTS + 2
    for file in files:
        assert (work.root / file.relative_to(again.root)).read_bytes() == file.read_bytes(), file


def test_rates_are_measured_and_threads_left_as_they_were():
    before = torch.get_num_threads()
    found = matmul_rate("fp32", 1)
    assert found.gflops > 0
    assert found.size >= 256
    assert torch.get_num_threads() == before


def test_turns_are_real_steps_and_leave_no_checkpoint(work, model, tmp_path):
    started = set_up(work, BenchConfig(model=str(model), device="cpu"), tmp_path / "run", objects=2)
    assert len(embed_all(started)) == 3
    turns = Turns(started)
    weights = [_copies(started)]
    work = turns.count()
    assert work.flops > 1e6
    assert work.bytes > 1e6
    weights.append(_copies(started))
    assert turns.advance() > 0
    weights.append(_copies(started))
    assert not any(torch.equal(a, b) for a, b in pairwise(weights))
    assert started.state.progress.step == 3 * STEPS == 30
    assert not started.folder.last.exists()
    assert not started.folder.best.exists()


def _copies(started) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in started.parameters.values()])


@pytest.fixture
def heeds_interrupts():
    """SIGINT interrupts, also where whoever started the tests had it ignored, as shells do for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupted_turn_interrupts_the_benchmark(work, model, tmp_path):
    started = set_up(work, BenchConfig(model=str(model), device="cpu"), tmp_path / "run")
    watcher = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    turns = Turns(started)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10_000):
            turns.advance()


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_in_the_last_step_of_a_turn_is_not_lost(work, model, tmp_path, monkeypatch):
    started = set_up(work, BenchConfig(model=str(model), device="cpu"), tmp_path / "run")
    turns = Turns(started)
    turns.advance()
    update = Update.__call__

    def interrupted(self, step, figures):
        if step + 1 == 3 * STEPS:
            signal.raise_signal(signal.SIGINT)
        return update(self, step, figures)

    monkeypatch.setattr(Update, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.advance()


def test_the_command_says_all_of_it_as_json(model, capsys):
    short = ("--rounds", "1", "--steps", "30", "--images", "4", "--device", "cpu", "--json", "--quiet")
    assert run("bench", "--model", model, *short) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"format", "settings", "machine", "image_size", "precision", "encode_seconds", "steps"}
    assert found["settings"]["steps"] == 30
    assert len(found["encode_seconds"]) == len(found["look_seconds"]) == IMAGES
    assert [(step["images"], step["objects"], step["decoder"]) for step in found["steps"]] == [
        (images, objects, decoder) for images, objects in ((1, 1), (1, 8), (4, 4)) for decoder in ("fast", "plain")
    ]
    for step in found["steps"]:
        assert step["run"]["first"] > step["run"]["kept"] > 30 * step["median"] > 0
        assert step["gflop"] > 0
    assert {rate["dtype"] for rate in found["machine"]["rates"]} == {"fp32", "bf16"}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(["--model", "nanno"], "did you mean 'nano'"), (["--rounds", "0"], "--rounds"), (["--image", "3"], "--images")],
)
def test_a_mistake_is_answered_with_exit_code_2(capsys, tokens, expected):
    assert run("bench", *tokens) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said


def test_help_states_units_and_defaults(capsys):
    assert run("bench", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for expected in ("--model", "default: nano", "Training images", "--json", "seconds"):
        assert expected in said
