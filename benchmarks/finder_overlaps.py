"""What holds small overlapping parts back: a drawn set, and where the finder loses its objects, step by step.

    python benchmarks/finder_overlaps.py --out build/overlaps

Rows of four small ellipses that cover each other like scales, their middles a quarter, half or a whole diameter apart;
annotated is what is seen of each. Decoder and finder are tuned as a user would, in processes of their own. Then, for
each distance and split, the share of the objects that is still there after each step of finding: matched one to one,
the surest first. The last column asks the decoder with the true boxes. What is in `--out` already is not made again.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from samtune.api.loading import predictor_of
from samtune.data.low_res import LowResTargets
from samtune.data.masks import mask_box
from samtune.finder.finding import Looks, answer_boxes, look
from samtune.finder.matching import match
from samtune.finder.measure import RIGHT, compress
from samtune.finder.name_training import seen_from
from samtune.finder.proposals import (
    BOX_OVERLAP,
    LEAST_OBJECTNESS,
    MASK_OVERLAP,
    box_iou,
    paired_iou,
    propose,
)
from samtune.finder.results import Finder
from samtune.finder.storage import load_finder
from samtune.finder.targets import LEAST_SPREAD, NEAR, SPREAD, Truth, read_truth
from samtune.inference.overlaps import MaskRuns, mask_boxes, without_duplicates
from samtune.inference.predictor import Predictor
from samtune.model.preprocess import MASK_THRESHOLD
from samtune.training.run import open_embeddings

SIDE = 384
IMAGES = {"train": 60, "valid": 12, "test": 16}
ROWS, IN_A_ROW = 6, 4
DISTANCES = {"quarter": 0.25, "half": 0.5, "whole": 1.0}
LEAST_PIXELS = 40
"""Of an object; what shows less is not annotated."""
STEPS = ("peak", "box", "after box NMS", "mask", "after mask NMS", "kept by threshold", "true box")

Pixels = NDArray[np.float64]


def draw_set(out: Path) -> None:
    """Write the set as COCO, one folder for each split; the distance is the category."""
    for number, (split, count) in enumerate(IMAGES.items()):
        folder = out / split
        folder.mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place in range(count):
            pixels, parts = draw_image(np.random.default_rng((number, place)))
            name = f"{split}-{place}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            images.append({"id": place + 1, "file_name": name, "width": SIDE, "height": SIDE})
            for mask, category in parts:
                x0, y0, x1, y1 = mask_box(mask) or (0, 0, 0, 0)
                runs = compress(mask)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": place + 1, "category_id": category + 1, "iscrowd": 0}
                    | {"area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                    | {"segmentation": {"size": runs["size"], "counts": str(runs["counts"])}}
                )
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(DISTANCES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "_annotations.coco.json").write_text(json.dumps(content))


def draw_image(rng: np.random.Generator) -> tuple[Pixels, list[tuple[NDArray[np.bool_], int]]]:
    """An image and what is seen of each ellipse, with the number of its row's distance."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    coarse = np.kron(rng.normal(0, 14, (SIDE // 8, SIDE // 8, 3)), np.ones((8, 8, 1)))
    pixels = rng.uniform(60, 150, 3) + coarse + rng.normal(0, 6, (SIDE, SIDE, 3))
    owner = np.full((SIDE, SIDE), -1)
    categories: list[int] = []
    for middle in rng.permutation([(a, b) for a in (80, 192, 304) for b in (80, 192, 304)])[:ROWS]:
        category = int(rng.integers(len(DISTANCES)))
        size, narrow, turn, way = rng.uniform(24, 36), rng.uniform(0.7, 1), *rng.uniform(0, 2 * np.pi, 2)
        hue, step = rng.uniform(), tuple(DISTANCES.values())[category] * size
        for number in range(IN_A_ROW):
            along = (number - (IN_A_ROW - 1) / 2) * step
            dx, dy = x - middle[0] - along * np.cos(way), y - middle[1] - along * np.sin(way)
            u, v = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / narrow
            far = np.hypot(u, v) / (size / 2)
            inside = far <= 1
            colour = np.array(colorsys.hsv_to_rgb((hue + rng.normal(0, 0.02)) % 1, 0.6, rng.uniform(0.7, 0.95))) * 255
            pixels[inside] = (colour * (1.05 - 0.45 * far[inside, None] ** 3)) + rng.normal(0, 5, (inside.sum(), 3))
            owner[inside] = len(categories)
            categories.append(category)
    parts = [(owner == number, category) for number, category in enumerate(categories)]
    return pixels, [(mask, category) for mask, category in parts if mask.sum() >= LEAST_PIXELS]


