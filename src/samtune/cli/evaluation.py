"""Commands that measure models on held-out images: evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from samtune import api
from samtune.cli.common import Flat, Out, Quiet, say, show
from samtune.config import EvalConfig


def evaluate(
    dataset: Path,
    /,
    *,
    model: str,
    out: Path | None = None,
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: Quiet = False,
) -> None:
    """Measure a model on a split: IoU and Dice for boxes and single clicks, beside what trivial guesses score.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        out: JSON file to write the figures of every object to.
    """
    show(api.evaluate(dataset, model, config, out=out, quiet=quiet))


def compare(
    dataset: Path,
    /,
    *,
    base: str = "nano",
    tuned: str,
    out: Out,
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: Quiet = False,
) -> None:
    """Measure two models on the same prompts, say whether they differ, and write a report with images.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        base: Model to compare with.
        tuned: Run or model that is judged.
    """
    show(api.compare(dataset, base, tuned, out, config, quiet=quiet))
    say(f"report     {Path(out) / 'report.html'}")
