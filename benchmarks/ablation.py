"""Recipes of training against the plain one (boxes, the official recipe's loss) or another, on held-out images.

    python benchmarks/ablation.py ../shared/data/lens_coco ../shared/data/nuts_coco --out build/ablation --seeds 3

Each arm of `ARMS` trains equally many steps from the same start; the arms of a set share its kept embeddings. What is
in `--out` already is not computed again: an interrupted ablation goes on, in the middle of a run too. `--table` prints
what is there, `--cost` measures what a step costs instead. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import polars as pl

import samtune
from samtune.benchmark.turns import STEPS, Turns
from samtune.config import (
    EvalConfig,
    LossConfig,
    OptimizerConfig,
    PrepareConfig,
    PromptPolicy,
    TrainableConfig,
    TrainConfig,
)
from samtune.data.table import Dataset, write_table
from samtune.embeddings.dataset import View
from samtune.evaluation.paired import paired_change
from samtune.evaluation.results import Evaluation
from samtune.prompts.simulate import PromptDraws, correction_clicks
from samtune.training.batches import TrainingBatch
from samtune.training.run import Run, new

PLAIN = "plain"
_FEW_TEST_IMAGES = 3
_OWN_SPLIT = "0.6,0.1,0.3"
_BOXES, _MIXTURE = PromptPolicy(preset="boxes"), PromptPolicy(preset="mixture")
_ONCE = PromptPolicy(preset="mixture", per_object=1)
_NO_END, _HALF = (PromptPolicy(preset="mixture", boxes_last=share) for share in (0, 0.5))


@dataclass(frozen=True)
class Arm:
    """One recipe: what it changes about a run's settings."""

    prompts: PromptPolicy = _BOXES
    focal: float = 20.0
    area_bce: float = 0.0
    edge_bce: float = 0.0
    no_object: float = 5.0
    focal_alpha: float = 0.5
    ema: float = 0.0
    views: int = 1
    train: str = "decoder"
    lr: Literal["auto"] | float = "auto"
    encoder_lr: float = 3e-6
    iou_error: Literal["absolute", "squared"] = "absolute"

    def config(self, **settings: Any) -> TrainConfig:
        """The settings of a run."""
        return TrainConfig(
            prompts=self.prompts,
            loss=LossConfig(
                focal=self.focal,
                area_bce=self.area_bce,
                edge_bce=self.edge_bce,
                no_object=self.no_object,
                focal_alpha=self.focal_alpha,
                iou_error=self.iou_error,
            ),
            optimizer=OptimizerConfig(lr=self.lr, encoder_lr=self.encoder_lr, ema=self.ema),
            trainable=TrainableConfig(train=self.train),
            views=self.views,
            **settings,
        )

    @property
    def key(self) -> str:
        """Of its files: equal recipes are one, whatever they are called; a further field changes no other recipe's."""
        own = {name: value for name, value in vars(self).items() if value != vars(Arm())[name]}
        return f"{zlib.crc32(repr(own).encode()):08x}"


ARMS = {
    PLAIN: Arm(focal_alpha=0.25),
    "default": Arm(_MIXTURE),
    "default, no boxes last": Arm(_NO_END),
    "default, boxes in the last half": Arm(_HALF),
    "default, focal alpha 0.25": Arm(_MIXTURE, focal_alpha=0.25),
    "default, one prompt an object": Arm(_ONCE),
    "default, background not weighed": Arm(_MIXTURE, no_object=1.0),
    "default, area": Arm(_MIXTURE, area_bce=0.3),
    "default, area 5, focal 5": Arm(_MIXTURE, focal=5.0, area_bce=5.0),
    "default, EMA": Arm(_MIXTURE, ema=0.99),
    "default, edge": Arm(_MIXTURE, edge_bce=0.5),
    "default, 4 views": Arm(_MIXTURE, views=4),
    "default, LoRA": Arm(_MIXTURE, train="decoder+lora"),
    "default, everything learns": Arm(_MIXTURE, train="all", encoder_lr=1e-4),
    "default, everything learns, 3e-5": Arm(_MIXTURE, train="all", encoder_lr=3e-5),
    "default, squared error of the IoU": Arm(_MIXTURE, iou_error="squared"),
    "default, lr 5e-5": Arm(_MIXTURE, lr=5e-5),
    "default, lr 1e-4": Arm(_MIXTURE, lr=1e-4),
    "default, lr 4e-4": Arm(_MIXTURE, lr=4e-4),
    "plain, focal alpha 0.5": Arm(),
    "plain, area": Arm(area_bce=0.3, focal_alpha=0.25),
    "plain, EMA": Arm(ema=0.99, focal_alpha=0.25),
}
"""The recipes: the plain one, and what was added to it, one by one and together."""

Figure = Callable[[Evaluation], tuple[list[float], list[str]]]


def _answers(kind: str, figure: str) -> Figure:
    return lambda found: (found.values(kind, figure), found.groups)


