"""Whether more than the decoder should learn: held-out objects decide, by an interval.

The decoder alone is the cheapest to train: the image encoder is run once for each image. So it comes first. Where it
gains nothing for sure, the image encoder is what stands in the way, and adapters in it or its last blocks may help. In
a small model features often stand in the way (docs/decisions/0309): there everything is tried in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from samtune.config import EvalConfig, TrainConfig
from samtune.data.table import Dataset
from samtune.errors import ConfigError
from samtune.evaluation.paired import PairedDifference
from samtune.evaluation.protocol import evaluate_all
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.trainable import has_small_encoder
from samtune.runtime.device import choose_device
from samtune.utils.files import storage_errors
from samtune.utils.output_folders import check_output

AUTO, FIRST = "auto", "decoder"
CANDIDATES = ("decoder+lora", "decoder+encoder-last-2")
"""What is tried after the decoder alone, where that gains nothing or when asked."""
SMALL_CANDIDATES = ("all",)
"""What is tried in any case in a model with a small image encoder, before the others."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A run and what it is worth on the validation split.

    Attributes:
        train: what learned.
        folder: the run.
        change: against the model it was compared with, mean IoU of the prompts that were trained.
    """

    train: str
    folder: Path
    change: PairedDifference

    def line(self, than: str) -> str:
        """In words, with what it was compared with."""
        return f"{self.train} against {than}, held-out: {self.change}"


def require_validation(dataset: Path) -> None:
    """Nothing can be chosen without held-out objects.

    Raises:
        ConfigError: the dataset has no objects in its validation split.
        DataError: it cannot be read.
    """
    if not any(image.single_objects for image in Dataset.open(dataset).split("valid").images):
        raise ConfigError.of(
            expected="a validation split with objects, by which --train auto chooses",
            found="none",
            where=str(dataset),
            do="prepare the dataset with --split 0.8,0.1,0.1, or say what learns: --train decoder",
        )


def beside(folder: Path, train: str) -> Path:
    """Where a run that is compared with the one in `folder` goes, or stays when it is not kept."""
    return folder.with_name(f"{folder.name}-{train.removeprefix('decoder+')}")


def require_room(folder: Path) -> None:
    """The runs that are compared are put beside the first one: better to know before it is trained that they can be.

    Raises:
        ConfigError: one of these folders holds something.
    """
    for train in (FIRST, *SMALL_CANDIDATES, *CANDIDATES):
        check_output(beside(folder, train), do="choose another --out: --train auto compares runs in folders beside it")


def after_decoder(dataset: Path, config: TrainConfig, folder: Path) -> tuple[Trial, tuple[str, ...]]:
    """What the decoder alone has gained against the base model, and what to try after it.

    Args:
        dataset: prepared.
        config: of the run.
        folder: the run of the decoder alone.
    """
    base = load_model(config.model, device=choose_device(config.device))
    first = compared(dataset, config, base, folder, FIRST)
    small = SMALL_CANDIDATES if has_small_encoder(base.model) else ()
    others = CANDIDATES if config.trainable.try_encoder or not first.change.is_better else ()
    return first, small + others


def compared(dataset: Path, config: TrainConfig, before: Path | LoadedModel, after: Path, train: str) -> Trial:
    """Compare two models on the validation split's objects, as many as validation looks at.

    Args:
        dataset: prepared.
        config: of the run; its prompts are asked for.
        before: a model, or a run.
        after: a run.
        train: what has learned in it.
    """
    data = Dataset.open(dataset)
    asked = EvalConfig.exact_prompts("valid", config.eval_objects)
    device = choose_device(config.device)
    models = [Predictor(load_model(model, device=device)) for model in (before, after)]
    first, second = evaluate_all(models, data, asked, names=("before", "after"))
    old, new = (
        [fmean(one.answers[kind].iou for kind in config.prompts.kinds) for one in found.objects]
        for found in (first, second)
    )
    return Trial(train, after, PairedDifference.of(old, new, first.groups))


def advice(first: Trial, others: Sequence[Trial]) -> list[str]:
    """What was chosen and why, and what one may try.

    Args:
        first: the decoder alone, against the base model.
        others: further runs, against the decoder's.
    """
    lines = [first.line("the base model"), *(trial.line("the decoder alone") for trial in others)]
    if others:
        kept = winner(others)
        lines.append(f"kept: {kept.train if kept else FIRST}" + ("" if kept else ", since nothing was surely better"))
    elif first.change.is_better:
        lines.append("kept: decoder; to try the image encoder all the same: --trainable.try-encoder")
    return lines


def winner(others: Sequence[Trial]) -> Trial | None:
    """The best of the runs that are surely better than the decoder alone, by their intervals; None where none is."""
    better = [trial for trial in others if trial.change.is_better]
    return max(better, key=lambda trial: trial.change.change.mean, default=None)


def swap(folder: Path, better: Path) -> None:
    """Give a run the place of the decoder's, which stays beside it under its own name.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(folder):
        folder.rename(beside(folder, FIRST))
        better.rename(folder)
