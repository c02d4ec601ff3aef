"""Steps on grids, as a GPU takes them: the same loss and gradients as a batch as it comes; recorded where a GPU is."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from samtune.config import LossConfig, OptimizerConfig, PromptPolicy, TrainableConfig, TrainConfig
from samtune.training.batches import OBJECT, PADDED
from samtune.training.cuda_graphs import RecordedSteps, StaticInputs, grid_size, gridded, learner
from samtune.training.loop import train
from samtune.training.run import new, resumed
from samtune.training.step import count_prompts, learn, learn_from, learn_on_grid
from samtune.training.tracking.events import StepDone, Validated
from tests.small import make_dataset

POLICIES = {
    "boxes": PromptPolicy(preset="boxes"),
    "the mixture, every step with masks": PromptPolicy(
        preset="mixture", mask_steps=1.0, negative=0.5, negative_boxes=1.0
    ),
    "the mixture, every step corrected": PromptPolicy(
        preset="mixture", mask_steps=0.0, correction_steps=1.0, negative=0.5
    ),
    "everything": PromptPolicy(box=0.5, point=0.5, correction_clicks=2, negative=0.5),
    "clicks in the middle": PromptPolicy(box=0.0, point=1.0, point_at="center", correction_clicks=1),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def start(dataset, tiny_folder, tmp_path):
    """Starts runs that differ in some settings."""
    made = []

    def start(**settings):
        made.append(settings)
        common = {"model": str(tiny_folder), "images_per_step": 3, "objects_per_image": 4, "steps": 12, "device": "cpu"}
        out = tmp_path / f"run-{len(made)}"
        return new(dataset.root, TrainConfig(**common | {"out": out, "precision": "fp32", "flip": True} | settings))

    return start


def gradients(run):
    found = {name: parameter.grad for name, parameter in run.parameters.items()}
    run.state.optimizer.zero_grad(set_to_none=True)
    return found


def assert_same(found, expected, atol=1e-5):
    figures, learned = found
    expected_figures, expected_learned = expected
    assert figures.keys() == expected_figures.keys()
    for name, value in figures.items():
        torch.testing.assert_close(value, expected_figures[name], atol=1e-5, rtol=1e-4, msg=name)
    scale = max(float(gradient.norm()) for gradient in expected_learned.values() if gradient is not None)
    for name, gradient in learned.items():
        other = expected_learned[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            assert float((gradient - other).norm()) <= 1e-3 * float(other.norm()) + atol * scale, name


def test_a_grid_compares_masks_at_a_finer_scale_too(start):
    run = start(prompts=POLICIES["everything"], loss=LossConfig(scale=2, edge_bce=0.5))
    expected = learn(run, run.batches[0]), gradients(run)
    assert run.batches[0].fine.shape[-1] == 2 * run.batches[0].covered.shape[-1]
    assert_same((learn_on_grid(run, gridded(run, run.batches[0])), gradients(run)), expected)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("chunk", [0, 4])
def test_a_grid_learns_what_the_batch_learns(start, policy, chunk):
    """Ragged counts, images without objects, corrections, memory chunks."""
    run = start(prompts=policy, chunk=chunk, trainable=TrainableConfig(train="decoder+prompt-encoder"))
    ragged = 0
    for step in range(3):
        batch = run.batches[step]
        expected = learn(run, batch), gradients(run)
        found = learn_on_grid(run, gridded(run, batch)), gradients(run)
        assert_same(found, expected)
        ragged += len(set(batch.counts)) > 1
    assert ragged


def test_a_grid_learns_it_in_bf16_too(start):
    """Types must fit in the backward pass of a grid as well; the numbers are bf16's."""
    run = start(prompts=POLICIES["everything"], precision="bf16")
    expected, by_batch = learn(run, run.batches[0]), gradients(run)
    found, by_grid = learn_on_grid(run, gridded(run, run.batches[0])), gradients(run)
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
    whole = [torch.cat([one.flatten() for one in them.values() if one is not None]) for them in (by_batch, by_grid)]
    assert torch.cosine_similarity(*whole, dim=0) > 0.95


def test_a_grid_gives_the_encoder_the_same_gradient(start):
    run = start(trainable=TrainableConfig(train="all", gradient_checkpointing=False), cache=False)
    batch = run.batches[0]
    expected = learn(run, batch), gradients(run)
    assert_same((learn_on_grid(run, gridded(run, batch)), gradients(run)), expected)
    assert any(name.startswith("vision_encoder.") and bool(value.any()) for name, value in expected[1].items())


def test_inputs_written_over_give_what_new_ones_give(start):
    """What a recording does between replays, without the recording."""
    run = start(prompts=POLICIES["everything"])
    grids = [run.batches[step].grid(8) for step in range(2)]
    inputs = StaticInputs(run.embed_step(grids[0]), grids[0], count_prompts(run, grids[0]))
    inputs.copy_from(run.embed_step(grids[1]), grids[1], count_prompts(run, grids[1]))
    found = inputs.learn(run), gradients(run)
    assert_same(found, (learn_on_grid(run, grids[1]), gradients(run)), atol=0.0)


