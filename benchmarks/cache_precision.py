"""What bf16 and int8 cost: the same prompts on exact embeddings, on stored ones, and with all arithmetic in bf16.

    python benchmarks/cache_precision.py DATASET --model nano --split test

For every object: the IoU of the mask for its exact box, and of that for one click, with the object's true mask.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from samtune.config import EmbedConfig
from samtune.data.table import Dataset
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.evaluation.protocol import measure, read_truth, spread
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.io.load import load_model
from samtune.runtime.device import configure_process
from samtune.runtime.precision import autocast

WAYS: dict[str, tuple[Literal["fp32", "bf16", "int8"], str]] = {
    "fp32": ("fp32", "no"),
    "stored as bf16": ("bf16", "no"),
    "stored as int8": ("int8", "no"),
    "computed in bf16": ("bf16", "bf16"),
}
"""How embeddings are stored, and what encoder and decoder compute in."""
KINDS = ("box", "point")


def compare(dataset: Dataset, model: str, split: str, most: int, folder: Path) -> dict[str, Any]:
    """Figures by way."""
    device = torch.device("cpu")
    configure_process(device)
    loaded = load_model(model)
    loaded.model.requires_grad_(False)
    predictor = Predictor(loaded)
    sources = {
        way: DatasetEmbeddings.open(
            dataset, loaded, EmbedConfig(cache_dir=folder, cache_dtype=stored), device, precision
        )
        for way, (stored, precision) in WAYS.items()
    }
    ious: dict[str, dict[str, list[float]]] = {way: {kind: [] for kind in KINDS} for way in WAYS}
    for image, objects in spread(dataset.split(split).images, most):
        truth = [read_truth(dataset, found) for found in objects]
        for way, source in sources.items():
            with torch.no_grad(), autocast(device, source.precision):
                embedded = EmbeddedImage(source([View(image)]), (image.height, image.width))
                for kind in KINDS:
                    ious[way][kind] += [one.iou for one in measure(predictor, embedded, kind, objects, truth, 32)]
    exact = {kind: np.array(ious["fp32"][kind]) for kind in KINDS}
    return {
        way: {
            kind: {
                "mean_iou": fmean(values),
                "mean_change": float(np.mean(np.array(values) - exact[kind])),
                "largest_change": float(np.abs(np.array(values) - exact[kind]).max()),
            }
            for kind, values in ious[way].items()
        }
        | {"objects": len(ious[way]["box"]), "bytes_per_image": _bytes_per_entry(sources[way])}
        for way in WAYS
    }


def _bytes_per_entry(source: DatasetEmbeddings) -> float:
    assert source.cache is not None
    entries = (source.cache.folder / source.cache.set_id).rglob("*.safetensors")
    return fmean(file.stat().st_size for file in entries)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that `samtune prepare` wrote")
    parser.add_argument("--model", default="nano", help="what `samtune evaluate` takes")
    parser.add_argument("--split", default="test", help="split to measure on")
    parser.add_argument("--objects", type=int, default=500, help="most objects, evenly spaced")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = compare(Dataset.open(options.dataset), options.model, options.split, options.objects, Path(folder))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