def _error(found: Evaluation) -> tuple[list[float], list[str]]:
    """How far the predicted IoU is off, over boxes and single clicks."""
    pairs = [[one.answers[kind] for kind in ("box", "point")] for one in found.objects]
    return [fmean(abs(one.predicted_iou - one.iou) for one in pair) for pair in pairs], found.groups


FIGURES: dict[str, Figure] = {
    "box": _answers("box", "iou"),
    "box, best of three": _answers("box", "best_of_three"),
    "one click": _answers("point", "iou"),
    "one click, first of three": _answers("point", "first_of_three"),
    "click, best of three": _answers("point", "best_of_three"),
    "box ±20 %": _answers("box_jitter_0.2", "iou"),
    "rough outline": _answers("mask", "iou"),
    "click + 3 corrections": lambda found: ([one.clicks[-1] for one in found.objects], found.groups),
    "background refused": lambda found: (
        [float(click.is_refused) for click in found.background],
        [click.group for click in found.background],
    ),
    "predicted IoU off by": _error,
}


def prepared(source: Path, out: Path) -> Path:
    """A set's dataset, made where it is not there; one without a test split of its own gets one with enough images."""
    dataset = out / source.name / "dataset"
    if (dataset / "table.parquet").is_file():
        return dataset
    samtune.prepare(source, dataset, quiet=True)
    table = Dataset.open(dataset).table
    tested = table.filter(pl.col("split") == "test")["image_id"].n_unique()
    if not (source / "test").is_dir() and tested < _FEW_TEST_IMAGES:
        samtune.prepare(source, dataset, PrepareConfig(split=_OWN_SPLIT), quiet=True)
    return dataset


def with_few_images(dataset: Path, images: int, seed: int) -> Path:
    """The same dataset with some of its training images, drawn by the seed; the same files."""
    if not images:
        return dataset
    folder = dataset.with_name(f"dataset-{images}-{seed}")
    if (folder / "table.parquet").is_file():
        return folder
    table = Dataset.open(dataset).table
    training = table.filter((pl.col("split") == "train") & pl.col("mask_path").is_not_null())
    known = sorted(training["image_id"].unique().to_list())
    chosen = [known[row] for row in np.random.default_rng(seed).permutation(len(known))[:images]]
    folder.mkdir(exist_ok=True)
    for path in dataset.iterdir():
        if path.is_dir() and path.name != "embeddings" and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve(), target_is_directory=True)
    write_table(folder, table.filter((pl.col("split") != "train") | pl.col("image_id").is_in(chosen)))
    return folder


def file_name(arm: str, seed: int, images: int, steps: int) -> str:
    """Name of a cell's file."""
    return f"{ARMS[arm].key}-{seed}-{images or 'all'}-{steps}.json"


