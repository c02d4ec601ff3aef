"""One image of 30,000 x 30,000 pixels with 5,000 objects, from annotations to tuned predictions: time and memory.

    python benchmarks/large_image.py --folder build/large --out build/large.json

The sheet is drawn (`samtune.synthetic.sheet`), prepared in tiles of 1024 pixels with a halo of 128, `nano` is tuned on
it for 50 steps, and its boxes are asked in tiles. Each command is a process of its own. `peak_mib` is the most memory
that one of its processes had; mapped pages of the file count, which the system takes back when it needs them.
`cpu_seconds` says more than `seconds` where the machine has other work.

Then the seams: objects that reach over the border between the cores of two tiles are cut out of the image alone, in a
window of a tile's size with the object in its middle, and asked again. The IoU of both masks is what a seam costs. The
same for objects inside a core, and for windows moved by a few pixels, tells how much the model's answer depends on
where in its input an object lies; no way of cutting can do better than that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from samtune.data.masks import Region
    from samtune.data.tiles import TileGrid

TILE, HALO = 1024, 128


def measured(*command: object) -> dict[str, float]:
    """Run a samtune command; its seconds, processor seconds and peak memory."""
    start = time.monotonic()
    tokens = [sys.executable, "-m", "samtune", *map(str, command), "--quiet"]
    process = os.posix_spawn(sys.executable, tokens, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(tokens)}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def drawn(folder: Path, side: int, objects: int) -> dict[str, float]:
    """Draw the sheet, unless it is there."""
    from samtune.synthetic.sheet import write_sheet

    start = time.monotonic()
    if not folder.exists():
        write_sheet(folder, side, objects)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "mib": round((folder / "sheet.tif").stat().st_size / 2**20),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def some_boxes(source: Path, out: Path, count: int) -> tuple[list[dict], int]:
    """Write a COCO file with `count` boxes, 0 for all, those at seams first; the boxes, and how many are at seams."""
    from samtune.data.tiles import TileGrid

    content = json.loads((source / "_annotations.coco.json").read_text())
    image = content["images"][0]
    grid = TileGrid(image["width"], image["height"], TILE, HALO)
    chosen = sorted(content["annotations"], key=lambda one: not _reaches_over(grid, one["bbox"]))
    at_seams = sum(_reaches_over(grid, one["bbox"]) for one in chosen)
    out.write_text(json.dumps(content | {"annotations": chosen[: count or None]}))
    return chosen[: count or None], at_seams


def _reaches_over(grid: TileGrid, bbox: list[float]) -> bool:
    x, y, width, height = bbox
    corners = ((x, y), (x + width, y), (x, y + height), (x + width, y + height))
    return len({grid.owner(*corner) for corner in corners}) > 1


def seams(source: Path, run: Path, predicted: Path, asked: list[dict], at_seams: int, most: int) -> dict[str, dict]:
    """IoU of the masks of objects at seams, and of others, with those of the same objects cut out alone."""
    from samtune.data.images import Reading, read_image
    from samtune.data.masks import parse_counts, rasterise_region, region_of
    from samtune.inference.predictor import Predictor
    from samtune.model.io.load import load_model
    from samtune.types import Prompt

    results = json.loads((predicted / "predictions.json").read_text())
    height, width = results[0]["segmentation"]["size"]
    predictor = Predictor(load_model(str(run)))

    def alone(one: dict, moved: int = 0) -> tuple[Region | None, int, int]:
        """The mask of an object cut out alone, and the corner of the window."""
        x, y, w, h = one["bbox"]
        x0, y0, x1, y1 = (float(np.float32(value)) for value in (x, y, x + w, y + h))
        left = int(np.clip((x0 + x1 - TILE) / 2, 0, width - TILE)) + moved
        top = int(np.clip((y0 + y1 - TILE) / 2, 0, height - TILE)) + moved
        window = (left, top, left + TILE, top + TILE)
        pixels = read_image(source / "sheet.tif", reading=Reading(in_tiles=True), window=window)
        prompt = Prompt.box(x0 - left, y0 - top, x1 - left, y1 - top)
        return region_of(predictor.predict(predictor.embed(pixels), [prompt])[0].best), left, top

    def tiled(number: int) -> Region | None:
        return rasterise_region(parse_counts(results[number]["segmentation"]["counts"], height, width), height, width)

    inner = [number for number in range(at_seams, len(asked)) if _is_inside(asked[number]["bbox"], width, height)]
    found = {
        "at seams": [_iou(*alone(asked[n]), tiled(n)) for n in range(min(most, at_seams, len(asked)))],
        "inside a core": [_iou(*alone(asked[n]), tiled(n)) for n in inner[:most]],
    }
    for moved in (1, 32):
        pairs = ((alone(asked[n]), alone(asked[n], moved)) for n in inner[:most])
        found[f"alone, moved by {moved} px"] = [_moved_iou(one, other) for one, other in pairs]
    return {name: _figures(values) for name, values in found.items()}


def _is_inside(bbox: list[float], width: int, height: int) -> bool:
    """Whether a window around it, moved a little, does not meet the image's border."""
    return all(TILE <= place <= side - TILE for place, side in zip(bbox[:2], (width, height), strict=True))


