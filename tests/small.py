"""Small data for tests: a prepared dataset written directly as the table says, and an export to prepare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from samtune.data.masks import mask_box, write_mask_file
from samtune.data.table import SCHEMA, Dataset, write_table

SIZE = 72


def make_dataset(
    root: Path, *, train: int = 6, valid: int = 3, test: int = 3, empty: int = 1, seed: int = 0
) -> Dataset:
    """Bright discs on dark ground, two to four an image; the last `empty` images of each split show none."""
    rng = np.random.default_rng(seed)
    rows = []
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for split, count in {"train": train, "valid": valid, "test": test}.items():
        for index in range(count):
            name = f"{split}-{index}"
            discs = [] if index >= count - empty else [_disc(rng) for _ in range(rng.integers(2, 5))]
            pixels = rng.normal(60, 12, (SIZE, SIZE + 8, 3))
            for disc in discs:
                pixels[disc] += 110
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"images/{name}.png")
            image = {
                "image_path": f"images/{name}.png",
                "split": split,
                "image_id": name,
                "width": SIZE + 8,
                "height": SIZE,
                "group": name,
            }
            for number, disc in enumerate(discs):
                box = mask_box(disc)
                assert box is not None
                path = f"masks/{name}-{number}.png"
                write_mask_file(root / path, disc)
                rows.append(
                    image
                    | dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
                    | {
                        "mask_path": path,
                        "annotation_id": f"{name}-{number}",
                        "category": "small" if disc.sum() < 250 else "large",
                        "area": int(disc.sum()),
                        "iscrowd": False,
                    }
                )
            if not discs:
                rows.append(dict.fromkeys(SCHEMA) | image)
    write_table(root, pl.DataFrame(rows, schema=SCHEMA))
    return Dataset.open(root)


def _disc(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIZE, : SIZE + 8]
    radius = rng.uniform(5, 14)
    center = rng.uniform(14, SIZE - 14, 2)
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2


def write_export(folder: Path, side: int = 64) -> None:
    """A Roboflow-like COCO export: 4, 2 and 3 square images of two bright rectangles, a class named as HTML."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "valid": 2, "test": 3}.items():
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for index in range(count):
            pixels = rng.integers(30, 70, (side, side, 3))
            name = f"{split}-{index}_jpg.rf.{index:032}.jpg"
            for x, y in ((6, 8), (34, 30)):
                pixels[y : y + 20, x : x + 24] += 120
                ring = [x, y, x + 24, y, x + 24, y + 20, x, y + 20]
                annotations.append(
                    {"id": len(annotations), "image_id": index, "category_id": 1, "segmentation": [ring], "iscrowd": 0}
                    | {"bbox": [x, y, 24, 20], "area": 480}
                )
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name)
            images.append({"id": index, "file_name": name, "width": side, "height": side})
        categories = [{"id": 0, "name": "things"}, {"id": 1, "name": "<b>thing</b>"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