def cell(source: Path, arm: str, seed: int, images: int, options: argparse.Namespace) -> Path:
    """One trained and measured run; its evaluation's file, made where it is not there."""
    folder = options.out / source.name
    target = folder / file_name(arm, seed, images, options.steps)
    if target.is_file():
        return target
    dataset = prepared(source, options.out)
    run = folder / f"run-{target.stem}"
    if (run / "checkpoints" / "last").is_dir():
        found = samtune.resume(run, finder=False, quiet=True)
    else:
        shutil.rmtree(run, ignore_errors=True)
        settings = {"model": options.model, "out": run, "steps": options.steps, "device": "cpu"}
        settings |= {"eval_every": -(-options.steps // 5), "eval_objects": 100}
        config = ARMS[arm].config(**settings, seed=seed, cache_dir=dataset.resolve() / "embeddings")
        found = samtune.train(with_few_images(dataset, images, seed), config, finder=False, quiet=True)
    if found.signal:  # its checkpoint is saved, and goes on the next time
        sys.exit(128 + found.signal)
    asked = EvalConfig(max_objects=options.objects, jitter=(0.2,), device="cpu")
    measured = replace(samtune.evaluate(dataset, run, asked, quiet=True), model=arm)
    measured.save(target)
    shutil.rmtree(run, ignore_errors=True)
    box, point = (measured.summary(kind).mean for kind in ("box", "point"))
    print(f"{source.name} {arm}, seed {seed}, {images or 'all'} images: box {box:.3f}, click {point:.3f}", flush=True)
    return target


def table(options: argparse.Namespace, images: int) -> list[str]:
    """Rows of Markdown: every figure of every arm against one arm's, over the seeds that both have."""
    lines: list[str] = []
    for arm in ARMS:
        if arm == options.against:
            continue
        for name, figure in FIGURES.items():
            sets = [pair for source in options.sources if (pair := _pair(options, source, arm, images, figure))]
            if not sets:
                continue
            cells = [f"{fmean(before):.3f} -> {fmean(after):.3f}" for _, before, after, _ in sets]
            change = _over_sets(sets)
            names = ", ".join(f"{source} {cell}" for (source, *_), cell in zip(sets, cells, strict=True))
            lines.append(f"| {arm} | {images or 'all'} | {name} | {change} | {names} |")
    return lines


def _pair(
    options: argparse.Namespace, source: Path, arm: str, images: int, figure: Figure
) -> tuple[str, list[float], list[float], list[str]] | None:
    """A set's name, a figure of every object with `--against` and with another arm, and the objects' groups.

    Values are means over the seeds that both arms have.
    """
    before: list[list[float]] = []
    after: list[list[float]] = []
    groups: list[str] = []
    for seed in range(options.seeds):
        folder = options.out / source.name
        files = [folder / file_name(one, seed, images, options.steps) for one in (options.against, arm)]
        if all(file.is_file() for file in files):
            (old, groups), (new, _) = (figure(Evaluation.load(file)) for file in files)
            before.append(old)
            after.append(new)
    if not before or not before[0]:
        return None
    return source.name.split("_")[0], _means(before), _means(after), groups


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def _over_sets(sets: Sequence[tuple[str, list[float], list[float], list[str]]]) -> str:
    """The mean difference over sets, each counting alike, and its interval from those of the sets."""
    changes = [paired_change(before, after, groups) for _, before, after, groups in sets]
    mean = fmean(change.mean for change in changes)
    limits = [(one.low, one.high) for one in changes if one.low is not None and one.high is not None]
    halves = [(high - low) / 2 for low, high in limits]
    half = float(np.sqrt(np.square(halves).sum())) / len(changes)
    known = "" if len(halves) == len(changes) else f" ({len(halves)} of {len(changes)} sets have an interval)"
    return f"{mean:+.3f} ± {half:.3f}{known}"


def cost(options: argparse.Namespace) -> list[str]:
    """What a step costs with the plain recipe and with another, in turns of ten steps, in processor seconds."""
    source, other = options.sources[0], next(arm for arm in options.arms if arm != PLAIN)
    dataset = prepared(source, options.out)
    settings = {"model": options.model, "steps": 10**6, "eval_every": 10**6, "device": "cpu", "eval_objects": 1}
    folders = {arm: options.out / f"cost-{ARMS[arm].key}" for arm in (PLAIN, other)}
    runs = {arm: new(dataset, ARMS[arm].config(**settings, out=folder)) for arm, folder in folders.items()}
    turns = {arm: Turns(run) for arm, run in runs.items()}
    for run in runs.values():  # every image's embedding once, so that no turn pays for it
        for image in run.batches.images:
            run.embed([View(image)])
    seconds, prompts, drawn, making = (dict.fromkeys(runs, 0.0) for _ in range(4))
    for turn in range(-1, options.cost):
        for arm, run in runs.items():
            first = STEPS * (turn + 2)
            started = time.process_time()
            turns[arm].advance()
            if turn >= 0:
                seconds[arm] += time.process_time() - started
                started = time.process_time()
                batches = [_with_prompts(run, step) for step in range(first, first + STEPS)]
                making[arm] += time.process_time() - started
                prompts[arm] += sum(len(batch) * (1 + batch.corrections) for batch in batches)
                drawn[arm] += sum(len(batch) for batch in batches)
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    each = {arm: (seconds[arm] / prompts[arm], seconds[arm] / drawn[arm]) for arm in runs}
    ratio = [new / plain for new, plain in zip(each[other], each[PLAIN], strict=True)]
    return [
        *(
            f"{arm}: {1e3 * a:.2f} ms per prompt answered, {1e3 * b:.2f} per prompt drawn"
            for arm, (a, b) in each.items()
        ),
        f"ratio {ratio[0]:.2f} per prompt answered, {ratio[1]:.2f} per prompt drawn",
        *(f"{arm}: making prompts, masks read, takes {making[arm] / seconds[arm]:.1%} of a step" for arm in runs),
    ]


def _with_prompts(run: Run, step: int) -> TrainingBatch:
    """A step's batch and all that is computed of its prompts: random numbers, first prompts, correction clicks."""
    batch, policy = run.batches[step], run.config.prompts
    batch.prompts(policy)
    objects = batch.targets >= 0.5
    predicted = objects.roll(2, dims=-1)  # wrong along its edges, as answers are
    for turn in range(batch.corrections):
        correction_clicks(predicted, objects, policy, PromptDraws.of(batch.draws).corrections[turn])
    return batch


def main() -> None:
    """Parse the command line, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=[PLAIN, "default"])
    parser.add_argument("--against", choices=list(ARMS), default=PLAIN, help="the arm that the table compares with")
    parser.add_argument("--model", default="nano", help="of all arms; another one takes another --out")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--objects", type=int, default=120, help="most held-out objects of a set")
    parser.add_argument("--images", nargs="+", default=["all"], help="numbers of training images, or all")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--cost", type=int, default=0, metavar="TURNS", help="measure what ten steps cost, so often")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cost:
        print(*cost(options), sep="\n")
        return
    sizes = [0 if size == "all" else int(size) for size in options.images]
    if not options.table:
        for seed in range(options.seeds):
            for source in options.sources:
                for size in sizes:
                    for arm in options.arms:
                        cell(source, arm, seed, size, options)
    print(
        f"| arm | training images | figure | against {options.against}, mean over sets | by set |",
        "|---" * 5 + "|",
        sep="\n",
    )
    for size in sizes:
        print(*table(options, size), sep="\n")


if __name__ == "__main__":
    main()
