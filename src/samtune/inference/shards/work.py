"""A worker: claims shards until all are done. Threads read images ahead, the encoder takes them in batches.

What it holds at any time is a few images, one batch of embeddings and one shard's run lengths.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from samtune.data.images import probe_image, read_image
from samtune.data.masks import Region, encode_region, format_counts, region_of
from samtune.data.reading import Reading
from samtune.errors import DataError, StorageError
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.inference.shards.claims import Claim, Claims
from samtune.inference.shards.job import Job
from samtune.model.preprocess import MASK_THRESHOLD, to_model_input, upscale_masks
from samtune.utils.files import new_file

IMAGES = {
    "number": pl.UInt32, "path": pl.String, "image_id": None, "width": pl.Int32, "height": pl.Int32,
    "objects": pl.Int32, "error": pl.String,
}  # fmt: skip
"""Columns of a shard's images; `error` says why one could not be looked at. `image_id` is as the manifest has it."""
MASKS = {
    "number": pl.UInt32, "category_id": pl.Int64, "x": pl.Int32, "y": pl.Int32, "width": pl.Int32,
    "height": pl.Int32, "area": pl.Int64, "counts": pl.String, "score": pl.Float32, "object_score": pl.Float32,
    "detection_score": pl.Float32,
}  # fmt: skip
"""Columns of a shard's masks: the image's number, the box, COCO's compressed run lengths, predicted IoU, the logit of
something being there, and the score of the detection that was the prompt."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image as the model takes it.

    Attributes:
        row: its place in the shard.
        size: (H, W) in pixels.
        pixels: float32 `[3, S, S]`; None where nothing is asked about the image, or it could not be read.
        image: uint8 `[H, W, 3]`, where the answer needs it.
        error: why it could not be read.
    """

    row: int
    size: tuple[int, int]
    pixels: Tensor | None = None
    image: NDArray[np.uint8] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """One mask of an image: low-res logits `[h, w]`, or pixels where those are known already."""

    mask: Tensor | Region
    score: float
    object_score: float
    category_id: int = 1
    detection_score: float | None = None


class Ask(Protocol):
    """What is asked of a batch of images: their prompts, a grid of clicks, the finder.

    Attributes:
        needs_image: whether `LoadedImage.image` is looked at.
    """

    needs_image: bool

    def is_asked(self, row: int) -> bool:
        """Whether anything is asked about a row of the shard."""
        ...

    def __call__(
        self, images: Sequence[LoadedImage], embedded: Sequence[EmbeddedImage]
    ) -> list[list[MaskAnswer] | DataError]:
        """The objects of each image, or why there is no answer."""
        ...


@dataclass(slots=True)
class WorkDone:
    """What a worker has done so far; seconds of its own."""

    images: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)


