"""The way back: weights between the base model's and the tuned model's, and how far to go.

`base + alpha (tuned - base)` for every weight (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). With
`alpha` between 0 and 1 much of what tuning gained often stays, while what it damaged comes back. Where the encoder was
not tuned, all blends share the image embeddings, so that trying a dozen of them takes the decoder's time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.config import EvalConfig
from samtune.data.table import Dataset
from samtune.errors import ModelError
from samtune.evaluation.comparison import GAINS, Comparison, compare
from samtune.evaluation.guards import guarded_split
from samtune.evaluation.paired import Guard
from samtune.evaluation.protocol import Subject, encoder_of, evaluate_subjects
from samtune.evaluation.verdict import FEWEST_GROUPS
from samtune.inference.predictor import Predictor
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.save import write_model
from samtune.utils.files import new_folder, write_json

BLEND = "blend.json"
ALPHAS = tuple(number / 10 for number in range(11))
"""The blends that `auto` tries, base and tuned model included; then three where damage begins."""
ENOUGH = 0.9
"""Of blends with about the same gain, the one nearest to the base is taken: with this share of the largest gain."""


@dataclass(frozen=True, slots=True)
class BlendPoint:
    """One blend, measured.

    Attributes:
        alpha: 0 is the base model, 1 the tuned one.
        gains: mean difference to the base by prompt kind, IoU of boxes and of single clicks.
        guards: mean difference to the base by guard, above 0 where the blend is better.
        damaged: guards that are worse than the base's by their tolerance or more, with an interval that excludes 0, as
            in a verdict; with fewer than five groups of images, where intervals say nothing, the mean decides.
    """

    alpha: float
    gains: dict[str, float]
    guards: dict[str, float]
    damaged: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Sum of the gains for boxes and for clicks."""
        return sum(self.gains.values())


class Blender:
    """Base and tuned weights, and a model that takes those in between.

    Args:
        base, tuned: models of one architecture; the weights of `tuned` are set from then on.

    Raises:
        ModelError: they are of different architectures.
    """

    def __init__(self, base: LoadedModel, tuned: LoadedModel) -> None:
        first, second = base.model.state_dict(), tuned.model.state_dict()
        _require_one_architecture(base, tuned)
        self.loaded = tuned
        self._base_video = base.video_state
        self._pairs = {
            name: (first[name].to(tensor.device, copy=True), tensor.clone())
            for name, tensor in second.items()
            if tensor.is_floating_point() and not torch.equal(first[name].to(tensor.device), tensor)
        }

    @torch.no_grad()
    def set(self, alpha: float) -> LoadedModel:
        """Give the model the weights of a blend; returns it with its video weights blended too."""
        state = self.loaded.model.state_dict()
        for name, (base, tuned) in self._pairs.items():
            state[name].copy_(torch.lerp(base, tuned, alpha))
        return replace(self.loaded, video_state=_blended(self._base_video, self.loaded.video_state, alpha))


