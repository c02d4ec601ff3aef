"""J&F of base and tuned on clips, beside a mask that stands still: the decoder tuned on frames, the memory left alone.

    python benchmarks/clip_memory.py --out build/clips
    python benchmarks/clip_tuning.py --out build/clips [--sets ../shared/data/lens_coco ...]

For drawn clips (shapes that move and hide each other), and for each labelled set: frames of training clips become a
dataset, `samtune.train` tunes the decoder on it with default prompts, and `samtune.evaluate_clips` follows the objects
of other clips with base, tuned model and blends of the two. A labelled set has no clips; its clips here are a window
that moves over a labelled image, as a camera would that pans over a photograph: nothing in them moves by itself.

The line to beat is printed with each: true masks left where they are given. Nothing is asserted. What is there already
is not made again; with `--piece` it ends after so many seconds, with exit code 3 while there is more to do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_memory import MORE_TO_DO, SIDE, SMALLEST
from samtune import api
from samtune.config import ClipEvalConfig, OptimizerConfig, PrepareConfig, TrainConfig
from samtune.data.masks import mask_box, write_mask_file
from samtune.data.masks.palette import read_label_image, write_label_image
from samtune.data.table import Dataset, ImageEntry
from samtune.evaluation.clips.davis import annotated_clips
from samtune.synthetic.clips import write_clips
from samtune.synthetic.dataset import write_drawn
from samtune.types import Split
from samtune.utils.files import new_folder

LENGTH = 12
"""Frames of a clip."""
EVERY = 3
"""One frame of so many becomes an image to tune on."""
WINDOW = 0.5
"""Side of the moving window as a share of the image's shorter side."""
MOST_OBJECTS = 6
"""Objects of a clip, those largest on its first frame."""


def write_pans(out: Path, dataset: Dataset, split: str, most: int, seed: int) -> Path:
    """Clips of a window that moves over a labelled image, one for each image, in the folders of DAVIS."""
    if out.exists():
        return out
    with new_folder(out, sync=False) as folder:
        number = 0
        for entry in dataset.split(split).images:
            clip = None
            if entry.single_objects and number < most:
                clip = _pan(dataset, entry, np.random.default_rng((seed, number)))
            if clip is not None:
                _write(folder, f"{number:03}", *clip)
                number += 1
    return out


