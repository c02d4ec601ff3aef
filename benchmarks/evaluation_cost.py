"""What an evaluation costs beside the decoder, with embeddings that are kept: both measured in one run.

    python benchmarks/evaluation_cost.py ../shared/data/nanoshapes_coco --out build/evaluation-cost

Splits are measured one after the other until so many objects were asked about; a set with fewer objects is asked again.
Making the prompts and reading masks and embeddings count; encoding the images comes before and does not. The decoder's
time is that of `Predictor.decode`, prompt encoder included. `cost.json` has the figures; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from samtune import api
from samtune.config import CacheConfig, EvalConfig, PrepareConfig
from samtune.data.table import Dataset
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.evaluation.protocol import evaluate
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel

SETTINGS = {
    "default": EvalConfig(),
    "boxes and clicks": EvalConfig(jitter=(), mask_prompt=False, clicks=0),
    "boundaries": EvalConfig(boundaries=True),
}


class Timed(Predictor):
    """A predictor that adds up what its decoder takes."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.wall = self.processor = 0.0
        self.prompts = 0

    def decode(self, *args: Any, **more: Any) -> Any:
        """As in `Predictor`."""
        wall, processor = time.perf_counter(), time.process_time()
        found = super().decode(*args, **more)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        self.prompts += len(found.object_score_logits)
        return found


def main() -> None:
    """Measure every setting that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of an export")
    parser.add_argument("--out", type=Path, default=Path("build/evaluation-cost"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS)[:2], choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    dataset = wanted.out / "set"
    if not dataset.exists():
        api.prepare(wanted.source, dataset, PrepareConfig(), quiet=True)
    data = Dataset.open(dataset)
    predictor = Timed(load_model(wanted.model))
    predictor.loaded.model.requires_grad_(False)
    keep = CacheConfig(cache_dtype="fp32")
    kept = DatasetEmbeddings.open(data, predictor.loaded, keep, predictor.device, "no")
    for image in data.images:
        kept([View(image)])
    found = {name: measure(predictor, data, SETTINGS[name], keep, wanted.objects) for name in wanted.settings}
    (wanted.out / "cost.json").write_text(json.dumps(found, indent=2))
    for name, figures in found.items():
        print(f"{name:<18}", figures)


def measure(predictor: Timed, data: Dataset, config: EvalConfig, keep: CacheConfig, least: int) -> dict[str, float]:
    """Seconds of the decoder and of everything, wall clock and processor time, and their ratios."""
    predictor.wall = predictor.processor = 0.0
    predictor.prompts = objects = 0
    wall, processor = time.perf_counter(), time.process_time()
    for split in _splits(data):
        left = least - objects
        in_split = sum(len(image.single_objects) for image in data.split(split).images)
        asked = config.model_copy(update={"split": split, "max_objects": left if left < in_split else 0})
        objects += len(evaluate(predictor, data, asked, keep=keep).objects)
        if objects >= least:
            break
    total, used = time.perf_counter() - wall, time.process_time() - processor
    return {
        "objects": objects,
        "different objects": min(objects, sum(len(image.single_objects) for image in data.images)),
        "prompts": predictor.prompts,
        "decoder s": round(predictor.wall, 1),
        "total s": round(total, 1),
        "ratio": round(total / predictor.wall, 3),
        "decoder processor s": round(predictor.processor, 1),
        "total processor s": round(used, 1),
        "processor ratio": round(used / predictor.processor, 3),
    }


def _splits(data: Dataset) -> Iterator[str]:
    """The splits that have objects, over and over."""
    return cycle(
        [split for split in ("test", "valid", "train") if any(i.single_objects for i in data.split(split).images)]
    )


if __name__ == "__main__":
    main()
