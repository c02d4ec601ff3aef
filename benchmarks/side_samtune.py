"""samtune's side: real runs with their real settings, dataset, cache and loop.

    python side_samtune.py WORK draw IMAGES
    python side_samtune.py WORK tune IMAGES OBJECTS PRECISION

`draw` makes what all contestants work on: images, masks, random weights of SAM 2.1 tiny in both layouts.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from transformers import Sam2Model

from contest import DEVICE, memory_peak, serve, wait
from samtune.benchmark.machine import look_at
from samtune.benchmark.measure import embed_all, set_up
from samtune.benchmark.turns import Turns
from samtune.config import BenchConfig
from samtune.data.table import Dataset
from samtune.embeddings.dataset import View
from samtune.evaluation.protocol import measure, read_truth
from samtune.exports.official_package import write_official
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.model.architecture import image_config
from samtune.model.catalogue import BACKBONES
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.nano.architecture import reset_layers
from samtune.synthetic.benchmark_images import write_work

Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


def draw(work: Path, images: int) -> None:
    """Everything the contestants work on, into an empty folder."""
    dataset = write_work(work / "dataset", images)
    listed = [
        {
            "image": str(dataset.root / image.image_path),
            "masks": [str(dataset.root / found.mask_path) for found in image.objects],
            "boxes": [found.box for found in image.objects],
        }
        for image in dataset.split("train").images
    ]
    (work / "images.json").write_text(json.dumps(listed))
    save_model(_random_model(), work / "model")
    write_official(load_model(work / "model"), work / "official.pt")


def _random_model() -> Sam2Model:
    """SAM 2.1 tiny with random weights; prompts and pixels share one position matrix, as in every real one."""
    torch.manual_seed(0)
    model = Sam2Model(image_config({"model_type": "sam2", "vision_config": BACKBONES["tiny"].vision_config()}))
    reset_layers(model)
    matrix = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.data.copy_(matrix)
    return model


class Tuning:
    """A run with a few real steps at a time."""

    def __init__(self, work: Path, images: int, objects: int, precision: Precision = "auto") -> None:
        self.config = BenchConfig(model=str(work / "model"), device=DEVICE, precision=precision)
        self.out = Path(tempfile.mkdtemp(dir=work, prefix="run-"))
        self.run = set_up(Dataset.open(work / "dataset"), self.config, self.out / "run", images=images, objects=objects)
        self.turns = Turns(self.run)
        self.cold = iter(self.run.dataset.images)

    def machine(self) -> dict[str, Any]:
        """What the machine's matrix products reach."""
        return look_at(DEVICE).to_json()

    def precision(self) -> str:
        """What the run computes in, `fp32` or `bf16`."""
        return "bf16" if self.run.precision == "bf16" else "fp32"

    def encode(self, count: int) -> list[float]:
        """Seconds of some images from the file through the encoder into the cache; fewer where no more are left."""
        found: list[float] = []
        for image in itertools.islice(self.cold, count):
            started = time.perf_counter()
            self.run.embed([View(image)])
            wait()
            found.append(time.perf_counter() - started)
        return found

    def look(self) -> list[float]:
        """Seconds of each image seen for the first time by this process: found in the cache, or encoded."""
        return embed_all(self.run)

    def steps(self, turns: int) -> list[float]:
        """Seconds of a step, for each of some turns of ten."""
        return [self.turns.advance() for _ in range(turns)]

    def step_flops(self) -> float:
        """Operations of a step."""
        return self.turns.count().flops

    def memory(self, turns: int) -> dict[str, int]:
        """Memory of the run once it is set up, and at its highest during some turns of ten steps."""
        return memory_peak(lambda: self.steps(turns))

    def evaluate(self, number: int, cached: bool) -> dict[str, float]:
        """Measure all objects of an image by box: seconds to embed it, and to ask and compare."""
        image = self.run.dataset.split("train").images[number]
        predictor = Predictor(self.run.loaded)
        started = time.perf_counter()
        if cached:
            embedded = EmbeddedImage(self.run.embed([View(image)]), (image.height, image.width))
        else:
            embedded = predictor.embed(self.run.dataset.read_image(image))
        half = time.perf_counter()
        truth = [read_truth(self.run.dataset, found) for found in image.objects]
        with torch.no_grad():
            measure(predictor, embedded, "box", image.objects, truth, 32)
        return {"embed": half - started, "ask": time.perf_counter() - half, "objects": len(image.objects)}

    def close(self) -> None:
        """Remove the run."""
        shutil.rmtree(self.out)


if __name__ == "__main__":
    work, what = Path(sys.argv[1]), sys.argv[2]
    if what == "draw":
        draw(work, int(sys.argv[3]))
        serve({})
    else:
        tuning = Tuning(work, int(sys.argv[3]), int(sys.argv[4]), cast(Precision, sys.argv[5]))
        serve(
            {
                "machine": tuning.machine,
                "precision": tuning.precision,
                "encode": tuning.encode,
                "look": tuning.look,
                "steps": tuning.steps,
                "flops": tuning.step_flops,
                "memory": tuning.memory,
                "evaluate": tuning.evaluate,
            }
        )
        tuning.close()