def work(
    job: Job,
    claims: Claims,
    predictor: Predictor,
    asks: Callable[[int], Ask],
    *,
    reading: Reading,
    batch: int,
    threads: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WorkDone:
    """Do shards until every one is done, whoever does them.

    Args:
        job: the job.
        claims: its shards.
        predictor: the model.
        asks: what is asked of a shard's images.
        reading: bands, page and stretch.
        batch: images per encoder call.
        threads: that read images ahead and write run lengths.
        progress: called with the number of shards done by anybody, and their total.

    Raises:
        StorageError: the disk refused.
    """
    done = WorkDone()
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while not claims.is_complete():
            claim = claims.take()
            if claim is None:
                claims.wait()
            else:
                with claims.kept(claim):
                    shard = _Shard(job, claim, predictor, asks(claim.shard), reading, batch, threads, pool)
                    try:
                        shard.run(done)
                        claims.finish(claim, shard.about())
                    except StorageError:
                        if claim.beat():  # else its new owner has removed what this process was writing
                            raise
                done.seconds = time.perf_counter() - started
            progress(claims.count_done(), job.shards)
    claims.take()  # removes claims whose owners died after their marks; there is nothing left to take
    return done


class _Shard:
    """One shard on its way from images to run lengths."""

    def __init__(
        self,
        job: Job,
        claim: Claim,
        predictor: Predictor,
        ask: Ask,
        reading: Reading,
        batch: int,
        threads: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._job, self._claim, self._predictor, self._ask = job, claim, predictor, ask
        self._reading, self._batch, self._ahead, self._pool = reading, batch, 2 * batch + threads, pool
        table = job.images_of(claim.shard)
        self._rows, self._id_type = table.to_dicts(), table.schema["image_id"]
        self._images: dict[int, dict[str, Any]] = {}
        self._masks: list[list[dict[str, Any]]] = []
        self._model_seconds = 0.0

    def run(self, done: WorkDone) -> None:
        """Do the shard and write its files."""
        for stale in self._job.folder.glob(f"*/.{self._claim.shard:05}.*"):
            stale.unlink(missing_ok=True)  # half-written by an owner that has died
        under_way: deque[Future[list[dict[str, Any]]]] = deque()
        loaded = self._loaded()
        while images := list(islice(loaded, self._batch)):
            under_way.extend(self._answered(images))
            while len(under_way) > self._ahead:
                self._masks.append(under_way.popleft().result())
        self._masks += [future.result() for future in under_way]
        self._write()
        done.images += len(self._images)
        done.model_seconds += self._model_seconds
        done.damaged += [f"{one['path']}: {one['error']}" for one in self._images.values() if one["error"]]

    def about(self) -> dict[str, object]:
        """What the mark of the finished shard says."""
        return {
            "images": len(self._images),
            "objects": sum(map(len, self._masks)),
            "damaged": sum(bool(one["error"]) for one in self._images.values()),
        }

    def _loaded(self) -> Iterator[LoadedImage]:
        """The shard's images in order, read ahead by the threads."""
        rows = iter(range(len(self._rows)))
        waiting = deque(self._pool.submit(self._load, row) for row in islice(rows, self._ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(self._pool.submit(self._load, row) for row in islice(rows, 1))

    def _load(self, row: int) -> LoadedImage:
        file = self._job.root / self._rows[row]["path"]
        try:
            if not self._ask.is_asked(row):
                width, height = probe_image(file, self._reading).upright_size
                return LoadedImage(row, (height, width))
            image = read_image(file, reading=self._reading)
        except DataError as error:
            return LoadedImage(row, (0, 0), error=f"{error.found} (expected {error.expected})")
        pixels = to_model_input(image, self._predictor.loaded.image_size)
        size = (image.shape[0], image.shape[1])
        return LoadedImage(row, size, pixels, image if self._ask.needs_image else None)

    def _answered(self, images: Sequence[LoadedImage]) -> Iterator[Future[list[dict[str, Any]]]]:
        """Ask about a batch; the run lengths are made by the threads."""
        looked = [one for one in images if one.pixels is not None]
        answers: dict[int, list[MaskAnswer] | DataError] = {}
        if looked:
            started = time.perf_counter()
            pixels = [one.pixels for one in looked if one.pixels is not None]
            embedded = self._predictor.embed_inputs(pixels, [one.size for one in looked])
            answers = dict(zip([one.row for one in looked], self._ask(looked, embedded), strict=True))
            self._model_seconds += time.perf_counter() - started
        for one in images:
            answer = answers.get(one.row, [])
            error = one.error
            if isinstance(answer, DataError):
                answer, error = [], f"{answer.found} (expected {answer.expected})"
            about = self._rows[one.row]
            size = {"width": one.size[1] or None, "height": one.size[0] or None}
            self._images[one.row] = about | size | {"objects": len(answer), "error": error or None}
            if answer:
                yield self._pool.submit(_mask_rows, int(about["number"]), answer, one.size)

    def _write(self) -> None:
        schema = IMAGES | {"image_id": self._id_type}
        images = pl.DataFrame([self._images[row] for row in sorted(self._images)], schema=schema)
        masks = pl.DataFrame([row for rows in self._masks for row in rows], schema=MASKS)
        for kind, table in (("masks", masks), ("images", images)):
            with new_file(self._job.results(self._claim.shard, kind)) as file:
                table.write_parquet(file)


def _mask_rows(number: int, found: Sequence[MaskAnswer], size: tuple[int, int]) -> list[dict[str, Any]]:
    """One image's masks as rows."""
    rows: list[dict[str, Any]] = []
    for one in found:
        region = one.mask
        if not isinstance(region, Region):
            region = region_of((upscale_masks(region, size) > MASK_THRESHOLD).cpu().numpy())
        x0, y0, x1, y1 = region.box if region else (0, 0, 0, 0)
        rows.append(
            {"number": number, "category_id": one.category_id, "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
            | {"area": region.area if region else 0, "counts": format_counts(encode_region(region, *size))}
            | {"score": one.score, "object_score": one.object_score, "detection_score": one.detection_score}
        )
    return rows
