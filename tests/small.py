"""A prepared dataset of a few drawn pictures, written directly as the table says, for tests of what stands on it."""

from __future__ import annotations

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
    """Bright discs on dark ground, two to four a picture; the last `empty` pictures of each split show none."""
    rng = np.random.default_rng(seed)
    rows = []
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for split, count in {"train": train, "valid": valid, "test": test}.items():
        for index in range(count):
            name = f"{split}-{index}"
            discs = [] if index >= count - empty else [_disc(rng) for _ in range(rng.integers(2, 5))]
            picture = rng.normal(60, 12, (SIZE, SIZE + 8, 3))
            for disc in discs:
                picture[disc] += 110
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"images/{name}.png")
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
