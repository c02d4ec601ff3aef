"""Pre-training of `nano`: from random weights to a small SAM 2, on scenes drawn by chance. See docs/nano.md.

The recipe, in stages of growing input size:

1. Prompts before pictures. Prompt encoder and mask decoder alone learn what a box and a click mean: the image embedding
   is noise, the answer an ellipse inside the box or a disc around the click. Without this, joint training stalls.
2. Pictures. Everything learns together on crops of procedural scenes: boxes, tight and jittered, and clicks; clicks on
   the background, whose answer is "no object"; and, in a share of the steps, a second round with a correction click and
   the first round's mask. The loss is the one used for tuning, so all four mask tokens and all heads learn.

What a step does is a function of the seed and the step's number: an interrupted run goes on with the same numbers.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Model

from samtune.config import LossConfig, PretrainConfig, PretrainStage, PromptPolicy
from samtune.model.architecture import input_size
from samtune.model.decoder.fast import decode
from samtune.model.decoder.reference import DecoderOutput, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings, encode
from samtune.model.io.load import load_model
from samtune.model.preprocess import MEAN, STD, upscale_masks
from samtune.nano.architecture import untrained_nano
from samtune.prompts.batch import LOW_RES_STRIDE, PromptBatch, low_res_to_input
from samtune.prompts.simulate import (
    CorrectionDraws,
    PromptDraws,
    background_prompts,
    correction_clicks,
    simulate_prompts,
)
from samtune.runtime.device import choose_device, configure_process
from samtune.runtime.precision import arithmetic, autocast
from samtune.synthetic.scenes import random_scene
from samtune.training.checkpoint import RunFolder, load_last, save_last
from samtune.training.losses.tuning import Loss, binary, hard_iou, tuning_loss
from samtune.training.optimizer import MovingAverage, make_optimizer
from samtune.training.state import Progress, TrainingState
from samtune.utils.files import new_file, new_folder
from samtune.utils.workers import cpu_count

BACKGROUND_CLICKS = 4
"""Clicks per image whose answer is "no object"."""

_TIGHT = PromptPolicy.model_validate({"box": 0.6, "point": 0.4, "box_jitter": 0.0})
_LOOSE = PromptPolicy.model_validate({"box": 0.6, "point": 0.4, "box_jitter": 0.1})
_LOOSE_SHARE = 0.2
"""Views with jittered boxes. More would teach that a box's edges cannot be trusted."""
_HELD_OUT_SEED = 1_000_003
_SMALLEST = 100
"""Smallest target, in visible input pixels."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work: B images, N prompts.

    Attributes:
        pixels: float32 `[B, 3, S, S]`, normalised.
        prompts: N prompts in input pixels.
        image_index: int64 `[N]`.
        targets: float32 `[N, S/4, S/4]`, the share of each low-res pixel the object covers; all zero for "no object".
    """

    pixels: Tensor
    prompts: PromptBatch
    image_index: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same work on `device`."""
        pixels, image_index, targets = (tensor.to(device) for tensor in (self.pixels, self.image_index, self.targets))
        return Batch(pixels, self.prompts.to(device), image_index, targets)


def pretrain(config: PretrainConfig, report: Callable[[Mapping[str, float]], None] | None = None) -> Path:
    """Run the recipe, or continue it from its last checkpoint.

    Args:
        config: what to do. Stages that lie ahead may be changed between sessions.
        report: called with every line of the log.

    Returns:
        The folder of the averaged weights in Hugging Face layout, fp16.

    Raises:
        ModelError: `start` is no model, or the checkpoint belongs to another architecture.
        StorageError: the disk refused.
    """
    bank = draw_scenes(config)
    device = choose_device(config.device)
    precision = arithmetic(config.precision, device)
    configure_process(device)
    model = load_model(config.start).model if config.start else untrained_nano(config.seed)
    nn.Module.to(model, device).train().requires_grad_(True)
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(_parameter_groups(parameters, config), device)
    average = MovingAverage(parameters, config.ema)
    state = TrainingState(parameters, optimizer, average)
    folder = RunFolder(config.out)
    if folder.last.exists():
        load_last(folder, state)
    log = _Log(folder.metrics, report)

    for step, stage, progress in _schedule(config, state.progress.step):
        set_input_size(model, stage.size)
        batch_loss = prompt_step if stage.subject == "prompts" else scene_step
        with autocast(device, precision):
            loss, measured = batch_loss(model, bank, stage, _generator(config.seed, step))
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(stage, progress)
        optimizer.step()
        average.update(step)
        log.add(step, {"loss": loss.total.item(), "norm": norm.item()} | measured)
        if (step + 1) % config.save_every == 0:
            state.progress = Progress(step + 1)
            save_last(folder, state)
        if (step + 1) % config.measure_every == 0:
            average.swap()
            log.write(step, measure(model, bank, config.held_out))
            average.swap()
            save_weights(model, average, config.out / "weights")
    state.progress = Progress(sum(stage.steps for stage in config.stages))
    save_last(folder, state)
    return save_weights(model, average, config.out / "weights")


def set_input_size(model: Sam2Model, size: int) -> None:
    """Let the model take pictures of another size, a multiple of 64 px, and say so in its config. No weight changes."""
    config: Any = model.config
    config.vision_config.backbone_config.image_size = [size, size]
    config.vision_config.backbone_feature_sizes = [[size // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = size
    encoder = model.prompt_encoder
    encoder.image_embedding_size = (size // 16, size // 16)
    encoder.mask_input_size = (size // 4, size // 4)
    encoder.input_image_size = size


def save_weights(model: Sam2Model, average: MovingAverage, folder: Path) -> Path:
    """Write the averaged weights in Hugging Face layout, fp16."""
    shipped = Sam2Model(model.config)
    shipped.load_state_dict(model.state_dict() | average.values)
    with new_folder(folder) as temporary:
        shipped.half().save_pretrained(temporary)
    return folder


# Steps.


def prompt_step(
    model: Sam2Model, bank: SceneBank, stage: PretrainStage, generator: torch.Generator
) -> tuple[Loss, dict[str, float]]:
    """Boxes and clicks on noise: the answer to a box is the ellipse in it, to a click a disc around it."""
    count, side = stage.images * stage.objects, stage.size / LOW_RES_STRIDE
    width, device = model.no_memory_embedding.shape[-1], model.no_memory_embedding.device

    def noise(channels: int, cells: int) -> Tensor:
        return torch.randn(stage.images, channels, cells, cells, generator=generator)

    cells = stage.size // 16
    embeddings = ImageEmbeddings(
        noise(width, cells), (noise(width // 8, cells * 4) * 0.3, noise(width // 4, cells * 2) * 0.3)
    )
    radius = side * (0.04 + 0.4 * torch.rand(count, 2, generator=generator) ** 2)
    is_click = torch.arange(count) % 3 == 0
    radius = torch.where(is_click[:, None], side * 0.12, radius)
    center = radius + torch.rand(count, 2, generator=generator) * (side - 2 * radius)
    grid = torch.arange(int(side)) + 0.5
    x, y = ((grid - center[:, i : i + 1]) / radius[:, i : i + 1] for i in (0, 1))
    distance = (x[:, None, :] ** 2 + y[:, :, None] ** 2).sqrt()
    targets = ((1 - distance) * radius.amin(1)[:, None, None] + 0.5).clamp(0, 1)
    boxes = PromptBatch.from_boxes(torch.cat([center - radius, center + radius], dim=1) * LOW_RES_STRIDE)
    clicks = PromptBatch.from_clicks((center * LOW_RES_STRIDE)[:, None])
    prompts = PromptBatch.cat([clicks.select(is_click), boxes.select(~is_click)]).to(device)
    targets = torch.cat([targets[is_click], targets[~is_click]]).to(device)
    image_index = torch.randint(stage.images, (count,), generator=generator)
    output = decode(model, embeddings.to(device), prompts, image_index.to(device))
    return tuning_loss(output, targets, stage.loss), _ious(output, targets, prompts)


def scene_step(
    model: Sam2Model, bank: SceneBank, stage: PretrainStage, generator: torch.Generator
) -> tuple[Loss, dict[str, float]]:
    """Prompts on crops of scenes; in a share of the steps with a second round."""
    batch = bank.batch(stage, generator).to(model.device)
    embeddings = encode(model, batch.pixels)
    output = decode(model, embeddings, batch.prompts, batch.image_index)
    loss, measured = tuning_loss(output, batch.targets, stage.loss), _ious(output, batch.targets, batch.prompts)
    if torch.rand(1, generator=generator) < stage.corrections:
        again, ious = _second_round(model, embeddings, batch, output, stage.loss, generator)
        loss = Loss(loss.total + again.total, loss.parts)
        measured["corrected"] = ious
    return loss, measured


def _second_round(
    model: Sam2Model,
    embeddings: ImageEmbeddings,
    batch: Batch,
    output: DecoderOutput,
    config: LossConfig,
    generator: torch.Generator,
) -> tuple[Loss, float]:
    """Correct each mask the model would have chosen by a click where it is wrong; the mask is a prompt too."""
    rows = torch.nonzero(batch.targets.flatten(1).amax(1) > 0).squeeze(1)
    targets = batch.targets[rows]
    chosen = output.iou_scores[rows].argmax(1)
    masks = output.masks[rows, chosen].detach().float()
    draws = CorrectionDraws.draw(len(rows), generator)
    points, labels = correction_clicks((masks > 0).cpu(), binary(targets).cpu(), _LOOSE, draws)
    points = low_res_to_input(points).to(masks.device)
    prompts = batch.prompts.select(rows).with_clicks(points, labels.to(masks.device))
    prompts = prompts.with_masks(masks[:, None].clamp(-32, 32))
    again = decode(model, embeddings, prompts, batch.image_index[rows])
    reached = hard_iou(again.masks[:, :1] > 0, binary(targets)[:, None]).mean()
    return tuning_loss(again, targets, config), float(reached)


def _ious(output: DecoderOutput, targets: Tensor, prompts: PromptBatch) -> dict[str, float]:
    """Mean IoU on the low-res grid (the single mask for boxes, the best of three for clicks); right object scores."""
    with torch.no_grad():
        present = targets.flatten(1).amax(1) > 0
        reached = hard_iou(output.masks > 0, binary(targets)[:, None])
        is_box = (prompts.labels == 2).any(1)
        boxes, clicks = present & is_box, present & ~is_box
        right = (output.object_score_logits > 0) == present
        values = {"box": reached[boxes, 0], "click": reached[clicks, 1:].amax(1), "object": right.float()}
        return {name: float(value.mean()) for name, value in values.items() if len(value)}


# Scenes.


@dataclass(frozen=True, slots=True)
class SceneBank:
    """Scenes on disk: `count` to learn from, `NNNNNN.npz`, and some to measure with, `held-out-NNNNNN.npz`."""

    folder: Path
    count: int

    def scene(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.int16]]:
        """Image `[S, S, 3]`, labels `[S, S]` and parents `[N]` (-1: none) of a scene."""
        with np.load(self.folder / f"{name}.npz") as stored:
            return stored["image"], stored["labels"], stored["parents"]

    def batch(self, stage: PretrainStage, generator: torch.Generator) -> Batch:
        """Views of random scenes with prompts."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        views: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(views) < stage.images:
            image, labels, parents = self.scene(f"{rng.integers(self.count):06d}")
            image, labels = _random_view(rng, image, labels, stage.size)
            masks = _object_masks(rng, labels, parents, stage.objects)
            if len(masks):
                views.append((_random_colors(rng, image), torch.from_numpy(masks), torch.from_numpy(labels > 0)))
        return _with_prompts(views, generator)


