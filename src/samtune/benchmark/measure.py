"""`samtune bench`: the parts of a training run, measured on drawn images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias

from samtune.benchmark.figures import BenchReport, StepTime
from samtune.benchmark.machine import look_at, wait_for
from samtune.benchmark.turns import StepWork, Turns
from samtune.config import BenchConfig, PromptPolicy, TrainConfig
from samtune.data.table import Dataset
from samtune.embeddings.dataset import View
from samtune.model.io.load import load_model
from samtune.synthetic.benchmark_images import write_work
from samtune.training.run import Run, new

SETTINGS = ((1, 1), (1, 8), (4, 4))
"""Images of a step, and objects of each."""
IMAGES = 6
"""Images for training that are really encoded."""
STEPS_OF_A_RUN = 1_000_000
"""More than any benchmark makes: runs end when they are no longer needed."""

Decoder: TypeAlias = Literal["fast", "plain"]
DECODERS: tuple[Decoder, ...] = ("fast", "plain")
"""The decoder paths that take turns."""


def bench(
    config: BenchConfig, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> BenchReport:
    """Measure the machine, the encoder, and training steps with both decoder paths, which take turns.

    Args:
        config: what to measure.
        progress: called with the stage, the amount done and the total.

    Raises:
        ModelError: the model cannot be loaded.
        StorageError: no room for the images and their embeddings, some 200 MB.
    """
    image_size = load_model(config.model).image_size
    with TemporaryDirectory(prefix="samtune-bench-") as place:
        folder = Path(place)
        dataset = write_work(folder / "work", IMAGES, advance=lambda done, total: progress("drawing", done, total))
        run = set_up(dataset, config, folder / "encoding")
        progress("measuring the machine", 0, 1)
        machine = look_at(run.device.type)
        encode = embed_all(run, lambda done, total: progress("encoding", done, total))
        look = embed_all(set_up(dataset, config, folder / "looking"))
        steps: list[StepTime] = []
        for images, objects in SETTINGS:
            steps += _take_turns(dataset, config, folder / f"{images}x{objects}", images, objects, progress)
    return BenchReport(
        config=config,
        machine=machine,
        image_size=image_size,
        precision="bf16" if run.precision == "bf16" else "fp32",
        encode=tuple(encode[1:]),  # the first one also warms up
        look=tuple(look[1:]),
        steps=tuple(steps),
    )


def set_up(
    dataset: Dataset, config: BenchConfig, out: Path, *, images: int = 1, objects: int = 1, decoder: Decoder = "fast"
) -> Run:
    """A real run, ready to start, whose end no benchmark will see.

    Args:
        dataset: what it trains on; its embeddings are cached inside.
        config: model, device and precision.
        out: its folder.
        images: images of a step.
        objects: objects of each.
        decoder: name of the decoder path.
    """
    settings = TrainConfig(
        model=config.model,
        out=out,
        images_per_step=images,
        objects_per_image=objects,
        eval_every=STEPS_OF_A_RUN,
        steps=STEPS_OF_A_RUN,
        device=config.device,
        precision=config.precision,
        decoder=decoder,
        prompts=PromptPolicy(preset="boxes"),  # steps of one kind, whose times can be compared
    )
    return new(dataset.root, settings)


def embed_all(run: Run, advance: Callable[[int, int], None] = lambda done, total: None) -> list[float]:
    """Seconds for each image of a run's dataset from the file, or from the cache, to embeddings at hand."""
    found: list[float] = []
    images = run.dataset.images
    for image in images:
        started = time.perf_counter()
        run.embed([View(image)])
        wait_for(run.device.type)
        found.append(time.perf_counter() - started)
        advance(len(found), len(images))
    return found


def _take_turns(
    dataset: Dataset,
    config: BenchConfig,
    out: Path,
    images: int,
    objects: int,
    progress: Callable[[str, int, int], None],
) -> list[StepTime]:
    """Steps of one setting, the decoder paths taking turns; their first turn warms up and counts operations."""
    what, total = f"steps of {images} x {objects}", len(DECODERS) * (1 + config.rounds)
    runs = {
        decoder: Turns(set_up(dataset, config, out / decoder, images=images, objects=objects, decoder=decoder))
        for decoder in DECODERS
    }
    work: dict[str, StepWork] = {}
    times: dict[str, list[float]] = {decoder: [] for decoder in runs}
    for done, (decoder, run) in enumerate(runs.items()):
        progress(what, done, total)
        work[decoder] = run.count()
    for turn in range(1, config.rounds + 1):
        for place, (decoder, run) in enumerate(runs.items()):
            progress(what, turn * len(runs) + place, total)
            times[decoder].append(run.advance())
    return [
        StepTime(images, objects, decoder, tuple(times[decoder]), work[decoder].flops / 1e9, work[decoder].bytes / 1e9)
        for decoder in DECODERS
    ]
