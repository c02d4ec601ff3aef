"""Training for real, on a tiny model and few images: it learns, it repeats, interruption costs not a bit."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from samtune import api
from samtune.config import LossConfig, OptimizerConfig, PromptPolicy, TrainableConfig, TrainConfig
from samtune.data.low_res import low_res_targets
from samtune.data.order import EpochOrder
from samtune.data.table import Dataset
from samtune.errors import ConfigError, DataError, ModelError, StorageError
from samtune.model.io.load import load_model
from samtune.training.batches import BACKGROUND, OBJECT, Sampling, TrainingBatches, loader
from samtune.training.checkpoint import save_last
from samtune.training.loop import SHARES, train
from samtune.training.optimizer import lr_factor
from samtune.training.run import new, resumed
from samtune.training.step import learn
from samtune.training.tracking.events import Event, Noted, StepDone, Validated
from tests.small import make_dataset
from tests.system import full_disk

STEPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def model(tiny_folder):
    return str(tiny_folder)


@pytest.fixture
def config(model, tmp_path):
    return TrainConfig(
        model=model,
        out=tmp_path / "run",
        steps=STEPS,
        eval_every=4,
        images_per_step=2,
        device="cpu",
        precision="fp32",
        cache=False,
        optimizer=OptimizerConfig(lr=1e-3, clip=1.0),
    )


def weights(run):
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_it_learns_what_it_is_shown(dataset, config):
    """From random weights, so with the loss that gets a decoder going."""
    optimizer = OptimizerConfig(lr=3e-3, clip=1.0)
    loss = LossConfig(focal=0.0, bce=1.0)
    config = config.model_copy(update={"steps": 80, "eval_every": 80, "optimizer": optimizer, "loss": loss})
    told: list = []
    train(new(dataset.root, config), [told.append])
    base, tuned = (event.metrics["valid/box"] for event in told if isinstance(event, Validated))
    assert tuned > base + 0.1
    losses = [event.loss for event in told if isinstance(event, StepDone)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_only_the_decoder_changes_and_the_counts_say_so(dataset, config):
    run = new(dataset.root, config)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    train(run)
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)
    about = json.loads(run.folder.about.read_text())["trainable"]
    learning = sum(p.numel() for name, p in run.model.named_parameters() if name in run.parameters)
    assert about["parameters"] == learning
    assert about["parameters"] + about["frozen"] == sum(p.numel() for p in run.model.parameters())


POLICIES = {
    "boxes": PromptPolicy(preset="boxes"),
    "the mixture": PromptPolicy(preset="mixture"),
    "mixed with corrections and background": PromptPolicy(box=0.5, point=0.5, correction_clicks=2, negative=0.5),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_goes_on_with_the_same_numbers(dataset, config, tmp_path, policy, ema):
    config = config.model_copy(update={"prompts": policy, "optimizer": OptimizerConfig(lr=1e-3, ema=ema)})
    whole = new(dataset.root, config)
    straight: list = []
    train(whole, [straight.append])

    cut = new(dataset.root, config.model_copy(update={"out": tmp_path / "cut"}))
    first = []

    def interrupt(event):
        first.append(event)
        if isinstance(event, Validated) and event.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    ended = train(cut, [interrupt])
    assert ended.signal == signal.SIGTERM
    assert 4 <= ended.step < STEPS
    rest: list = []
    again = resumed(tmp_path / "cut")
    train(again, [rest.append])

    same(weights(whole), weights(again))
    if whole.state.average is not None:
        same(whole.state.average.values, again.state.average.values)

    def figures(events):
        return [(e.step, e.loss, e.train_iou, e.lr) for e in events if isinstance(e, StepDone)]

    assert figures(first) + figures(rest) == figures(straight)


@pytest.mark.parametrize("what", ["decoder+prompt-encoder", "lora", "decoder+encoder-last-1", "all"])
def test_whatever_learns_changes_and_resumes(dataset, config, tmp_path, what):
    config = config.model_copy(update={"trainable": TrainableConfig(train=what, lora_rank=2), "steps": 6})
    whole = new(dataset.root, config)
    before = weights(whole)
    train(whole)
    moved = [name for name, tensor in weights(whole).items() if not torch.equal(tensor, before[name])]
    assert any(name.startswith("mask_decoder.") for name in moved) == (what != "lora")
    if what != "decoder+prompt-encoder":
        assert any(name.startswith("vision_encoder.") for name in moved)

    cut = new(dataset.root, config.model_copy(update={"out": tmp_path / "cut"}))
    train(cut, [lambda event: os.kill(os.getpid(), signal.SIGINT) if isinstance(event, Validated) else None])
    again = resumed(tmp_path / "cut")
    assert again.state.progress.step < 6
    train(again)
    same(weights(whole), weights(again))


def test_a_second_run_in_one_process_may_have_another_precision(dataset, config, tmp_path):
    runs = [
        new(dataset.root, config.model_copy(update={"precision": precision, "out": tmp_path / precision}))
        for precision in ("bf16", "fp32")
    ]
    assert [run.precision for run in runs] == ["bf16", "no"]


def test_chunks_give_the_encoder_the_gradient_of_the_whole(dataset, config, tmp_path):
    learns_all = TrainableConfig(train="all", gradient_checkpointing=False)
    runs = []
    for chunk, out in ((32, "together"), (1, "apart")):
        update = {"trainable": learns_all, "chunk": chunk, "out": tmp_path / out, "precision": "fp32"}
        run = new(dataset.root, config.model_copy(update=update))
        learn(run, run.batches[0])
        runs.append(run)
    checked = 0
    for name, parameter in runs[0].parameters.items():
        if parameter.grad is not None and name.startswith("vision_encoder."):
            torch.testing.assert_close(parameter.grad, runs[1].parameters[name].grad, atol=1e-4, rtol=1e-3)
            checked += bool(parameter.grad.any())
    assert checked > 10


def test_chunks_of_objects_change_nothing_but_memory(dataset, config, tmp_path):
    together = new(dataset.root, config)
    train(together)
    apart = new(dataset.root, config.model_copy(update={"chunk": 2, "out": tmp_path / "apart"}))
    train(apart)
    for name, tensor in weights(together).items():
        torch.testing.assert_close(tensor, weights(apart)[name], atol=2e-4, rtol=1e-3, msg=name)


def test_workers_load_the_same_batches(dataset):
    sampling = Sampling(16, 2, 3, True, 7, PromptPolicy(box=0.5, point=0.5, negative=0.3))
    batches = TrainingBatches(dataset.split("train"), sampling)
    alone = list(loader(batches, 2, 6, workers=0))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    helped = list(loader(batches, 2, 6, workers=min(2, processors)))  # more than processors would be warned of
    for ours, theirs in zip(alone, helped, strict=True):
        assert ours.views == theirs.views
        assert torch.equal(ours.image_index, theirs.image_index)
        for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
            assert torch.equal(mine, other)


def test_every_image_comes_once_per_pass(dataset):
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 1, 8, False, 3, PromptPolicy(preset="boxes")))
    seen = [batches[step].views[0].image.image_id for step in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [f"train-{index}" for index in range(5)]
    assert seen[:5] != seen[5:]


class CountedOrder(EpochOrder):
    """Notes which epochs' permutations were made."""

    def __init__(self, count, seed):
        super().__init__(count, seed)
        self.made = []

    def permutation(self, epoch):
        self.made.append(epoch)
        return super().permutation(epoch)