def draw_scenes(config: PretrainConfig) -> SceneBank:
    """Draw what is missing of the scenes under `out/scenes`."""
    bank = SceneBank(config.out / "scenes", config.scenes)
    wanted = [(f"{i:06d}", (config.seed, i)) for i in range(config.scenes)]
    wanted += [(f"held-out-{i:06d}", (config.seed, _HELD_OUT_SEED, i)) for i in range(config.held_out)]
    missing = [
        (bank.folder / f"{name}.npz", seed) for name, seed in wanted if not (bank.folder / f"{name}.npz").exists()
    ]
    if missing:
        workers = config.workers or cpu_count()
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(
                _draw_scene, *zip(*missing, strict=True), [config.scene_size] * len(missing), chunksize=8
            ):
                pass
    return bank


def _draw_scene(path: Path, seed: tuple[int, ...], size: int) -> None:
    cv2.setNumThreads(1)
    scene = random_scene(np.random.default_rng(seed), size)
    parents = np.array([-1 if parent is None else parent for parent in scene.parents], np.int16)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, image=scene.image, labels=scene.labels.astype(np.uint16), parents=parents)


def _random_view(
    rng: np.random.Generator, image: NDArray[np.uint8], labels: NDArray[np.uint16], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A random part of the scene, turned, mirrored, a little stretched, at the size of the input."""
    whole = image.shape[0]
    side = whole * np.exp(rng.uniform(np.log(0.3), 0.15))
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    width, height = (int(min(side * s, whole)) for s in (stretch, 1 / stretch))
    x, y = int(rng.integers(whole - width + 1)), int(rng.integers(whole - height + 1))
    window = np.s_[y : y + height, x : x + width]
    image, labels = _resized(image[window], labels[window], size)
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    return (image[:, ::-1], labels[:, ::-1]) if mirror else (image, labels)


def _resized(
    image: NDArray[np.uint8], labels: NDArray[np.uint16], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Both squashed to `size` by `size`."""
    how = cv2.INTER_AREA if min(labels.shape) > size else cv2.INTER_LINEAR
    small = cv2.resize(image, (size, size), interpolation=how)
    return np.asarray(small, np.uint8), np.asarray(
        cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16
    )


def _random_colors(rng: np.random.Generator, image: NDArray[np.uint8]) -> Tensor:
    """Exchange, scale and sometimes invert or drop the colours; normalised `[3, S, S]`."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.1:
        pixels = 255 - pixels
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.5:
        pixels = np.clip(pixels * rng.uniform(0.7, 1.3) + rng.uniform(-30, 30, 3), 0, 255)
    return _normalised(pixels)


def _normalised(pixels: NDArray[np.floating]) -> Tensor:
    """Values 0 to 255, `[S, S, 3]`, as the encoder takes them, `[3, S, S]`."""
    scaled = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32))


def _object_masks(
    rng: np.random.Generator, labels: NDArray[np.uint16], parents: NDArray[np.int16], most: int
) -> NDArray[np.bool_]:
    """Masks of at most `most` objects, large ones more often: bool `[K, S, S]`."""
    area = np.bincount(labels.ravel(), minlength=len(parents) + 1)[1:]
    for part in range(len(parents) - 1, -1, -1):
        if parents[part] >= 0:
            area[parents[part]] += area[part]
    candidates = np.flatnonzero((area >= _SMALLEST) & (area <= 0.9 * labels.size))
    if not len(candidates):
        return np.zeros((0, *labels.shape), bool)
    weight = np.sqrt(area[candidates])
    chosen = rng.choice(candidates, min(most, len(candidates)), replace=False, p=weight / weight.sum())
    families = [_family(int(index), parents) for index in chosen]
    member = np.zeros((len(families), len(parents) + 1), bool)
    for row, family in zip(member, families, strict=True):
        row[np.array(family) + 1] = True
    return member[:, labels]


def _family(index: int, parents: NDArray[np.int16]) -> list[int]:
    """An object and all its parts."""
    family = [index]
    for part in range(index + 1, len(parents)):
        if parents[part] in family:
            family.append(part)
    return family


def _with_prompts(views: list[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> Batch:
    """First prompts for the objects of each view, and clicks where there is none.

    A view is its pixels `[3, S, S]`, masks of the chosen objects `[K, S, S]` and the pixels any object covers `[S, S]`.
    """
    prompts: list[PromptBatch] = []
    targets: list[Tensor] = []
    index: list[Tensor] = []
    for number, (_, masks, occupied) in enumerate(views):
        policy = _LOOSE if torch.rand(1, generator=generator) < _LOOSE_SHARE else _TIGHT
        found = [simulate_prompts(masks, _tight_boxes(masks), policy, PromptDraws.draw(len(masks), generator))]
        beside = background_prompts(occupied, BACKGROUND_CLICKS, generator)
        found += [beside] if beside is not None else []
        low_res = functional.avg_pool2d(masks.float(), LOW_RES_STRIDE)
        count = sum(len(part) for part in found)
        prompts += found
        targets.append(functional.pad(low_res, (0, 0, 0, 0, 0, count - len(low_res))))
        index.append(torch.full((count,), number))
    pixels = torch.stack([pixels for pixels, *_ in views])
    return Batch(pixels, PromptBatch.cat(prompts), torch.cat(index), torch.cat(targets))


def _tight_boxes(masks: Tensor) -> Tensor:
    """Boxes `[N, 4]`, xyxy with exclusive right and lower edges, of masks `[N, H, W]`, none empty."""
    columns, rows = masks.any(1), masks.any(2)

    def first(line: Tensor) -> Tensor:
        return line.int().argmax(1)

    def end(line: Tensor) -> Tensor:
        return line.shape[1] - line.flip(1).int().argmax(1)

    return torch.stack([first(columns), first(rows), end(columns), end(rows)], dim=1).float()


# Measuring, logging, schedule.


def _generator(seed: int, step: int) -> torch.Generator:
    """The source of everything random in a step."""
    (state,) = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


@torch.no_grad()
def measure(model: Sam2Model, bank: SceneBank, held_out: int) -> dict[str, float]:
    """Mean IoU on whole held-out scenes at the stage's input size, for tight boxes and clicks at the deepest pixel.

    The masks are those a user gets: one for a box, the best by predicted IoU of three for a click.
    """
    size, device = input_size(model), model.device
    policy = _TIGHT.model_copy(update={"point_at": "center"})
    ious: dict[str, list[Tensor]] = {"held_out_box": [], "held_out_click": []}
    for number in range(held_out):
        image, labels, parents = bank.scene(f"held-out-{number:06d}")
        image, labels = _resized(image, labels, size)
        masks = torch.from_numpy(_object_masks(np.random.default_rng(number), labels, parents, 12))
        if not len(masks):
            continue
        embeddings = encode(model, _normalised(image.astype(np.float32))[None].to(device))
        for kind, box in (("held_out_box", 1.0), ("held_out_click", 0.0)):
            only = policy.model_copy(update={"box": box, "point": 1 - box})
            draws = PromptDraws.draw(len(masks), torch.Generator().manual_seed(number))
            prompts = simulate_prompts(masks, _tight_boxes(masks), only, draws)
            chosen = _chosen_masks(model, decode(model, embeddings, prompts.to(device)), multimask_output=not box)
            ious[kind].append(hard_iou(upscale_masks(chosen, (size, size)).cpu() > 0, masks[:, None])[:, 0])
    return {kind: float(torch.cat(values).mean()) for kind, values in ious.items()}


def _chosen_masks(model: Sam2Model, output: DecoderOutput, *, multimask_output: bool) -> Tensor:
    """The mask with the highest predicted IoU among those a user gets, logits `[N, 1, h, w]`."""
    masks, scores = select_masks(model, output, multimask_output=multimask_output)
    return masks[torch.arange(len(masks)), scores.argmax(1)][:, None]


def _schedule(config: PretrainConfig, done: int) -> Iterator[tuple[int, PretrainStage, int]]:
    """Every step that is not done yet: its number, its stage, and its number within the stage."""
    first = 0
    for stage in config.stages:
        for step in range(max(done, first), first + stage.steps):
            yield step, stage, step - first
        first += stage.steps


def _learning_rate(stage: PretrainStage, step: int) -> float:
    """A straight line from `lr` to `final_lr`, after the warm-up."""
    line = stage.lr + (stage.final_lr - stage.lr) * step / stage.steps
    return line * min(1.0, (step + 1) / (stage.warmup + 1))


def _parameter_groups(parameters: Mapping[str, nn.Parameter], config: PretrainConfig) -> list[dict[str, object]]:
    """Matrices with weight decay; biases, norms and embeddings without."""
    lr = config.stages[0].lr
    matrices = [
        p for name, p in parameters.items() if p.ndim > 1 and "embed.weight" not in name and "token" not in name
    ]
    kept = {id(p) for p in matrices}
    others = [p for p in parameters.values() if id(p) not in kept]
    return [
        {"params": matrices, "lr": lr, "weight_decay": config.weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]


class _Log:
    """One JSON object per line: the mean of every 50 steps' numbers, and measurements."""

    def __init__(self, path: Path, report: Callable[[Mapping[str, float]], None] | None) -> None:
        self.path = path
        self.report = report
        self.sums: dict[str, list[float]] = {}
        self.since = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a step; write a line at every fiftieth."""
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value)
        if (step + 1) % 50 == 0:
            seconds = (time.monotonic() - self.since) / len(self.sums["loss"])
            self.write(step, {name: sum(v) / len(v) for name, v in self.sums.items()} | {"seconds": seconds})
            self.sums.clear()
            self.since = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line."""
        line = {"step": step + 1} | {name: round(value, 4) for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.report:
            self.report(line)
