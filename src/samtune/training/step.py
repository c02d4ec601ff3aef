"""What one step learns: the gradients of its prompts' loss, and the figures beside them.

`learn` takes a batch as it comes. `learn_on_grid` takes one whose images have equally many prompts
(`TrainingBatch.grid`) and looks at no value, so that a GPU is never waited for and the whole can be recorded (see
`cuda_graphs.py`). Both give the same loss and the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.model.decoder.fast import decode_grid
from samtune.model.decoder.reference import DecoderOutput, select_masks
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.preprocess import upscale_masks
from samtune.prompts.batch import PromptBatch, low_res_to_input
from samtune.prompts.simulate import CorrectionDraws, PromptDraws, correction_clicks
from samtune.training.batches import TrainingBatch
from samtune.training.losses.tuning import Counts, Loss, binary, hard_iou, tuning_loss
from samtune.training.run import Run

Figures: TypeAlias = dict[str, Tensor]
"""`loss`, its parts, and `train_iou`, the IoU of the first predictions; each one number, still on the device."""
_Decode: TypeAlias = Callable[[ImageEmbeddings, PromptBatch, Tensor], DecoderOutput]


def learn(run: Run, batch: TrainingBatch, counts: Counts | None = None) -> Figures:
    """Add the gradients of one batch, or of a part of one whose `counts` are given, and return its figures.

    Prompts go through the decoder in parts and the gradients at the image embeddings are collected, so that memory does
    not grow with the number of objects and the encoder, where it learns, is run backward once.
    """
    batch = batch.to(run.device)
    counts = counts or count_prompts(run, batch)
    parts = [batch.select(slice(start, start + run.chunk)) for start in range(0, len(batch), run.chunk)]
    return _through_the_encoder(run, batch, lambda leaves: _learn(run, leaves, counts, parts, run.decode))


def learn_on_grid(run: Run, grid: TrainingBatch, counts: Counts | None = None) -> Figures:
    """The same for a grid on the run's device."""
    counts = counts or count_prompts(run, grid)
    return _through_the_encoder(run, grid, lambda leaves: learn_from(run, leaves, grid, counts))


def learn_from(run: Run, embeddings: ImageEmbeddings, grid: TrainingBatch, counts: Counts) -> Figures:
    """The same from embeddings at hand. Collects their gradients, where they are leaves that want any."""

    def decode(embeddings: ImageEmbeddings, prompts: PromptBatch, _: Tensor) -> DecoderOutput:
        return decode_grid(run.model, embeddings, prompts)

    width = max(1, run.chunk // len(grid.views))
    return _learn(run, embeddings, counts, grid.columns(width), decode)


def count_prompts(run: Run, batch: TrainingBatch) -> Counts:
    """What the step's losses are divided by, over all processes: their losses and gradients then add up."""
    return Counts.of(batch.covered, batch.counted, run.processes.sum)


def _through_the_encoder(run: Run, batch: TrainingBatch, learn_from: Callable[[ImageEmbeddings], Figures]) -> Figures:
    embeddings = run.embed_step(batch)
    leaves = embeddings.as_leaves()
    figures = learn_from(leaves)
    embeddings.backward(leaves)
    return figures


def _learn(
    run: Run, embeddings: ImageEmbeddings, counts: Counts, parts: Iterable[TrainingBatch], decode: _Decode
) -> Figures:
    figures: Figures = {name: torch.zeros((), device=run.device) for name in ("loss", "train_iou")}
    for part in parts:
        add_figures(figures, _learn_part(run, embeddings, part, counts, decode))
    return figures


def add_figures(total: Figures, part: Figures) -> None:
    """Add the figures of a part to those of the whole."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value


def _learn_part(run: Run, embeddings: ImageEmbeddings, part: TrainingBatch, counts: Counts, decode: _Decode) -> Figures:
    """Add the gradients of some prompts and of the corrections of their answers; returns their share of the figures."""
    policy, draws, targets = run.config.prompts, PromptDraws.of(part.draws), part.targets
    rounds = 1 + part.corrections
    ignored = part.ignored if part.ignored.numel() else None
    prompts = part.prompts(policy)
    figures: Figures = {}
    for turn in range(rounds):
        with run.arithmetic():
            output = decode(embeddings, prompts, part.image_index)
            loss = _loss(run, output, part, counts)
        (loss.total / rounds).backward()
        for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
            figures[name] = figures.get(name, 0) + value / rounds
        is_last = turn + 1 == rounds
        if turn > 0 and is_last:
            break
        chosen = _chosen_masks(run, output)
        if ignored is not None:
            chosen = chosen.masked_fill(ignored[:, None], -1.0)
        if turn == 0:
            figures["train_iou"] = _iou_sum(chosen, targets) / counts.objects
        if not is_last:
            prompts = _corrected(run, prompts, chosen, targets, draws.corrections[turn])
    return figures


def _loss(run: Run, output: DecoderOutput, part: TrainingBatch, counts: Counts) -> Loss:
    """The loss at the scale of the settings, whose targets a batch has; ignored regions left out."""
    ignored = part.ignored if part.ignored.numel() else None
    if not part.fine.numel():
        return tuning_loss(output, part.targets, run.config.loss, counts, part.counted, ignored)
    size = (part.fine.shape[-2], part.fine.shape[-1])
    finer = upscale_masks(output.masks, size)
    if ignored is not None:
        ignored = F.interpolate(ignored[:, None].float(), size)[:, 0] > 0
    return tuning_loss(replace(output, masks=finer), part.fine_targets, run.config.loss, counts, part.counted, ignored)


@torch.no_grad()
def _chosen_masks(run: Run, output: DecoderOutput) -> Tensor:
    """The masks that a user would get, as low-res logits `[N, 1, h, w]`."""
    masks, _ = select_masks(run.model, output, multimask_output=False)
    return masks


@torch.no_grad()
def _iou_sum(masks: Tensor, targets: Tensor) -> Tensor:
    """Summed IoU of masks `[N, 1, h, w]` and the objects of `targets`, on the low-res grid."""
    present = targets.flatten(1).amax(1) > 0
    return (hard_iou(masks > 0, binary(targets)[:, None]).squeeze(1) * present).sum()


@torch.no_grad()
def _corrected(run: Run, prompts: PromptBatch, masks: Tensor, targets: Tensor, draws: CorrectionDraws) -> PromptBatch:
    """The prompts with one correction click and the mask they led to, as an annotator would go on."""
    points, labels = correction_clicks(masks[:, 0] > 0, binary(targets), run.config.prompts, draws)
    return prompts.with_clicks(low_res_to_input(points.to(prompts.points)), labels).with_masks(masks.float())