def _pan(
    dataset: Dataset, entry: ImageEntry, rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] | None:
    """Frames and labels of a window of `WINDOW` that starts where it shows an object; None where it never does."""
    image = dataset.read_image(entry)
    labels = np.zeros(image.shape[:2], np.uint8)
    for place, record in enumerate(sorted(entry.single_objects, key=lambda one: -one.area)[:255], start=1):
        labels[dataset.read_mask(record)] = place
    side = round(WINDOW * min(labels.shape))
    room = np.array(labels.shape) - side
    for _ in range(30):
        ends = rng.uniform(0, 1, (2, 2)) * room
        if np.abs(ends[0] - ends[1]).max() < 0.3 * side:
            continue
        places = np.linspace(ends[0], ends[1], LENGTH).round().astype(int)
        frames = [cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                  for y, x in places]  # fmt: skip
        seen = [cv2.resize(labels[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
                for y, x in places]  # fmt: skip
        areas = np.bincount(seen[0].ravel(), minlength=256)[1:]
        kept = [int(one) + 1 for one in areas.argsort()[::-1][:MOST_OBJECTS] if areas[one] >= SMALLEST]
        if kept:
            table = np.zeros(256, np.uint8)
            table[kept] = np.arange(1, len(kept) + 1)
            return [np.asarray(frame, np.uint8) for frame in frames], [table[one] for one in seen]
    return None


def _write(folder: Path, name: str, frames: list[NDArray[np.uint8]], labels: list[NDArray[np.uint8]]) -> None:
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / name).mkdir(parents=True)
    for number, (frame, found) in enumerate(zip(frames, labels, strict=True)):
        Image.fromarray(frame).save(folder / f"JPEGImages/{name}/{number:05}.png")
        write_label_image(folder / f"Annotations/{name}/{number:05}.png", found)


def frames_as_dataset(clips: Path, out: Path) -> Path:
    """Some frames of clips as images to tune on; every fifth clip is for validation."""
    if out.exists():
        return out
    work = [
        (place, stem, file)
        for place, clip in enumerate(annotated_clips(clips, "train"))
        for stem, file in list(clip.truth.items())[::EVERY]
    ]

    def write_image(folder: Path, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        place, stem, file = work[number]
        split = Split.VALID if place % 5 == 4 else Split.TRAIN
        source = clips / "JPEGImages" / file.parent.name / f"{stem}.png"
        return _rows(folder, f"{file.parent.name}-{stem}", source, read_label_image(file), split)

    write_drawn(out, len(work), write_image, seed=0, advance=lambda done, total: None)
    return out


def _rows(folder: Path, name: str, source: Path, labels: NDArray[np.uint8], split: Split) -> list[dict[str, Any]]:
    """An image, its masks, and its rows of the table."""
    height, width = labels.shape
    image = {"image_path": f"images/{name}.png", "split": str(split), "image_id": name, "width": width}
    image |= {"height": height, "group": name.split("-")[0]}
    (folder / image["image_path"]).write_bytes(source.read_bytes())
    rows: list[dict[str, Any]] = []
    for number in sorted(set(np.unique(labels).tolist()) - {0}):
        mask = labels == number
        box = mask_box(mask)
        assert box is not None, "an object has pixels"
        path = f"masks/{name}-{number}.png"
        write_mask_file(folder / path, mask)
        place = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        described = {"mask_path": path, "annotation_id": f"{name}-{number}", "category": "object", "iscrowd": False}
        rows.append(image | place | described | {"area": int(mask.sum())})
    return rows or [image]


def main() -> None:
    """Make clips, tune, follow, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/clips"))
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="folders of labelled exports")
    parser.add_argument("--clips", type=int, default=40, help="to measure on, at most")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--alphas", type=float, nargs="*", default=[0.25, 0.5], help="of blends of base and tuned")
    parser.add_argument("--prompts", nargs="+", default=["mask"], choices=["mask", "box", "click"])
    parser.add_argument("--piece", type=float, default=0, help="seconds after which to stop; 0 for none")
    wanted = parser.parse_args()
    began = time.monotonic()

    def pause() -> None:
        if wanted.piece and time.monotonic() - began > wanted.piece:
            sys.exit(MORE_TO_DO)

    for source in [None, *wanted.sets]:
        root = wanted.out / (source.name if source else "drawn")
        measure(root, source, wanted, pause)


def measure(root: Path, source: Path | None, wanted: argparse.Namespace, pause: Callable[[], None]) -> None:
    """Everything about one kind of clips."""
    root.mkdir(parents=True, exist_ok=True)
    train, test = root / "train-clips", root / "test-clips"
    if source is None:
        for folder, count, seed in ((train, 40, 21), (test, wanted.clips, 22)):
            if not folder.exists():
                write_clips(folder, count, LENGTH, size=SIDE, seed=seed)
    else:
        if not (root / "set").exists():
            api.prepare(source, root / "set", PrepareConfig(), quiet=True)
        dataset = Dataset.open(root / "set")
        write_pans(train, dataset, "train", 80, seed=23)
        write_pans(test, dataset, "test", wanted.clips, seed=24)
    frames = frames_as_dataset(train, root / "frames")
    pause()
    run = root / "tuned"
    if not (run / "checkpoints").exists():
        config = TrainConfig(
            model=str(wanted.out / "base"), out=run, steps=wanted.steps, eval_objects=100,
            optimizer=OptimizerConfig(lr=wanted.lr),
        )  # fmt: skip
        api.train(frames, config, finder=False, quiet=True)
    pause()
    models = {"tuned": run}
    for alpha in wanted.alphas:
        models[f"blend {alpha:g}"] = blended = root / f"blend-{alpha:g}"
        if not blended.exists():
            api.blend(wanted.out / "base", run, blended, alpha=alpha, quiet=True)
    for kind in wanted.prompts:
        for name, model in models.items():
            file = root / f"{name} by {kind}.json"
            if not file.exists():
                config = ClipEvalConfig(prompt=kind)
                found = api.evaluate_clips(test, model, config, base=wanted.out / "base", out=file, quiet=True)
                file.with_suffix(".txt").write_text("\n".join(found.lines()))
            print(f"{root.name}, {name}: {file.with_suffix('.txt').read_text()}", flush=True)
            pause()


if __name__ == "__main__":
    main()
