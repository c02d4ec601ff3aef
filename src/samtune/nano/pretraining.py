"""Pre-training of `nano`: from random weights, or from given ones, to a small SAM 2. See docs/nano.md.

The recipe, in stages of growing input size:

1. Prompts before images. Prompt encoder and mask decoder alone learn what a box and a click mean: the image embedding
   is noise, the answer an ellipse inside the box or a disc around the click. Without this, joint training stalls.
2. Images. Everything learns together on crops of procedural scenes and of real images: boxes, tight and jittered, and
   clicks; clicks on the background, whose answer is "no object"; and, in a share of the steps, further rounds with a
   correction click and the mask before it. The loss is the one used for tuning, so all four mask tokens and all heads
   learn.

What a step does is a function of the seed and the step's number: an interrupted run goes on with the same numbers.
Batches are made ahead in a thread (`batches.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Sam2Model

from samtune.config import PretrainConfig, PretrainStage
from samtune.model.architecture import input_size
from samtune.model.decoder.fast import decode
from samtune.model.decoder.reference import DecoderOutput, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.encoder.fast import encode
from samtune.model.io.load import load_model
from samtune.model.preprocess import upscale_masks
from samtune.nano.architecture import untrained_nano
from samtune.nano.augment import SMALLEST, Window, crop_image, crop_mask
from samtune.nano.batches import (
    LOOSE,
    TIGHT,
    PretrainingBatch,
    ellipses,
    made_ahead,
    make_batch,
    normalised,
    tight_boxes,
)
from samtune.nano.neighbours import NeighbourHead, neighbour_loss
from samtune.nano.real_images import RealImages, open_images
from samtune.nano.scenes import SceneBank, draw_scenes, object_masks, resized
from samtune.prompts.batch import LOW_RES_STRIDE, PromptBatch, low_res_to_input
from samtune.prompts.simulate import CorrectionDraws, PromptDraws, correction_clicks, simulate_prompts
from samtune.runtime.device import choose_device, configure_process
from samtune.runtime.precision import arithmetic, autocast
from samtune.training.checkpoint import RunFolder, cut_logs, has_checkpoint, load_last, save_last
from samtune.training.losses.tuning import Loss, binary, hard_iou, tuning_loss
from samtune.training.optimizer import MovingAverage, make_optimizer
from samtune.training.state import Progress, TrainingState
from samtune.utils.files import new_folder, storage_errors
from samtune.utils.output_folders import alone_in

_MOST_CORRECTIONS = 3
"""Rounds with a correction click, at most."""
_HELD_OUT_IMAGES, _HELD_OUT_OBJECTS = 8, 6
"""Images per held-out set, and objects per image, that are measured while training goes on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the recipe: its number, its stage, its number within the stage, and the side of its input."""

    number: int
    stage: PretrainStage
    progress: int
    size: int


def pretrain(config: PretrainConfig, report: Callable[[Mapping[str, float]], None] | None = None) -> Path:
    """Run the recipe, or continue it from its last checkpoint.

    Args:
        config: what to do. Stages that lie ahead may be changed between sessions.
        report: called with every line of the log.

    Returns:
        The folder of the averaged weights in Hugging Face layout, fp16.

    Raises:
        ModelError: `start` is no model, or the checkpoint belongs to another architecture.
        ConfigError: another process is at it; see also `open_images`.
        DataError: see `open_images`; an image that cannot be read.
        StorageError: the disk refused.
    """
    real = open_images(config)
    model = load_model(config.start).model if config.start else untrained_nano(config.seed)
    with storage_errors(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
    with alone_in(config.out, "a pre-training"):
        return _sitting(config, real, model, report)


def _sitting(
    config: PretrainConfig,
    real: RealImages,
    model: Sam2Model,
    report: Callable[[Mapping[str, float]], None] | None,
) -> Path:
    """The steps that are not done yet."""
    device = choose_device(config.device)
    precision = arithmetic(config.precision, device)
    configure_process(device)
    nn.Module.to(model, device).train().requires_grad_(True)
    head = _neighbour_head(model, config)
    parameters = dict(model.named_parameters())
    if head is not None:
        parameters |= {f"neighbours.{name}": parameter for name, parameter in head.named_parameters()}
    optimizer = make_optimizer(_parameter_groups(parameters, config), device)
    average = MovingAverage(parameters, config.ema)
    state = TrainingState(parameters, optimizer, average)
    folder = RunFolder(config.out)
    if has_checkpoint(folder):
        load_last(folder, state)
    done = state.progress.step
    bank = draw_scenes(config)
    cut_logs(folder, done)
    log = _Log(folder.metrics, report)

    def prepare(step: Step) -> tuple[PretrainingBatch | None, torch.Generator]:
        generator = step_generator(config.seed, step.number)
        if step.stage.subject == "prompts":
            return None, generator
        return make_batch(bank, real, step.stage.model_copy(update={"size": step.size}), generator), generator

    for step, (batch, generator) in made_ahead(_schedule(config, done), prepare):
        set_input_size(model, step.size)
        with autocast(device, precision):
            if batch is None:
                loss, measured = prompt_step(model, step.stage, generator)
            else:
                loss, measured = image_step(model, batch.to(device), step.stage, generator, head)
        norm = _learn(loss, optimizer, config.clip, _learning_rate(step.stage, step.progress))
        average.update(step.number)
        log.add(step.number, {"loss": loss.total.item(), "norm": norm} | measured)
        if (step.number + 1) % config.save_every == 0:
            state.progress = Progress(step.number + 1)
            save_last(folder, state)
        if (step.number + 1) % config.measure_every == 0:
            set_input_size(model, step.stage.size)
            with state.averaged_weights():
                log.write(step.number, measure(model, bank, real, config.held_out))
            save_weights(model, average, config.out / "weights")
    set_input_size(model, config.stages[-1].size)
    state.progress = Progress(sum(stage.steps for stage in config.stages))
    save_last(folder, state)
    return save_weights(model, average, config.out / "weights")


def _neighbour_head(model: Sam2Model, config: PretrainConfig) -> NeighbourHead | None:
    """An untrained head for the encoder's second task; None where no stage has it."""
    if not any(stage.teaches_neighbours for stage in config.stages):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return NeighbourHead(model.no_memory_embedding.shape[-1]).to(model.device)