def test_each_epoch_is_shuffled_once_however_many_images_are_asked_for():
    """Also while reading ahead looks into the next epoch."""
    order = CountedOrder(1000, seed=1)
    for number in range(2500):
        order(number)
        order(number + 64)
    assert order.made == [0, 1, 2]
    for epoch in range(2):
        assert sorted(order(epoch * 1000 + place) for place in range(1000)) == list(range(1000))


def test_a_mirrored_view_has_mirrored_targets_and_boxes(dataset):
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 1, 8, True, 1, PromptPolicy(preset="boxes")))
    flipped = next(batch for step in range(20) if (batch := batches[step]).views[0].change.mirrored)
    image = flipped.views[0].image
    found = sorted((box[2] - box[0]) * image.width / 16 for box in flipped.boxes.tolist())
    assert found == pytest.approx(sorted(one.box[2] - one.box[0] for one in image.objects))
    straight = [dataset.read_mask(one) for one in image.objects]
    together = torch.from_numpy(low_res_targets(straight, 16)).int().sum(0)
    assert torch.equal(flipped.covered.int().sum(0).flip(-1), together)
    for box, target in zip(flipped.boxes, flipped.targets, strict=True):
        rows, columns = torch.nonzero(target).unbind(1)
        assert columns.min() >= box[0].floor()
        assert columns.max() < box[2].ceil()
        assert rows.min() >= box[1].floor()


