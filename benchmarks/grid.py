"""The grid of clicks on annotated images: AP, AR, precision, recall and time, for thresholds and crops.

    python benchmarks/grid.py RUN [--split test] [--split-to-choose valid]

Printed for the run: the constants, the thresholds chosen on another split, no thresholds at all, and each with crops.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from samtune.api.loading import predictor_of
from samtune.config import AutomaticConfig
from samtune.data.table import Dataset
from samtune.finder.coco import coco_precision
from samtune.finder.grid import fit_grid
from samtune.finder.measure import FoundImage, compress, matched, read_true
from samtune.inference.automatic import everything
from samtune.inference.predictor import Predictor
from samtune.inference.reading import dataset_of
from samtune.utils.text import text_table


def measured(
    name: str, predictor: Predictor, split: Dataset, most_images: int, config: AutomaticConfig
) -> tuple[str, ...]:
    """One line of the table."""
    images = split.images[:most_images]
    truth = [read_true(split, image, ()) for image in images]
    found: list[FoundImage] = []
    started, cpu = time.perf_counter(), time.process_time()
    for image in images:
        masks = everything(predictor, split.read_image(image), config)
        scores = np.array([one.iou_score for one in masks], np.float64)
        found.append(FoundImage([compress(one.mask) for one in masks], np.zeros(len(masks), np.int64), scores))
    count = len(images)
    seconds, cpu_seconds = (time.perf_counter() - started) / count, (time.process_time() - cpu) / count
    precision = coco_precision(truth, found, named=False)
    point = matched(truth, found, 1, 0.0).point
    shares = (precision.ap, precision.ap50, precision.ar)
    return (
        name,
        *(f"{100 * value:.1f}" for value in shares),
        *(f"{value:.2f}" for value in (point.precision, point.recall, point.f1)),
        f"{sum(len(one.masks) for one in found) / count:.1f}",
        f"{cpu_seconds:.2f}",
        f"{seconds:.2f}",
    )


def main() -> None:
    """Choose, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", help="annotated images to measure on")
    parser.add_argument("--split-to-choose", default="valid", help="annotated images to choose thresholds on")
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--most-images", type=int, default=32, help="of either split")
    parser.add_argument("--crop-layers", type=int, default=1, help="of the rows with crops; 0 leaves them out")
    arguments = parser.parse_args()
    source = dataset_of(arguments.run)
    assert source is not None, "the run's dataset has gone"
    dataset, predictor = Dataset.open(source), predictor_of(arguments.run, "auto")
    plain = AutomaticConfig(points_per_side=arguments.points_per_side)
    fit = fit_grid(dataset, arguments.split_to_choose, predictor, plain, arguments.most_images)
    print(*fit.lines(), sep="\n")
    chosen = {name: getattr(fit.thresholds, name) for name in ("min_iou_score", "min_stability")}
    settings = {
        "constants": plain,
        "chosen": plain.model_copy(update=chosen),
        "no thresholds": plain.model_copy(update={"min_iou_score": 0.0, "min_stability": 0.0}),
    }
    if arguments.crop_layers:
        layers = {"crop_layers": arguments.crop_layers}
        settings["chosen, crops"] = settings["chosen"].model_copy(update=layers)
    split = dataset.split(arguments.split)
    rows = [measured(name, predictor, split, arguments.most_images, config) for name, config in settings.items()]
    head = ("", "AP", "AP50", "AR", "precision", "recall", "F1", "masks", "CPU s", "s")
    print(*text_table(head, rows), sep="\n")


if __name__ == "__main__":
    main()