def _learn(loss: Loss, optimizer: torch.optim.Optimizer, clip: float, lr: float) -> float:
    """One step of the optimizer; returns the norm of the gradients before they were clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm.item()


def set_input_size(model: Sam2Model, size: int) -> None:
    """Let the model take images of another size, a multiple of 64 px, and say so in its config. No weight changes."""
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
    state = model.state_dict()
    shipped.load_state_dict(state | {name: value for name, value in average.values.items() if name in state})
    with new_folder(folder) as temporary:
        shipped.half().save_pretrained(temporary)
    return folder


# Steps.


def prompt_step(model: Sam2Model, stage: PretrainStage, generator: torch.Generator) -> tuple[Loss, dict[str, float]]:
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
    targets = ellipses(center, radius, int(side))
    boxes = PromptBatch.from_boxes(torch.cat([center - radius, center + radius], dim=1) * LOW_RES_STRIDE)
    clicks = PromptBatch.from_clicks((center * LOW_RES_STRIDE)[:, None])
    prompts = PromptBatch.cat([clicks.select(is_click), boxes.select(~is_click)]).to(device)
    targets = torch.cat([targets[is_click], targets[~is_click]]).to(device)
    image_index = torch.randint(stage.images, (count,), generator=generator)
    output = decode(model, embeddings.to(device), prompts, image_index.to(device))
    return tuning_loss(output, targets, stage.loss), _ious(output, targets, prompts)


def image_step(
    model: Sam2Model,
    batch: PretrainingBatch,
    stage: PretrainStage,
    generator: torch.Generator,
    head: NeighbourHead | None = None,
) -> tuple[Loss, dict[str, float]]:
    """What a stage teaches with views of images: to answer prompts, and with a head the encoder's second task."""
    with torch.set_grad_enabled(stage.learns != "decoder"):
        embeddings = encode(model, batch.pixels)
    if head is None or batch.neighbours is None:
        return _prompted(model, embeddings, batch, stage, generator)
    apart = neighbour_loss(head(embeddings), batch.neighbours)
    measured = {"neighbours": apart.item()}
    if stage.learns == "encoder":
        return Loss(stage.neighbours * apart, {}), measured
    loss, answers = _prompted(model, embeddings, batch, stage, generator)
    return Loss(loss.total + stage.neighbours * apart, loss.parts), answers | measured


def _prompted(
    model: Sam2Model,
    embeddings: ImageEmbeddings,
    batch: PretrainingBatch,
    stage: PretrainStage,
    generator: torch.Generator,
) -> tuple[Loss, dict[str, float]]:
    """Prompts, in a share of the steps with one to three rounds of corrections."""
    output = decode(model, embeddings, batch.prompts, batch.image_index)
    loss, measured = _image_loss(output, batch, stage), _ious(output, batch.targets, batch.prompts)
    rounds = 0
    while rounds < _MOST_CORRECTIONS and torch.rand(1, generator=generator) < stage.corrections:
        rounds += 1
        batch = _corrected(batch, output, generator)
        output = decode(model, embeddings, batch.prompts, batch.image_index)
        loss = Loss(loss.total + _image_loss(output, batch, stage).total, loss.parts)
        reached = hard_iou(output.masks[:, :1] > 0, binary(batch.targets)[:, None])
        measured[f"corrected_{rounds}"] = float(reached.mean())
    return loss, measured


def _image_loss(output: DecoderOutput, batch: PretrainingBatch, stage: PretrainStage) -> Loss:
    """The loss at the stage's scale, at which the masks are brought up as those a user gets."""
    if stage.loss.scale > 1:
        output = replace(output, masks=upscale_masks(output.masks, (batch.fine.shape[-2], batch.fine.shape[-1])))
    return tuning_loss(output, batch.fine, stage.loss)


