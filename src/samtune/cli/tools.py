"""Commands beside the main job: demo, bench, models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from samtune import api
from samtune import demo as demonstration
from samtune.cli.common import AsJson, Flat, Out, Quiet, show
from samtune.config import BenchConfig


def demo(*, out: Out = Path("demo"), steps: int = demonstration.STEPS, seed: int = 0, quiet: Quiet = False) -> None:
    """Make a small dataset, tune the built-in model on it, judge it, write a report. Takes a few minutes on a laptop.

    Args:
        out: Folder for the export, the dataset, the run and the report; replaced when it is an earlier demo.
        steps: Optimizer steps.
        seed: Seed of the images and of the training.
    """
    show(demonstration.demo(out, steps=steps, seed=seed, quiet=quiet))


def bench(
    *, config: Annotated[BenchConfig, Flat] = BenchConfig(), as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Measure how fast this machine tunes a model, and estimate how long a run will take.

    Images are drawn, encoded and trained on, for real; nothing is kept. Takes a minute or two with nano, and some
    minutes with large models on a CPU. With --json, times are in seconds and operations in 1e9.
    """
    show(api.bench(config, quiet=quiet), as_json=as_json)


def models(*, as_json: AsJson = False) -> None:
    """List the models samtune knows by name."""
    show(api.models(), as_json=as_json)
