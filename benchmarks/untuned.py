"""A model on real sets it was never tuned on, beside the trivial predictions: the rows of nano's card.

    python benchmarks/untuned.py nano ../shared/data/lens_coco:valid,test ../shared/data/nuts_coco:all

Each source is followed by the splits that are measured; `all` takes the whole source as one. `--json` also writes the
figures of every object. The last row is the mean over sets. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from samtune import api
from samtune.config import EvalConfig, PrepareConfig
from samtune.data.table import Dataset
from samtune.evaluation.metrics import calibration
from samtune.evaluation.results import BackgroundResult, ObjectResult

CLICKS = 3
HEADS = "set, splits|objects|filled|ellipse|box|click|best of three|click +3|nothing here|IoU off by|rank"


def measure(
    model: str, source: Path, splits: Sequence[str], out: Path, most: int
) -> tuple[list[ObjectResult], list[BackgroundResult]]:
    """What the model says about at most `most` objects of each split."""
    whole = splits == ["all"]
    folder = out / (f"{source.name}-all" if whole else source.name)
    if not folder.exists():
        api.prepare(source, folder, PrepareConfig(split="0,0,1" if whole else ""), quiet=True)
    objects: list[ObjectResult] = []
    background: list[BackgroundResult] = []
    for split in ["test"] if whole else splits:
        count = sum(len(image.objects) for image in Dataset.open(folder).split(split).images)
        config = EvalConfig.model_validate({"split": split, "max_objects": min(most, count), "clicks": CLICKS})
        found = api.evaluate(folder, model, config, quiet=True)
        objects += found.objects
        background += found.background
    return objects, background


def figures(objects: Sequence[ObjectResult], background: Sequence[BackgroundResult]) -> list[float]:
    """The numbers of a row; NaN where there is nothing to measure."""
    boxes, points = ([found.answers[kind] for found in objects] for kind in ("box", "point"))
    trust = calibration([answer.predicted_iou for answer in boxes], [answer.iou for answer in boxes])
    assert trust is not None, "there are objects"
    return [
        fmean(found.filled_box for found in objects),
        fmean(found.ellipse for found in objects),
        fmean(answer.iou for answer in boxes),
        fmean(answer.first_of_three or 0.0 for answer in points),
        fmean(answer.best_of_three or 0.0 for answer in points),
        fmean(found.clicks[-1] for found in objects),
        fmean(click.object_score < 0 for click in background) if background else float("nan"),
        trust.mean_error,
        float("nan") if trust.rank_correlation is None else trust.rank_correlation,
    ]


def row(name: str, count: int, columns: Sequence[float]) -> str:
    """A row of a Markdown table."""
    return f"| {name} | {count} | {' | '.join(f'{value:.3f}' for value in columns)} |"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what `samtune evaluate --model` takes")
    parser.add_argument("sources", nargs="+", metavar="SOURCE:SPLIT,SPLIT")
    parser.add_argument("--out", type=Path, default=Path("build/untuned"), help="folder of the prepared sets")
    parser.add_argument("--most", type=int, default=160, help="objects per split, evenly spaced")
    parser.add_argument("--json", type=Path, help="file for the figures of every object")
    options = parser.parse_args()
    print(f"| {HEADS.replace('|', ' | ')} |", "|---" * len(HEADS.split("|")) + "|", sep="\n")
    rows: list[list[float]] = []
    kept: dict[str, list[object]] = {}
    for given in options.sources:
        source, _, splits = given.rpartition(":")
        objects, background = measure(options.model, Path(source), splits.split(","), options.out, options.most)
        rows.append(figures(objects, background))
        kept[given] = [asdict(found) for found in objects]
        print(row(f"{Path(source).name}, {splits.replace(',', ' and ')}", len(objects), rows[-1]), flush=True)
    means = [fmean(value for value in column if value == value) for column in zip(*rows, strict=True)]
    print(row("mean over sets", sum(map(len, kept.values())), means))
    if options.json:
        options.json.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
