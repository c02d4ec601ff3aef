"""Commands about labels still to be made: curve, next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from samtune import api
from samtune.cli.common import Flat, Quiet, say, show
from samtune.cli.training import TrainOptions
from samtune.config import CurveConfig, RankConfig


def curve(
    dataset: Path,
    /,
    *,
    settings: Annotated[TrainOptions, Flat] = TrainOptions(),
    measures: Annotated[CurveConfig, Flat] = CurveConfig(),
    quiet: Quiet = False,
) -> None:
    """How much data is enough: tune on growing shares of the training groups, and estimate what more images bring.

    Takes as long as all these runs; interrupted, the same command goes on. Writes to --out, or to runs/curve.

    Args:
        dataset: Folder that `samtune prepare` wrote.
    """
    config = settings.config()
    out = config.out or Path("runs/curve")
    found = api.curve(dataset, out, measures, config, quiet=quiet)
    show(found)
    say(f"written    {out / 'curve.json'}, curve.csv, curve.png")


def next_(
    images: Path,
    /,
    *,
    model: str,
    out: Path = Path("next.json"),
    config: Annotated[RankConfig, Flat] = RankConfig(),
    quiet: Quiet = False,
) -> None:
    """Which images to label next: where the model is unsure, and what is unlike the labelled images, first.

    Args:
        images: Image, or folder of images that nobody has labelled.
        model: A run, whose finder and dataset are used; or another model, with --labelled DATASET.
        out: JSON file to write; a CSV file is written beside it.
    """
    show(api.rank_images(images, model, config, out=out, quiet=quiet))
    say(f"list       {out.with_suffix('.json')}, {out.with_suffix('.csv').name}")
