"""Which mask should a tool show? Tools show the best of tokens 1 to 3 by predicted IoU; samtune's own is token 0's.

    python benchmarks/onnx_tokens.py DATASET [--model nano] [--split test] [--images 40]

For every object of a prepared dataset and three kinds of prompts (its box, one click at its deepest pixel, that click
with two more inside it): the true IoU of the best of tokens 1 to 3, of samtune's single mask (token 0, or the best of
the others where it is unstable), and of how the two agree with each other. Decision 0140 rests on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.data.table import Dataset
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.types import Prompt

KINDS = ("box", "click", "three clicks")


def prompts_of(mask: NDArray[np.bool_], random: np.random.Generator) -> list[Prompt]:
    """The prompts of `KINDS` for one object, mask bool `[H, W]`."""
    rows, columns = np.nonzero(mask)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    clicks = [(float(x) - 0.5, float(y) - 0.5)]
    inside = random.integers(0, len(rows), 2)
    clicks += [(columns[place] + 0.5, rows[place] + 0.5) for place in inside]
    box = Prompt.box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [box, Prompt.clicks(clicks[:1]), Prompt.clicks(clicks)]


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Of two masks, 0 to 1."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    dataset, predictor = Dataset.open(arguments.dataset), Predictor(load_model(arguments.model))
    random = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for entry in dataset.split(arguments.split).images[: arguments.images]:
        embedded = predictor.embed(dataset.read_image(entry))
        for record in entry.single_objects[:10]:
            truth = dataset.read_mask(record)
            prompts = prompts_of(truth, random)
            best = [prediction.best for prediction in predictor.predict(embedded, prompts, multimask_output=True)]
            own = [prediction.best for prediction in predictor.predict(embedded, prompts)]
            for kind, three, single in zip(KINDS, best, own, strict=True):
                found[kind].append((iou(three, truth), iou(single, truth), iou(three, single)))
    print(f"{arguments.model} on {arguments.dataset.name}, {arguments.split}: {len(found['box'])} objects")
    print("prompt         best of three  samtune's single  the two with each other")
    for kind, rows in found.items():
        three, single, both = np.mean(rows, axis=0)
        print(f"{kind:<14} {three:13.4f} {single:17.4f} {both:24.4f}")


if __name__ == "__main__":
    main()