def sweep(
    base: LoadedModel,
    tuned: LoadedModel,
    dataset: Dataset,
    config: EvalConfig,
    *,
    guards: Mapping[str, Dataset],
    alphas: Sequence[float] = ALPHAS,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[BlendPoint]:
    """Measure blends on a split and on the images of guards.

    Args:
        base, tuned: models of one architecture; the weights of `tuned` are changed meanwhile and then set back.
        dataset: whole; the split is chosen by `config`.
        config: prompts and split.
        guards: datasets of other images, by name; their test split is used, or the first that has objects.
        alphas: blends to try, 0 first.
        progress: called with what is being done, images done and their total.

    Returns:
        A point for each of `alphas`.

    Raises:
        ModelError: the models are of different architectures.
        DataError: the split or a guard has no objects, or an image cannot be read.
    """
    blender = Blender(base, tuned)
    predictor = Predictor(blender.loaded)
    subjects = [_subject(blender, predictor, alpha) for alpha in alphas]
    on_guards = config.model_copy(update={"background_clicks": 0})
    try:
        found = evaluate_subjects(
            subjects, dataset, config, progress=lambda done, total: progress("measuring blends", done, total)
        )
        others = {
            name: evaluate_subjects(
                subjects,
                guard,
                on_guards.model_copy(update={"split": guarded_split(guard)}),
                progress=lambda done, total: progress("on other images", done, total),
            )
            for name, guard in guards.items()
        }
    finally:
        blender.set(1.0)
    return [
        point_of(
            alpha,
            compare(
                found[0],
                found[number],
                sets={name: (first[0], first[number]) for name, first in others.items()},
            ),
        )
        for number, alpha in enumerate(alphas)
    ]


def write_blend(base: LoadedModel, tuned: LoadedModel, alpha: float, points: Sequence[BlendPoint], out: Path) -> None:
    """Write a blend as a model folder in Hugging Face layout, with `blend.json` beside the weights.

    Args:
        base, tuned: models of one architecture; the weights of `tuned` are the blend's afterwards.
        alpha: of the blend.
        points: the blends that were measured; may be empty.
        out: replaced when it exists.

    Raises:
        ModelError: the models are of different architectures.
        StorageError: the disk refused; what was there is still there.
    """
    blended = Blender(base, tuned).set(alpha)
    with new_folder(out) as folder:
        write_model(blended, folder)
        write_json(folder / BLEND, blend_json(base.name, tuned.name, alpha, points))


def blend_json(base: str, tuned: str, alpha: float, points: Sequence[BlendPoint]) -> dict[str, Any]:
    """The content of `blend.json`, as in docs/evaluation.md."""
    return {"format": 1, "base": base, "tuned": tuned, "alpha": alpha, "points": [asdict(point) for point in points]}


def best_of(points: Sequence[BlendPoint]) -> BlendPoint:
    """The blend to take: the nearest to the base that damages nothing and has nearly the largest gain of those."""
    enough = ENOUGH * _most_gaining(points).gain
    undamaged = [point for point in points if not point.damaged and point.gain >= enough]
    return min(undamaged, key=lambda point: point.alpha)


def beyond(points: Sequence[BlendPoint]) -> tuple[float, ...]:
    """Three blends evenly between the one that gains most and the next towards the tuned model, if that one damages."""
    best = _most_gaining(points)
    following = min((point for point in points if point.alpha > best.alpha), key=lambda one: one.alpha, default=best)
    if not following.damaged:
        return ()
    return tuple(best.alpha + share * (following.alpha - best.alpha) for share in (0.25, 0.5, 0.75))


def _most_gaining(points: Sequence[BlendPoint]) -> BlendPoint:
    """Of the blends that damage nothing, as alpha 0 never does, the one that gains most."""
    return max((point for point in points if not point.damaged), key=lambda point: (point.gain, -point.alpha))


def _subject(blender: Blender, predictor: Predictor, alpha: float) -> Subject:
    blender.set(alpha)
    activate = partial(blender.set, alpha)
    return Subject(
        name=f"alpha {alpha:g}",
        predictor=predictor,
        weights=f"blend with alpha {alpha:g}",
        encoder=encoder_of(predictor),
        activate=activate,
    )


def point_of(alpha: float, comparison: Comparison) -> BlendPoint:
    """What a comparison of a blend with its base says about it."""
    guards = {
        guard.name: -guard.change.mean if guard.lower_is_better else guard.change.mean for guard in comparison.guards
    }
    return BlendPoint(
        alpha=alpha,
        gains={kind: comparison.kinds[kind].change.mean for kind in GAINS},
        guards=guards,
        damaged=tuple(guard.name for guard in comparison.guards if _is_damaged(guard, guards[guard.name])),
    )


def _is_damaged(guard: Guard, change: float) -> bool:
    """Whether a blend damages a guard; `change` is above 0 where it is better."""
    return guard.is_damaged if guard.change.groups >= FEWEST_GROUPS else change <= -guard.tolerance


def _blended(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Video weights in between; those that one model lacks stay the other's."""
    return {
        name: torch.lerp(base[name], tensor, alpha)
        if name in base and tensor.is_floating_point() and base[name].shape == tensor.shape
        else tensor
        for name, tensor in tuned.items()
    }


def _require_one_architecture(base: LoadedModel, tuned: LoadedModel) -> None:
    first, second = base.model.state_dict(), tuned.model.state_dict()
    other = sorted(first.keys() ^ second.keys())
    other += [name for name in first.keys() & second.keys() if first[name].shape != second[name].shape]
    if base.image_size != tuned.image_size:
        other.append(f"the size of their input, {base.image_size} and {tuned.image_size} pixels")
    if other:
        more = f", and {len(other) - 1} more" if len(other) > 1 else ""
        raise ModelError.of(
            expected="two models of one architecture, the second tuned from the first",
            found=f"{base.name} and {tuned.name}, which differ in {other[0]}{more}",
            do="give the model that the tuned one was tuned from",
        )
