"""Steps in parts: they teach what whole steps teach, memory decides where to cut, and what cannot fit is refused."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from samtune.config import OptimizerConfig, TrainableConfig, TrainConfig
from samtune.errors import ConfigError, SamtuneError
from samtune.model.io.save import save_model
from samtune.runtime.memory import free_memory, is_out_of_memory
from samtune.training.footprint import measure_footprint, rough_footprint
from samtune.training.loop import train
from samtune.training.memory import WithinMemory, fit_to_memory
from samtune.training.run import new
from samtune.training.step import learn
from samtune.training.tracking.events import StepDone
from tests.small import make_dataset
from tests.tiny import tiny_sam2

IMPOSSIBLE = 1 << 50


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set").root


@pytest.fixture
def setup(dataset, tiny_folder, tmp_path):
    """Makes runs with some settings."""

    def make(name, model=tiny_folder, **settings):
        plain = {"steps": 4, "device": "cpu", "precision": "fp32", "cache": False}
        return new(dataset, TrainConfig(model=str(model), out=tmp_path / name, **(plain | settings)))

    return make


@contextmanager
def address_space(more):
    """Inside, the process gets `more` bytes of memory and no more."""
    used = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x).split()[1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def losses(run):
    seen = []
    train(run, [seen.append])
    return [event.loss for event in seen if isinstance(event, StepDone)]


@pytest.mark.parametrize("what", ["decoder", "all"])
def test_parts_of_a_step_teach_what_the_whole_teaches(setup, what):
    settings = {"trainable": TrainableConfig(train=what), "optimizer": OptimizerConfig(lr=1e-3, clip=10.0)}
    whole = losses(setup("whole", images_per_step=4, **settings))
    parts = losses(setup("parts", images_per_step=4, batch=3, **settings))
    added = losses(setup("added", images_per_step=2, accumulate=2, batch=1, chunk=3, **settings))
    assert parts == pytest.approx(whole, rel=1e-3)
    assert added == pytest.approx(whole, rel=1e-3)


def test_no_more_images_go_through_at_once_than_a_step_has(setup):
    assert setup("few", images_per_step=2, batch=8).images_at_once == 2
    assert setup("added", images_per_step=2, accumulate=2, batch=8).images_at_once == 4
    assert setup("fewer", images_per_step=4, batch=3).images_at_once == 3


def test_a_step_that_does_not_fit_is_cut_and_done_again(setup):
    run, plain = setup("run", images_per_step=4), setup("plain", images_per_step=4)
    said = []

    def greedy(batch, counts):
        """Takes more memory than there is for more than one image and two prompts, after some gradients are there."""
        figures = learn(run, batch, counts)
        if run.images_at_once > 1 or run.chunk > 2:
            torch.empty(IMPOSSIBLE)
        return figures

    within = WithinMemory(run, greedy, greedy, said.append)
    batch = run.batches[0]
    figures, expected = within(batch), learn(plain, batch)
    assert (run.images_at_once, run.chunk) == (1, 2)
    assert "1 images x 2 prompts" in said[-1]
    assert float(figures["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
    for name, parameter in run.parameters.items():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, plain.parameters[name].grad, atol=1e-4, rtol=1e-3)
    again = len(said)
    within(run.batches[1])
    assert len(said) == again  # it stays so


def test_one_image_and_one_prompt_that_do_not_fit_end_the_run(setup):
    run = setup("run")

    def impossible(batch, counts):
        return {"loss": torch.empty(IMPOSSIBLE)}

    with pytest.raises(SamtuneError, match="one image and one prompt"):
        WithinMemory(run, impossible, impossible, str)(run.batches[0])


def test_other_errors_are_not_about_memory(setup):
    run = setup("run")

    def broken(batch, counts):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        WithinMemory(run, broken, broken, str)(run.batches[0])
    assert is_out_of_memory(MemoryError())


def test_limits_of_the_process_count():
    free = free_memory(torch.device("cpu"))
    assert free is not None and free > 100_000_000
    with address_space(300_000_000):
        assert 200_000_000 < free_memory(torch.device("cpu")) <= 300_000_000


@pytest.mark.parametrize("what", ["decoder", "all"])
def test_the_estimate_grows_with_what_it_is_about_and_leaves_no_gradients(setup, what):
    run = setup("run", trainable=TrainableConfig(train=what), cache=what == "decoder")
    found = measure_footprint(run)
    assert found.encoder_learns == (what != "decoder")
    assert 0 < found.bytes(1, 1) < found.bytes(1, 16) < rough_footprint(run)
    assert found.each_prompt > 4 * 16 * 16 * 4  # at least its masks
    assert (found.bytes(4, 1) - found.bytes(1, 1) >= 3 * found.encoder) == found.encoder_learns
    assert all(parameter.grad is None for parameter in run.parameters.values())


def test_what_cannot_fit_is_said_before_it_starts(setup, tmp_path):
    save_model(tiny_sam2(seed=0, size=512), tmp_path / "large")
    run = setup("run", model=tmp_path / "large", images_per_step=2)
    whole = measure_footprint(run).bytes(1, run.chunk)  # imports what it needs, which takes memory too
    with address_space(8_000_000), pytest.raises(ConfigError, match="one image and one prompt at once, about") as no:
        fit_to_memory(run)
    assert "--train decoder" in str(no.value.do)
    fixed = setup("fixed", model=tmp_path / "large", batch=1)
    with address_space(8_000_000), pytest.raises(ConfigError, match="--batch auto"):
        fit_to_memory(fixed)
    again = setup("again", model=tmp_path / "large", images_per_step=2)
    with address_space(round(whole)):
        said = fit_to_memory(again)
    assert 1 <= again.chunk < 16
    assert f"1 image x {again.chunk} prompt" in said
