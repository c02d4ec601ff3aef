"""How unsure a model is about an image that nobody has labelled: four signs, each from 0 (sure) to 1.

The prompts are the finder's proposals, where the model has a finder, else clicks of a grid that the model answers with
an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.finder.finding import Looks, find
from samtune.finder.results import Finder
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.decoder.reference import ALL_TOKENS
from samtune.model.preprocess import MASK_THRESHOLD
from samtune.prompts.batch import BOX_UPPER_LEFT, PromptBatch

CHUNK = 32
"""Prompts per decoder call."""
_LIKELY = 0.5
"""Finds are asked about from this share of the finder's threshold on: those it nearly keeps are the doubtful ones."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A model's doubt about one image, means over its prompts.

    Attributes:
        prompts: how many were asked; without any, all signs are None.
        disagreement: 1 minus the mean IoU between the three masks of a prompt.
        predicted_error: 1 minus the IoU that the model predicts for the mask it would give.
        views: 1 minus the IoU of that mask with the one from the mirrored image; None where that was not asked.
        undecided: of a finder's proposals, `4 p (1 - p)` of their scores; None without a finder.
    """

    prompts: int
    disagreement: float | None = None
    predicted_error: float | None = None
    views: float | None = None
    undecided: float | None = None

    @property
    def value(self) -> float | None:
        """Mean of the signs that were measured; None where the model sees nothing to ask about."""
        signs = (self.disagreement, self.predicted_error, self.views, self.undecided)
        known = [one for one in signs if one is not None]
        return fmean(known) if known else None


@torch.no_grad()
def measure_doubt(
    predictor: Predictor,
    embedded: EmbeddedImage,
    mirrored: EmbeddedImage | None,
    *,
    finder: Finder | None,
    points_per_side: int,
    most: int,
) -> Doubt:
    """Ask about an image, and look at how the answers differ.

    Args:
        predictor: the model.
        embedded: the image.
        mirrored: the image mirrored left to right; None leaves that sign out.
        finder: its proposals are the prompts; None asks with a grid of clicks.
        points_per_side: of the grid.
        most: prompts at most; of a grid evenly spaced ones, of a finder the surest.
    """
    clicks = finder is None
    prompts, scores = _grid(predictor, points_per_side), None
    if finder is not None:
        prompts, scores = _proposed(predictor, Looks(embedded, mirrored if finder.looks > 1 else None), finder, most)
    answers = _answers(predictor, embedded, prompts, clicks)
    asked = np.flatnonzero(answers.present)
    if clicks and len(asked) > most:
        asked = asked[np.linspace(0, len(asked) - 1, most).round().astype(int)]
    if not len(asked):
        return Doubt(0)
    masks, best = answers.masks[asked], answers.best[asked]
    single = masks[np.arange(len(asked)), best]
    views = None
    if mirrored is not None:
        there = mirrored_prompts(PromptBatch(prompts.points[asked], prompts.labels[asked]), predictor.loaded.image_size)
        other = _answers(predictor, mirrored, there, clicks)
        views = 1 - masks_iou(single, other.masks[np.arange(len(asked)), best][..., ::-1])
    pairs = [1 - masks_iou(masks[:, one], masks[:, two]) for one, two in combinations((1, 2, 3), 2)]
    return Doubt(
        prompts=len(asked),
        disagreement=float(np.mean(pairs)),
        predicted_error=float(1 - answers.scores[asked, best].clip(0, 1).mean()),
        views=None if views is None else float(views.mean()),
        undecided=None if scores is None else float((4 * scores * (1 - scores))[asked].mean()),
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers to N prompts: masks bool `[N, 4, h, w]`, scores `[N, 4]`, which mask counts `[N]`, object there `[N]`."""

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    best: NDArray[np.int64]
    present: NDArray[np.bool_]


def _answers(predictor: Predictor, embedded: EmbeddedImage, prompts: PromptBatch, ambiguous: bool) -> _Answers:
    """Ask; a click may mean several things, so the best guess of three counts, of a box the single mask."""
    masks: list[NDArray[np.bool_]] = []
    scores: list[Tensor] = []
    present: list[Tensor] = []
    for start in range(0, len(prompts), CHUNK):
        output = predictor.decode(embedded, prompts.select(slice(start, start + CHUNK)), ALL_TOKENS)
        masks.append((output.masks > MASK_THRESHOLD).cpu().numpy())
        scores.append(output.iou_scores.float().cpu())
        present.append(output.object_score_logits.cpu() > 0)
    size = predictor.loaded.mask_size
    if not masks:
        none = np.zeros(0, np.int64)
        return _Answers(np.zeros((0, 4, size, size), bool), np.zeros((0, 4), np.float32), none, none.astype(bool))
    figures = torch.cat(scores).numpy()
    best = 1 + figures[:, 1:].argmax(1) if ambiguous else np.zeros(len(figures), np.int64)
    seen = torch.cat(present).numpy() if ambiguous else np.ones(len(figures), bool)
    return _Answers(np.concatenate(masks), figures, best, seen)


def _proposed(predictor: Predictor, seen: Looks, finder: Finder, most: int) -> tuple[PromptBatch, NDArray[np.float64]]:
    """Boxes of what a finder finds or nearly finds, in the model's frame, and their scores."""
    finds = find(predictor, seen, finder).above(_LIKELY * finder.threshold)
    finds = finds[np.arange(min(most, len(finds)))]
    boxes = PromptBatch.from_boxes(torch.from_numpy(finds.boxes.reshape(-1, 4)))
    return predictor.to_model_frame(seen.embedded, boxes), finds.scores


def _grid(predictor: Predictor, points_per_side: int) -> PromptBatch:
    """Clicks at the centres of a grid's cells, in the model's frame."""
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side * predictor.loaded.image_size
    return PromptBatch.from_clicks(torch.cartesian_prod(steps, steps).flip(1)[:, None])


def mirrored_prompts(prompts: PromptBatch, side: int) -> PromptBatch:
    """The same prompts in the mirrored image; the corners of a box change places."""
    points = prompts.points.clone()
    points[..., 0] = side - 1 - points[..., 0]
    if (prompts.labels == BOX_UPPER_LEFT).any():
        points = torch.stack(
            [
                torch.stack([points[:, 1, 0] + 1, points[:, 0, 1]], dim=1),
                torch.stack([points[:, 0, 0] + 1, points[:, 1, 1]], dim=1),
            ],
            dim=1,
        )
    return PromptBatch(points, prompts.labels)


def masks_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of masks `[N, h, w]`, pair by pair; two empty masks agree."""
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def features_of(embedded: EmbeddedImage) -> NDArray[np.float64]:
    """What an image looks like to the encoder: mean and deviation of every channel, `[2 C]`."""
    channels = embedded.embeddings.image_embeddings[0].float().flatten(1)
    return torch.cat([channels.mean(1), channels.std(1)]).double().cpu().numpy()