def test_a_grid_is_the_batch_and_padding(start):
    run = start(prompts=POLICIES["everything"])
    batch = next(batch for step in range(12) if len(set((batch := run.batches[step]).counts)) > 1)
    grid = batch.grid(8)
    assert grid.counts == [8, 8, 8]
    for mine, other in zip(grid.tensors, batch.tensors, strict=True):
        assert torch.equal(mine[grid.counted], other)
    assert (grid.kinds == PADDED).sum() == 24 - len(batch)
    parts = list(grid.columns(3))
    assert [part.counts for part in parts] == [[3, 3, 3], [3, 3, 3], [2, 2, 2]]
    assert sum(int((part.kinds == OBJECT).sum()) for part in parts) == int((batch.kinds == OBJECT).sum())


def test_grid_sizes_are_few_and_hold_little_padding():
    sizes = [grid_size(count) for count in range(1, 65)]
    assert len(set(sizes)) == 12
    assert all(count <= size and (size - count) * 3 < size for count, size in enumerate(sizes, 1))
    assert grid_size(0) == 1


def test_a_cpu_takes_batches_as_they_come(start):
    assert not isinstance(learner(start()), RecordedSteps)


class HostValues(TorchDispatchMode):
    """Notes every operation that brings a value from the host to the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)]
        lifted = operation is torch.ops.aten.lift_fresh.default
        if lifted or len({tensor.device.type for tensor in tensors}) > 1:
            self.seen.append(str(operation))
        return result


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_what_is_recorded_reads_no_value_and_takes_none_from_the_host(start, policy):
    """On tensors without storage: reading a value raises there, as it would break a recording."""
    run = start(prompts=policy, trainable=TrainableConfig(train="decoder+prompt-encoder"))
    grid = run.batches[0].grid(8)
    embeddings, grid = run.embed_step(grid).to("meta"), grid.to("meta")
    run.model.to("meta")
    run = replace(run, device=torch.device("meta"))
    with HostValues() as host:
        figures = learn_from(run, embeddings, grid, count_prompts(run, grid))
    assert host.seen == []
    assert all(value.is_meta and value.dim() == 0 for value in figures.values())
    assert any(parameter.grad is not None for parameter in run.model.mask_decoder.parameters())


def test_a_value_from_the_host_would_be_noticed():
    with HostValues() as host:
        torch.zeros(2, device="meta") + torch.tensor([1.0, 2.0], device="meta")
        torch.zeros(2, device="meta")[torch.tensor([0])]
    assert len(host.seen) >= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnAGpu:
    """Recorded steps against the same steps unrecorded, and nothing in them waits."""

    @pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_recorded_steps_learn_what_unrecorded_ones_learn(self, start, policy, precision):
        run = start(device="cuda", prompts=policy, precision=precision)
        recorded = learner(run)
        assert isinstance(recorded, RecordedSteps)
        for step in range(6):
            batch = run.batches[step]
            expected = learn_on_grid(run, gridded(run, batch)), gradients(run)
            assert_same((recorded(batch), gradients(run)), expected)
        assert recorded.is_recording

    @pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
    def test_no_step_waits_for_the_device(self, start, policy):
        run = start(device="cuda", prompts=policy, precision="bf16")
        for step in range(12):
            run.embed(run.batches.views(step))
        recorded = learner(run)
        batches = [run.batches[step].pin_memory() for step in range(12)]
        for batch in batches:
            recorded(batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                learn_on_grid(run, gridded(run, batch))
                recorded(batch)
                torch.nn.utils.clip_grad_norm_(run.parameters.values(), 0.1)
                run.state.optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_an_interrupted_run_goes_on_with_the_same_numbers(self, start):
        settings = {"device": "cuda", "prompts": POLICIES["everything"], "eval_every": 4}
        whole, cut = start(**settings), start(**settings)
        train(whole)
        train(cut, [lambda event: os.kill(os.getpid(), signal.SIGTERM) if isinstance(event, Validated) else None])
        assert cut.state.optimizer.state[next(iter(cut.parameters.values()))]["step"].is_cuda
        again = resumed(cut.folder.path)
        assert 0 < again.state.progress.step < 12
        train(again)
        for name, parameter in whole.parameters.items():
            assert torch.equal(parameter, again.parameters[name]), name

    def test_a_gpu_learns_what_a_cpu_learns(self, start):
        """The same draws, and fp32 on both."""
        settings = {"prompts": POLICIES["everything"], "optimizer": OptimizerConfig(lr=1e-3)}
        told = {}
        for device in ("cpu", "cuda"):
            events: list = []
            train(start(device=device, **settings), [events.append])
            told[device] = [event.loss for event in events if isinstance(event, StepDone)]
        assert told["cuda"] == pytest.approx(told["cpu"], rel=1e-2)
