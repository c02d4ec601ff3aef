"""One process's part in a job: join it or plan it, do shards until all are done, say what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from samtune.config import PredictConfig, ShardsConfig
from samtune.data.reading import PLAIN, Reading
from samtune.errors import ConfigError
from samtune.inference.predictor import Predictor
from samtune.inference.shards.asks import AskGrid, AskPrompts
from samtune.inference.shards.claims import DONE, Claims, done_shards
from samtune.inference.shards.job import Job, open_job, read_job
from samtune.inference.shards.work import Ask, work
from samtune.inference.thresholds import with_thresholds
from samtune.utils.results import Result
from samtune.utils.workers import cpu_count

_BATCH_ON_A_GPU = 8
_CACHED_PIXELS = 256 * 256
"""Input pixels of a batch on a CPU: more than about this do not fit its caches, and gain nothing."""
_MOST_THREADS = 8
_SHOWN = 5


@dataclass(frozen=True)
class Method:
    """What is asked of the images.

    Attributes:
        asked: what decides the answers, by name, as JSON values.
        categories: names of classes by number.
        make: from job and number of a shard to what is asked of it.
        caveats: what to keep in mind about this process's answers, in words; asked for when it has given all of them.
    """

    asked: Mapping[str, Any]
    categories: Mapping[int, str]
    make: Callable[[Job, int], Ask]
    caveats: Callable[[], Sequence[str]] = tuple


@dataclass(frozen=True)
class ManyReport(Result):
    """A finished job.

    Attributes:
        out: its folder.
        images, objects, damaged: of the whole job.
        own_images: how many this process did.
        images_per_second: of this process; None where it did none.
        model_share: share of its time that encoder and decoder took, 0 to 1; None where it did none.
        shown: some of the images that this process could not look at, and why.
        caveats: what to keep in mind about its answers, in words.
    """

    out: Path
    images: int
    objects: int
    damaged: int
    own_images: int
    images_per_second: float | None
    model_share: float | None
    shown: tuple[str, ...] = field(default=())
    caveats: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """What to tell the user."""
        lines = [f"{self.objects:,} masks in {self.images:,} images"]
        if self.damaged:
            lines.append(f"damaged    {self.damaged:,} images could not be looked at; samtune merge lists them")
            lines += [f"  {one}" for one in self.shown]
        if self.images_per_second is not None and self.model_share is not None:
            share = f"{100 * self.model_share:.0f} % of the time in the model"
            lines.append(f"here       {self.own_images:,} images, {self.images_per_second:.1f} a second, {share}")
        lines.append(f"next       samtune merge {self.out} --out results.json")
        return [*lines, *(f"{'warning':<10} {one}" for one in self.caveats)]


def run_shards(
    images: Path,
    predictor: Predictor,
    out: Path,
    config: PredictConfig,
    shards: ShardsConfig,
    *,
    method: Method | None = None,
    reading: Reading = PLAIN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ManyReport:
    """Do shards of a job until all are done.

    Args:
        images: manifest or folder.
        predictor: the model.
        out: folder of the job.
        config: prompts; looked at where `method` is left out.
        shards: how images are shared out.
        method: what is asked, in place of prompts.
        reading: bands, page and stretch.
        progress: called with shards done and their total.

    Raises:
        ConfigError: `out` holds another job or something else, or settings that shards do not have.
        DataError: manifest or detections cannot be used.
        StorageError: the disk refused.
    """
    if config.tile:
        raise ConfigError.of(
            expected="images that are looked at whole", found=f"--tile {config.tile}",
            do="predict large images from a folder, without --many",
        )  # fmt: skip
    if config.everything and (config.boxes or config.box or config.point) and method is None:
        raise ConfigError.of(
            expected="prompts or --everything", found="both", do="start two jobs with an --out of their own"
        )
    method = method or _method(predictor, config)
    asked = {"weights": predictor.loaded.fingerprint(), "reading": repr(reading), **method.asked}
    job = open_job(
        images, out, boxes=config.boxes, root=shards.images_root, shard_images=shards.shard_images, asked=asked,
        categories=method.categories,
    )  # fmt: skip
    done = work(
        job, Claims(out, job.shards), predictor, lambda shard: method.make(job, shard), reading=reading,
        batch=shards.encode_batch or _batch(predictor), threads=shards.threads or min(cpu_count(), _MOST_THREADS),
        progress=progress,
    )  # fmt: skip
    if not done.images:
        return report_of(out)
    rate, share = done.images / done.seconds, done.model_seconds / done.seconds
    return replace(
        report_of(out), own_images=done.images, images_per_second=rate, model_share=share,
        shown=tuple(done.damaged[:_SHOWN]), caveats=tuple(method.caveats()),
    )  # fmt: skip


def report_of(out: Path) -> ManyReport:
    """A job as its finished shards say, by a process that did none of them.

    Raises:
        DataError: `out` is no job's folder.
    """
    totals = {"images": 0, "objects": 0, "damaged": 0}
    for shard in done_shards(read_job(out).folder):
        mark = json.loads((out / DONE / f"{shard:05}.json").read_text(encoding="utf-8"))
        for name in totals:
            totals[name] += mark[name]
    images, objects, damaged = totals.values()
    return ManyReport(out, images, objects, damaged, own_images=0, images_per_second=None, model_share=None)


def _method(predictor: Predictor, config: PredictConfig) -> Method:
    """Prompts, or the grid of clicks."""
    if config.everything:
        grid = with_thresholds(config.automatic, predictor.loaded)
        decisive = grid.model_dump(exclude={"chunk", "crop_batch"})
        ask = AskGrid(predictor, grid)
        return Method({"grid of clicks": decisive}, {1: "object"}, lambda job, shard: ask)
    same = {"box": list(config.box), "point": list(config.point)}
    return Method(same, {}, lambda job, shard: AskPrompts(predictor, job, shard, config))


def _batch(predictor: Predictor) -> int:
    if predictor.device.type != "cpu":
        return _BATCH_ON_A_GPU
    return max(1, min(16, _CACHED_PIXELS // predictor.loaded.image_size**2))
