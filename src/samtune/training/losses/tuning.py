"""The loss: masks, predicted IoU and object score, with every mask token supervised.

Source: SAM 2's training recipe (`training/loss_fns.py`, `MultiStepMultiMasksAndIous`), with one difference on purpose.
The recipe trains the single-mask token in some steps and the three others in the rest; here all learn from each prompt,
because the model returns either (see `decoder.select_masks`), and no user should get a mask that was not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from samtune.config import LossConfig
from samtune.model.decoder.reference import SINGLE_TOKEN, DecoderOutput
from samtune.training.losses.masks import area_cross_entropy, balanced_cross_entropy, edge_cross_entropy, focal_and_dice

_NOTHING = -30.0
"""A logit that says background, whose losses and derivatives are nothing."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The total to minimise and its parts before weighting, each a scalar tensor."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many prompts a step has, and how many of them are about an object: what its loss is an average over.

    They are float tensors, each of one number and at least 1, because on a GPU a number would have to be waited for.
    """

    prompts: Tensor
    objects: Tensor

    @classmethod
    def of(
        cls,
        targets: Tensor,
        counted: Tensor | None = None,
        total: Callable[[Tensor], Tensor] = lambda numbers: numbers,
    ) -> Counts:
        """The counts of `targets` `[N, h, w]`, where an empty one is a background prompt's.

        Args:
            targets: of this process.
            counted: bool `[N]`, which of them count; all, when left out.
            total: sums numbers over the processes that share the step.
        """
        counted = targets.new_ones(len(targets), dtype=torch.bool) if counted is None else counted
        numbers = torch.stack([counted.sum(), (_present(targets) & counted).sum()]).float()
        return cls(*total(numbers).clamp(min=1).unbind())


def tuning_loss(
    output: DecoderOutput,
    targets: Tensor,
    config: LossConfig,
    counts: Counts | None = None,
    counted: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Loss:
    """The loss of N prompts.

    Per prompt, the mask loss is the mean of the single token's and the best of the three others' (best by focal + dice,
    as the recipe chooses). The predicted IoU of all four is held to the IoU they reach. Prompts whose target is empty
    teach the object score alone.

    Args:
        output: of N prompts.
        targets: `[N, h, w]`, the share of each low-res pixel the object covers, 0 to 1; all zero means "no object".
        config: the weights.
        counts: of the whole step, when these prompts are a part of it; the losses of the parts add up to the step's.
        counted: bool `[N]`, false for padding of a grid; their targets are all zero.
        ignored: bool `[N, h, w]`, pixels of which nothing is known, outside the object: what is predicted there costs
            nothing and teaches nothing.

    Returns:
        The loss: an average over prompts for the object score, over objects for the rest.
    """
    counts = counts or Counts.of(targets, counted)
    if ignored is not None:
        output = replace(output, masks=output.masks.masked_fill(ignored[:, None], _NOTHING))
    present = _present(targets).float()
    focal, dice = focal_and_dice(output.masks, targets, config.focal_alpha, config.focal_gamma)
    mask_loss = config.focal * focal + config.dice * dice
    parts = {"focal": focal, "dice": dice}
    further = (
        ("bce", config.bce, balanced_cross_entropy),
        ("area_bce", config.area_bce, area_cross_entropy),
        ("edge_bce", config.edge_bce, edge_cross_entropy),
    )
    for name, share, loss in further:
        if share > 0:
            parts[name] = loss(output.masks.float(), targets.float()[:, None])
            mask_loss = mask_loss + share * parts[name]
    best = mask_loss[:, SINGLE_TOKEN + 1 :].detach().argmin(1, keepdim=True) + SINGLE_TOKEN + 1

    def supervised(per_mask: Tensor) -> Tensor:
        chosen = (per_mask[:, SINGLE_TOKEN] + per_mask.gather(1, best).squeeze(1)) / 2
        return (chosen * present).sum() / counts.objects

    with torch.no_grad():
        reached = hard_iou(output.masks > 0, binary(targets)[:, None])
    error = output.iou_scores.float() - reached
    error = error.abs() if config.iou_error == "absolute" else error.square()
    iou = (error.mean(1) * present).sum() / counts.objects
    score_logits = output.object_score_logits.float()
    weight = torch.where(present > 0, 1.0, config.no_object)
    weight = weight if counted is None else weight * counted
    score = F.binary_cross_entropy_with_logits(score_logits, present, weight, reduction="sum") / counts.prompts
    total = supervised(mask_loss) + config.iou * iou + config.object_score * score
    named = {name: supervised(per_mask) for name, per_mask in parts.items()} | {"iou": iou, "object_score": score}
    return Loss(total, {name: value.detach() for name, value in named.items()})


def _present(targets: Tensor) -> Tensor:
    return targets.flatten(1).amax(1) > 0


def binary(targets: Tensor) -> Tensor:
    """Targets `[N, h, w]` as bool masks: pixels covered by half; what covers half of none keeps its fullest pixels."""
    return (targets > 0) & (targets >= targets.flatten(1).amax(1).clamp(max=0.5)[:, None, None])


def hard_iou(predicted: Tensor, masks: Tensor) -> Tensor:
    """IoU of boolean masks `[N, M, h, w]` and `[N, 1, h, w]`: float `[N, M]`; two empty masks agree, IoU 1."""
    intersection, *areas = (area.flatten(2).sum(2, dtype=torch.int32) for area in (predicted & masks, predicted, masks))
    union = areas[0] + areas[1] - intersection
    return (intersection / union.clamp(min=1)).masked_fill(union == 0, 1.0)