def test_images_without_objects_teach_the_object_score(dataset):
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 6, 8, False, 0, PromptPolicy(negative=0.5)))
    batch = batches[0]
    assert {view.image.image_id for view in batch.views} == {f"train-{index}" for index in range(6)}
    empty = next(place for place, view in enumerate(batch.views) if not view.image.objects)
    assert not batch.targets[batch.image_index == empty].any()
    assert (batch.image_index == empty).any()


def test_a_run_that_helps_nothing_keeps_the_base_model(dataset, config):
    run = new(dataset.root, config.model_copy(update={"optimizer": OptimizerConfig(lr=1e-12)}))
    assert train(run).best_step == 0
    before = load_model(config.model).model.state_dict()
    for name, tensor in load_model(run.folder.best).model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.fixture
def learnt(dataset, config):
    """A run of clicks that has learnt something, from random weights; finished."""
    settings = {"steps": 16, "eval_every": 16, "optimizer": OptimizerConfig(lr=3e-3, clip=1.0)}
    settings |= {"loss": LossConfig(focal=0.0, bce=1.0), "prompts": PromptPolicy(point=1)}
    run = new(dataset.root, config.model_copy(update=settings))
    assert train(run).best_step == 16
    return run


def test_the_best_weights_are_a_model_and_a_run_is_one_too(learnt):
    stored = load_file(learnt.folder.best / "model.safetensors")
    loaded = load_model(learnt.folder.path).model.state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, stored[name])
    same({name: loaded[name] for name in learnt.parameters}, weights(learnt))


def test_last_weights_that_lose_are_taken_back_towards_the_base_model(learnt):
    """Weights five times as far from the base model as those that training had found, as if it had gone too far."""
    run, found = learnt, weights(learnt)
    start = {name: tensor.clone() for name, tensor in run.state.start.items()}
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(torch.lerp(start[name], found[name], 5.0))
    base = run.state.progress.base
    kept = {"best_step": 0, "best_iou": base["point"], "lost": ("point",)}
    run.state.progress = replace(run.state.progress, **kept)
    far = weights(run)
    save_last(run.folder, run.state)

    again, told = resumed(run.folder.path), list[Event]()
    finished = train(again, [told.append])
    assert finished.best_step == 16
    assert finished.best_share < 1
    same(weights(again), far)
    stored = load_file(again.folder.best / "model.safetensors")
    for name in found:
        torch.testing.assert_close(stored[name], torch.lerp(start[name], far[name], finished.best_share))
    notes = [event.text for event in told if isinstance(event, Noted)]
    assert notes[0].startswith("the last weights lose") and len(notes) == 1 + len(SHARES)

    (listed,) = api.runs(run.folder.path.parent).runs
    assert listed.best_at == f"16, {finished.best_share:.0%}"
    assert base["point"] < listed.best["point"] == again.state.progress.best_iou
    assert listed.best == again.state.progress.best

    before = again.folder.best.stat().st_mtime_ns
    once_more = train(resumed(run.folder.path))
    assert (once_more.best_share, again.folder.best.stat().st_mtime_ns) == (finished.best_share, before)


def test_weights_that_lose_a_kind_of_prompt_are_never_the_best(dataset, config, learnt):
    """A model that knows clicks, from which boxes go astray: the mean over both kinds would not be asked."""
    settings = {"model": str(learnt.folder.path), "out": config.out.with_name("next"), "steps": 2, "eval_every": 1}
    settings |= {"optimizer": OptimizerConfig(lr=0.3, warmup=0.0, clip=10.0), "prompts": PromptPolicy(box=1, point=1)}
    run, told = new(dataset.root, config.model_copy(update=settings)), list[Event]()
    train(run, [told.append])
    base, *others = [event for event in told if isinstance(event, Validated)]
    assert not base.lost and base.best
    assert others[-1].lost
    for event in others:
        changes = {kind: event.metrics[f"valid/{kind}"] - base.metrics[f"valid/{kind}"] for kind in ("box", "point")}
        assert list(event.lost) == [kind for kind, change in changes.items() if change <= -0.005]
        assert not (event.lost and event.best)