def _moved_iou(one: tuple[Region | None, int, int], other: tuple[Region | None, int, int]) -> float:
    region, left, top = other
    placed = None if region is None else replace(region, x0=region.x0 + left, y0=region.y0 + top)
    return _iou(*one, placed)


def _figures(found: list[float]) -> dict[str, float]:
    if not found:
        return {"objects": 0}
    values = np.array(found)
    return {
        "objects": len(values),
        "mean_iou": round(float(values.mean()), 4),
        "median_iou": round(float(np.median(values)), 4),
        "lowest_iou": round(float(values.min()), 4),
        "share_above_0.98": round(float((values > 0.98).mean()), 3),
    }


def _iou(alone: Region | None, left: int, top: int, tiled: Region | None) -> float:
    if alone is None or tiled is None:
        return float(alone is tiled)
    x0, y0 = min(alone.x0 + left, tiled.x0), min(alone.y0 + top, tiled.y0)
    x1 = max(alone.box[2] + left, tiled.box[2])
    y1 = max(alone.box[3] + top, tiled.box[3])
    first, second = np.zeros((y1 - y0, x1 - x0), bool), np.zeros((y1 - y0, x1 - x0), bool)
    rows, columns = alone.mask.shape
    first[alone.y0 + top - y0 :, alone.x0 + left - x0 :][:rows, :columns] = alone.mask
    rows, columns = tiled.mask.shape
    second[tiled.y0 - y0 :, tiled.x0 - x0 :][:rows, :columns] = tiled.mask
    return float((first & second).sum() / (first | second).sum())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/large"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--objects", type=int, default=5_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--boxes", type=int, default=0, help="how many boxes to ask, those at seams first; 0 for all")
    parser.add_argument("--seams", type=int, default=200, help="how many objects at seams to compare")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = ("source", "dataset", "run", "predicted", "boxes.json")
    source, dataset, run, predicted, boxes = (arguments.folder / name for name in names)
    results: dict[str, dict[str, float]] = {}

    def report(name: str, values: dict[str, float]) -> None:
        results[name] = values
        print(name, json.dumps(values), flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(results, indent=2) + "\n")

    report("draw", drawn(source, arguments.side, arguments.objects))
    report("prepare", measured("prepare", source, "--out", dataset, "--tile", TILE, "--halo", HALO))
    options = ("--steps", arguments.steps, "--eval-every", arguments.steps, "--eval-objects", 20)
    report("train", measured("train", dataset, "--model", "nano", "--out", run, *options))
    chosen, at_seams = some_boxes(source, boxes, arguments.boxes)
    asked = ("--model", run, "--out", predicted, "--tile", TILE, "--halo", HALO, "--boxes", boxes)
    report("predict", measured("predict", source / "sheet.tif", *asked))
    for name, values in seams(source, run, predicted, chosen, at_seams, arguments.seams).items():
        report(name, values)


if __name__ == "__main__":
    main()