@torch.no_grad()
def still_there(run: Path, predictor: Predictor, finder: Finder, split: str) -> tuple[list[str], NDArray[np.bool_]]:
    """Of each object of a split its category, and whether it is there after each of `STEPS`, bool `[N, 7]`."""
    embeddings = open_embeddings(run, predictor.loaded)
    low_res = LowResTargets(embeddings.dataset, predictor.loaded.mask_size)
    categories: list[str] = []
    there: list[NDArray[np.bool_]] = []
    for image in embeddings.dataset.split(split).images:
        truth = read_truth(image, low_res, {})
        categories += [one.category for one in truth.objects]
        there.append(_of_image(predictor, finder, seen_from(embeddings, image, finder.looks), truth, low_res))
    return categories, np.concatenate(there)


def _of_image(
    predictor: Predictor, finder: Finder, seen: Looks, truth: Truth, low_res: LowResTargets
) -> NDArray[np.bool_]:
    """The same for one image."""
    output = look(finder.head, seen)
    boxes, masks = truth.boxes.numpy(), low_res.of(truth.objects) > 127
    every, fewer = (propose(output, 0, finder.most, overlap=overlap) for overlap in (1.0, BOX_OVERLAP))
    answers = answer_boxes(predictor, seen.embedded, fewer.boxes)
    drawn = (answers.logits > MASK_THRESHOLD).numpy()
    agreement = paired_iou(fewer.boxes.numpy(), mask_boxes(drawn).astype(np.float32))
    columns = (fewer.objectness.numpy(), answers.iou_scores, np.ones(len(drawn)), agreement)
    evidence = np.stack(columns, axis=1).astype(np.float64)
    kept = without_duplicates(MaskRuns.of_masks(drawn), evidence[:, :3].prod(1).astype(np.float32), MASK_OVERLAP)
    scores = finder.calibration(evidence).astype(np.float32)
    above = kept[scores[kept] >= finder.threshold]
    iou = _mask_iou(drawn, masks)
    asked = (answer_boxes(predictor, seen.embedded, truth.boxes).logits > MASK_THRESHOLD).numpy()
    found = [
        _owned(_nearness(output.objectness[0].sigmoid(), truth.boxes), NEAR),
        _owned(box_iou(every.boxes.numpy(), boxes), RIGHT, every.objectness.numpy()),
        _owned(box_iou(fewer.boxes.numpy(), boxes), RIGHT, fewer.objectness.numpy()),
        *(_owned(iou[rows], RIGHT, scores[rows]) for rows in (np.arange(len(iou)), kept, above)),
        np.diagonal(_mask_iou(asked, masks)) >= RIGHT,
    ]
    return np.stack(found, axis=1)


def _nearness(heat: Tensor, boxes: Tensor) -> NDArray[np.float32]:
    """The Gaussian that each object was taught by, at each peak of the objectness: `[P, N]`."""
    peaks = (F.max_pool2d(heat[None], 3, stride=1, padding=1)[0] == heat) & (heat >= LEAST_OBJECTNESS)
    y, x = peaks.nonzero().unbind(1)
    middles = (boxes[:, :2] + boxes[:, 2:]).div(2).floor()
    away = torch.stack([x, y], dim=1)[:, None] - middles[None]
    spread = ((boxes[:, 2:] - boxes[:, :2]) * SPREAD).clamp(min=LEAST_SPREAD)
    return ((away / spread).square().sum(2) / -2).exp().numpy()


def _owned(overlap: NDArray[np.float32], least: float, scores: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
    """Which objects some find is matched to, bool `[N]`; without scores the best overlap goes first."""
    order = overlap.max(1, initial=0) if scores is None else scores
    return np.isin(np.arange(overlap.shape[1]), match(overlap, order, least))


def _mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float32]:
    """IoU of every mask of `first` with every one of `second` on the low-res grid: `[A, B]`."""
    a, b = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (first, second))
    shared = a @ b.T
    return shared / np.maximum(a.sum(1)[:, None] + b.sum(1)[None] - shared, 1)


def samtune(*arguments: object) -> None:
    """Run one samtune command to its end."""
    subprocess.run([sys.executable, "-m", "samtune", *map(str, arguments), "--quiet"], check=True)


def main() -> None:
    """Draw, tune, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    images, dataset, run = out / "images", out / "dataset", out / "run"
    if not (dataset / "table.parquet").is_file():
        draw_set(images)
        samtune("prepare", images, "--out", dataset)
    if not (run / "checkpoints" / "best").is_dir():
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted benchmark
        tune = ("--prompts", "boxes", "--steps", 400, "--optimizer.lr", 2e-4)
        samtune("train", dataset, "--out", run, "--no-finder", *tune)
    if not (run / "finder").is_dir():
        samtune("find-train", run, "--find-classes", "none")
    predictor, finder = predictor_of(run, "auto"), load_finder(run)
    print(f"{finder.looks} looks, step {finder.about['step']}, {finder.quality}")
    print("| split | distance | objects | " + " | ".join(STEPS) + " |\n|" + "---|" * (len(STEPS) + 3))
    for split in ("train", "test"):
        categories, there = still_there(run, predictor, finder, split)
        for distance in DISTANCES:
            rows = there[np.array(categories) == distance]
            cells = (f"{100 * share:.0f}" for share in rows.mean(0))
            print(f"| {split} | {distance} | {len(rows)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