def test_without_held_out_objects_the_last_weights_are_the_best(tmp_path, config):
    data = make_dataset(tmp_path / "set", valid=0)
    run = new(data.root, config.model_copy(update={"optimizer": OptimizerConfig(lr=0.3, clip=10.0)}))
    assert train(run).best_step == STEPS
    assert run.state.progress.lost == ()


@pytest.mark.parametrize(("steps", "lr"), [(1, 2e-4), (300, 2e-4), (1000, 1.5e-4), (3000, 5e-5), (9000, 5e-5)])
def test_fewer_steps_take_larger_ones(steps, lr):
    assert OptimizerConfig().lr_of(steps) == pytest.approx(lr)
    assert OptimizerConfig(lr=1e-3).lr_of(steps) == 1e-3


def test_a_small_encoder_learns_at_half_of_the_decoders_rate():
    assert OptimizerConfig().encoder_lr_of(4_000_000, 2e-4) == pytest.approx(1e-4)
    assert OptimizerConfig().encoder_lr_of(27_000_000, 2e-4) == 3e-6
    assert OptimizerConfig(encoder_lr=1e-5).encoder_lr_of(4_000_000, 2e-4) == 1e-5


def test_the_learning_rate_warms_up_and_decays():
    config = OptimizerConfig(warmup=0.1, final_lr=0.1)
    rates = [lr_factor(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_run_folder_that_holds_something_is_left_alone(dataset, config):
    config.out.mkdir()
    (config.out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="new or empty"):
        new(dataset.root, config)
    assert [file.name for file in config.out.iterdir()] == ["mine.txt"]


def test_a_split_without_objects_is_named(dataset, config):
    nothing = Dataset(dataset.root, dataset.table.clear())
    with pytest.raises(DataError, match="at least one object"):
        TrainingBatches(nothing, Sampling(16, 1, 1, False, 0, PromptPolicy()))


@pytest.mark.parametrize("damage", ["missing", "truncated", "no run"])
def test_a_checkpoint_that_cannot_be_resumed_is_named(dataset, config, damage):
    run = new(dataset.root, config)
    train(run)
    for place in (run.folder.last, run.folder.previous):
        state = place / "state.safetensors"
        if damage == "missing":
            state.unlink()
        elif damage == "truncated":
            state.write_bytes(state.read_bytes()[:1000])
    if damage == "no run":
        run.folder.config.unlink()
    with pytest.raises(ModelError):
        resumed(run.folder.path)


@pytest.mark.parametrize("save", ["save_best", "save_last"])
def test_a_full_disk_is_said_and_leaves_the_checkpoint_that_was_there(dataset, config, save):
    config = config.model_copy(update={"trainable": TrainableConfig(train="lora")})
    run = new(dataset.root, config)
    finished = train(run)
    before = {file: file.read_bytes() for file in run.folder.path.rglob("*.safetensors")}
    with full_disk(2_000), pytest.raises(StorageError, match=r"in +.*checkpoints/(best|last)\n"):
        run.save_best() if save == "save_best" else save_last(run.folder, run.state)
    assert {file: file.read_bytes() for file in run.folder.path.rglob("*.safetensors")} == before
    assert finished.step == STEPS


def test_crowd_regions_are_ignored_except_where_an_object_is(dataset):
    """One object called a crowd: it is not asked for, and its pixels are ignored for the others, not their own."""
    is_first = pl.col("annotation_id") == "train-0-0"
    crowded = replace(dataset, table=dataset.table.with_columns(iscrowd=pl.col("iscrowd") | is_first))
    batches = TrainingBatches(crowded.split("train"), Sampling(16, 5, 8, False, 0, PromptPolicy(negative=0.5)))
    crowd = low_res_targets([dataset.read_mask(dataset.images[0].objects[0])], 16)[0] > 0
    batch = batches[0]
    looked = 0
    for target, ignored, number in zip(batch.targets, batch.ignored, batch.image_index.tolist(), strict=True):
        expected = torch.from_numpy(crowd) & (target == 0) if batch.views[number].image.image_id == "train-0" else 0
        assert torch.equal(ignored, torch.as_tensor(expected).expand_as(ignored).bool())
        looked += bool(ignored.any())
    assert looked > 1
    plain = TrainingBatches(dataset.split("train"), Sampling(16, 5, 8, False, 0, PromptPolicy()))[0]
    assert plain.ignored.shape == (len(plain), 0, 0)


def test_each_object_is_asked_for_in_every_kind_where_a_step_has_several_prompts_of_it(dataset):
    policy = PromptPolicy(box=0.5, point=0.5, negative=0.5, per_object=2)
    once = TrainingBatches(
        dataset.split("train"), Sampling(16, 5, 8, False, 0, policy.model_copy(update={"per_object": 1}))
    )
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 5, 8, False, 0, policy))
    for step in range(8):
        single, batch = once[step], batches[step]
        objects = batch.kinds == OBJECT
        pairs = batch.covered[objects].unflatten(0, (-1, 2))
        assert torch.equal(pairs[:, 0], pairs[:, 1])
        assert torch.equal(pairs[:, 0], single.covered[single.kinds == OBJECT])
        is_box = (batch.prompts(policy).labels[objects] == 2).any(1).unflatten(0, (-1, 2))
        assert (is_box.sum(1) == 1).all()
        assert (batch.kinds == BACKGROUND).any()