def _corrected(batch: PretrainingBatch, output: DecoderOutput, generator: torch.Generator) -> PretrainingBatch:
    """The prompts about objects, each with the mask that ranks first and a click where it is wrong."""
    rows = torch.nonzero(batch.targets.flatten(1).amax(1) > 0).squeeze(1)
    targets = batch.targets[rows]
    chosen = output.iou_scores[rows].argmax(1)
    masks = output.masks[rows, chosen].detach().float()
    draws = CorrectionDraws.draw(len(rows), generator)
    points, labels = correction_clicks((masks > 0).cpu(), binary(targets).cpu(), LOOSE, draws)
    points = low_res_to_input(points).to(masks.device)
    prompts = batch.prompts.select(rows).with_clicks(points, labels.to(masks.device))
    return batch.about(rows, prompts.with_masks(masks[:, None].clamp(-32, 32)))


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


# Measuring, logging, schedule.


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of everything random in a step."""
    (state,) = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


@torch.no_grad()
def measure(model: Sam2Model, bank: SceneBank, real: RealImages, held_out: int) -> dict[str, float]:
    """Mean IoU on held-out scenes and sets at the model's input size, for tight boxes and clicks at the deepest pixel.

    The masks are those a user gets: one for a box, the best by predicted IoU of three for a click. Images are whole.

    Returns:
        `NAME_box` and `NAME_click`, where NAME is `held_out` for scenes, else the set's name; with sets also their
        means, `sets_box` and `sets_click`.
    """
    size = input_size(model)
    sources = {"held_out": _held_out_scenes(bank, held_out, size)}
    sources |= {chosen.name: _held_out_views(real, number, size) for number, chosen in enumerate(real.held_out)}
    figures: dict[str, float] = {}
    for name, views in sources.items():
        reached = [_reached(model, image, masks, seed) for seed, (image, masks) in enumerate(views)]
        if reached:
            box, click = (torch.cat(values).mean() for values in zip(*reached, strict=True))
            figures |= {f"{name}_box": float(box), f"{name}_click": float(click)}
    for kind in ("box", "click") if real.held_out else ():
        values = [figures[f"{chosen.name}_{kind}"] for chosen in real.held_out if f"{chosen.name}_{kind}" in figures]
        figures[f"sets_{kind}"] = sum(values) / max(len(values), 1)
    return figures


def _held_out_scenes(bank: SceneBank, count: int, size: int) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """Whole scenes `[S, S, 3]` and the masks `[K, S, S]` of some of their objects."""
    for number in range(count):
        image, labels, parents = bank.scene(f"held-out-{number:06d}")
        image, labels = resized(image, labels, size)
        masks = object_masks(np.random.default_rng(number), labels, parents, 12)
        if len(masks):
            yield image, torch.from_numpy(masks)


def _held_out_views(real: RealImages, number: int, size: int) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """Images of a held-out set and masks of some of their objects, both evenly spaced."""
    images = real.held_out[number].images
    for place in np.unique(np.linspace(0, len(images) - 1, _HELD_OUT_IMAGES).round().astype(int)):
        image, regions = real.decoded(images[place])
        height, width = image.shape[:2]
        whole = Window(0, 0, width, height)
        chosen = np.unique(np.linspace(0, len(regions) - 1, _HELD_OUT_OBJECTS).round().astype(int)) if regions else []
        masks = [crop_mask(regions[index], whole, size) for index in chosen]
        masks = [mask for mask in masks if np.count_nonzero(mask) >= SMALLEST // LOW_RES_STRIDE]
        if masks:
            yield crop_image(image, whole, size, (0, 0, 0)), torch.from_numpy(np.stack(masks))


def _reached(model: Sam2Model, image: NDArray[np.uint8], masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """IoU `[K]` of boxes and of clicks."""
    size, device = image.shape[0], model.device
    embeddings = encode(model, normalised(image.astype(np.float32))[None].to(device))
    ious: list[Tensor] = []
    for box in (1.0, 0.0):
        policy = TIGHT.model_copy(update={"point_at": "center", "box": box, "point": 1 - box})
        draws = PromptDraws.draw(len(masks), torch.Generator().manual_seed(seed))
        prompts = simulate_prompts(masks, tight_boxes(masks), policy, draws)
        chosen = _chosen_masks(model, decode(model, embeddings, prompts.to(device)), multimask_output=not box)
        ious.append(hard_iou(upscale_masks(chosen, (size, size)).cpu() > 0, masks[:, None])[:, 0])
    return ious[0], ious[1]


def _chosen_masks(model: Sam2Model, output: DecoderOutput, *, multimask_output: bool) -> Tensor:
    """The mask with the highest predicted IoU among those a user gets, logits `[N, 1, h, w]`."""
    masks, scores = select_masks(model, output, multimask_output=multimask_output)
    return masks[torch.arange(len(masks)), scores.argmax(1)][:, None]


def _schedule(config: PretrainConfig, done: int) -> Iterator[Step]:
    """Every step that is not done yet."""
    first = 0
    for stage in config.stages:
        for number in range(max(done, first), first + stage.steps):
            small = np.random.default_rng((config.seed, number, 1)).random() < stage.small_share
            yield Step(number, stage, number - first, stage.small_size if small else stage.size)
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
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.report:
            self.report(line)