def test_steps_take_turns_as_the_policy_says(dataset):
    policy = PromptPolicy(mask_steps=0.2, correction_steps=0.3, correction_clicks=2)
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 1, 8, False, 0, policy))
    found = [batches[step] for step in range(300)]
    assert sum(one.has_masks for one in found) / 300 == pytest.approx(0.2, abs=0.06)
    assert sum(one.corrections == 2 for one in found) / 300 == pytest.approx(0.3, abs=0.07)
    assert not any(one.has_masks and one.corrections for one in found)
    assert all((one.prompts(policy).masks is not None) == one.has_masks for one in found[:20])


def test_the_last_steps_ask_with_boxes(dataset):
    policy = PromptPolicy(box=0.2, point=0.8, negative=0.5, boxes_last=0.4)
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 2, 8, False, 0, policy, steps=10))
    shares = []
    for step in range(10):
        batch = batches[step]
        shares.append((batch.prompts(policy).labels[batch.kinds == OBJECT] == 2).any(1).float().mean().item())
    assert max(shares[:6]) < 1
    assert shares[6:] == [1.0] * 4
    endless = TrainingBatches(dataset.split("train"), Sampling(16, 2, 8, False, 0, policy))
    assert all(torch.equal(one, two) for one, two in zip(endless[5].tensors, batches[5].tensors, strict=True))
    with pytest.raises(ValidationError, match="boxes_last goes with boxes"):
        PromptPolicy(point=1, boxes_last=0.5)


@pytest.mark.parametrize("each", [1, 2])
def test_a_neighbour_is_another_object_and_background_boxes_are_free(dataset, each):
    policy = PromptPolicy(points=1.0, negative=0.5, negative_boxes=1.0, per_object=each)
    batches = TrainingBatches(dataset.split("train"), Sampling(16, 1, 8, False, 0, policy))
    neighbours, boxes = 0, 0
    for step in range(20):
        batch = batches[step]
        everything = (batch.covered > 0).any(0)
        for target, (x, y), box, kind in zip(
            batch.covered, batch.neighbours.tolist(), batch.boxes.long().tolist(), batch.kinds, strict=True
        ):
            if x >= 0:
                assert target[int(y), int(x)] == 0
                assert everything[int(y), int(x)]
                neighbours += 1
            if kind == BACKGROUND and box[2] > box[0]:
                assert not everything[box[1] : box[3], box[0] : box[2]].any()
                boxes += 1
    assert neighbours > 20
    assert boxes > 5
