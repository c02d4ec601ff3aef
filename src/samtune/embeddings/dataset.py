"""The embeddings of a dataset's images: from its cache where there is one, from the encoder otherwise.

Training uses them step by step; `embed_dataset` makes them all beforehand. Both come through `DatasetEmbeddings`,
so that what one has stored the other finds.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from samtune.config import CacheConfig, EmbedConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.data.views import AS_IS, MIRRORED, Change, change_of
from samtune.embeddings.cache import CachedView, EmbeddingCache, resident_budget
from samtune.embeddings.prefetch import Prefetcher
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.encoder.fast import encode
from samtune.model.io.load import load_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.preprocess import to_model_input
from samtune.runtime.device import choose_device, configure_process
from samtune.runtime.precision import arithmetic, autocast
from samtune.utils.results import Result
from samtune.utils.workers import cpu_count, lost_workers

_BATCH_ON_A_GPU = 8
_LOOKAHEAD = 64
"""How many of the next images are checked for some that must be computed."""


@dataclass(frozen=True, slots=True)
class View:
    """One image as a step sees it: the table's entry, and what is changed about it."""

    image: ImageEntry
    change: Change = AS_IS

    def __hash__(self) -> int:
        """Without the image's objects, of which there may be hundreds."""
        return hash((self.image.image_path, self.image.window, self.image.page, self.change))


@dataclass(frozen=True)
class DatasetEmbeddings:
    """The embeddings of a dataset's images by one model.

    Attributes:
        dataset: where the images are.
        loaded: the model.
        cache: where embeddings are kept, or None: the encoder then runs every time, and gradients flow if it learns.
        device: where the encoder runs and the embeddings go.
        precision: what the encoder computes in, `no` (fp32) or `bf16`.
        batch: images that go through the encoder together; 0 means 8 on a GPU, else one, since more do not fit caches.
    """

    dataset: Dataset
    loaded: LoadedModel
    cache: EmbeddingCache | None
    device: torch.device
    precision: str
    batch: int = 0

    @staticmethod
    def open(
        dataset: Dataset, loaded: LoadedModel, config: CacheConfig, device: torch.device, precision: str
    ) -> DatasetEmbeddings:
        """With the dataset's own cache, or that of the settings."""
        cache = EmbeddingCache(
            config.cache_dir or dataset.root / "embeddings",
            loaded.model,
            stored="bf16" if config.cache_dtype == "auto" else config.cache_dtype,
            limit=config.cache_bytes,
            arithmetic=precision,
            name=loaded.name,
            resident=resident_budget(device),
        )
        return DatasetEmbeddings(dataset, loaded, cache, device, precision)

    def __call__(self, views: Sequence[View], then: Iterable[View] = ()) -> ImageEmbeddings:
        """Embeddings of B = `len(views)` images.

        Args:
            views: the images.
            then: those that will be asked for next. While some of `views` are computed, these are read; on a GPU the
                nearest ones are computed with them, because it takes several images in little more time than one.
        """
        now = dict.fromkeys(self.missing(views))
        if not now:
            return self._from_cache(views)
        later = [view for view in self.missing(list(dict.fromkeys(islice(then, _LOOKAHEAD)))) if view not in now]
        self._pixels.prefetch([*now, *later])
        if self.cache is None:  # as many at once as for the cache: then the numbers are the same, not only nearly
            parts = [views[start : start + self.at_once] for start in range(0, len(views), self.at_once)]
            return ImageEmbeddings.cat([self._encode(torch.stack([self._pixels(view) for view in p])) for p in parts])
        together = later[: max(0, self.at_once - len(now))]
        return self._from_cache([*views, *together])[: len(views)]

    def _from_cache(self, views: Sequence[View]) -> ImageEmbeddings:
        """Embeddings of some images, computed as far as the cache lacks them."""
        assert self.cache is not None
        entries = [self._entry(view) for view in views]
        view_of = dict(zip(entries, views, strict=True))
        return self.cache.get_or_encode(
            entries,
            lambda entry: self._pixels(view_of[entry]),
            self._encode,
            device=self.device,
            dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32,
            batch=self.at_once,
        )

    def missing(self, views: Sequence[View]) -> list[View]:
        """Those views whose embeddings must be computed, because the cache does not have them."""
        if self.cache is None:
            return list(views)
        lacking = set(self.cache.missing([self._entry(view) for view in views]))
        return [view for view in views if self._entry(view) in lacking]

    def _entry(self, view: View) -> CachedView:
        parts = (self.dataset.view_of(view.image), view.change.key)
        return CachedView(self.dataset.root / view.image.image_path, " ".join(filter(None, parts)))

    def _encode(self, pixels: Tensor) -> ImageEmbeddings:
        with autocast(self.device, self.precision):
            return encode(self.loaded.model, pixels.to(self.device))

    @property
    def at_once(self) -> int:
        """How many images go through the encoder together."""
        return self.batch or (1 if self.device.type == "cpu" else _BATCH_ON_A_GPU)

    @cached_property
    def _pixels(self) -> Prefetcher[View]:
        """On a CPU one thread reads, since the encoder needs the others; for GPUs half of the processors do, shared."""
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun says
        threads = 1 if self.device.type == "cpu" else max(1, cpu_count() // 2 // processes)
        return Prefetcher(self._read, threads=threads, most=2 * self.at_once)

    def _read(self, view: View) -> Tensor:
        image = view.change.pixels(self.dataset.read_image(view.image))
        return to_model_input(image, self.loaded.image_size)


@dataclass(frozen=True, slots=True)
class EmbedReport(Result):
    """What `embed_dataset` did.

    Attributes:
        folder: of the cache.
        wanted: views asked for, in this process group's share.
        encoded: those that had to be computed.
        seconds: how long that took.
    """

    folder: Path
    wanted: int
    encoded: int
    seconds: float

    def lines(self) -> list[str]:
        """The report as lines of text."""
        each = f", {self.seconds / self.encoded:.2f} s each" if self.encoded else ""
        return [
            f"embedded   {self.encoded} images in {self.seconds:.0f} s{each}; {self.wanted - self.encoded} were there",
            f"cache      {self.folder}",
        ]


def embed_dataset(
    path: Path, config: EmbedConfig, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> EmbedReport:
    """Compute the embeddings of a dataset's images ahead of training. What is there already is not computed again.

    Under `torchrun` every process takes its share of the images, on its own device; otherwise `config.processes` do.

    Args:
        path: a prepared dataset.
        config: model, splits, cache.
        progress: called with the number of images done and their total.

    Raises:
        DataError: the dataset or an image cannot be read.
        ModelError: the model cannot be loaded.
        SamtuneError: a worker process was ended from outside.
    """
    dataset = Dataset.open(path)
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    views = _views(dataset, config)[rank::world]
    started = time.monotonic()
    source = _open(dataset, config)
    missing = source.missing(views)
    progress(0, len(missing))
    many = config.processes > 1 and source.device.type == "cpu" and len(missing) > 1
    steps = _in_processes(path, config, missing) if many else _in_batches(source, missing)
    done = 0
    for count in steps:
        done += count
        progress(done, len(missing))
    assert source.cache is not None
    return EmbedReport(source.cache.folder, len(views), len(missing), time.monotonic() - started)


def _views(dataset: Dataset, config: EmbedConfig) -> list[View]:
    """What training and validation will ask for, each image once."""
    images = [image for image in dataset.images if config.split in ("all", image.split)]
    training = [image for image in images if image.split == "train"]
    mirrored = [View(image, MIRRORED) for image in training if config.flip]
    changed = [View(image, change_of(image, number)) for number in range(1, config.views) for image in training]
    return list(dict.fromkeys([*(View(image) for image in images), *mirrored, *changed]))


def _open(dataset: Dataset, config: EmbedConfig) -> DatasetEmbeddings:
    device = choose_device(config.device)
    configure_process(device)
    loaded = load_model(config.model, device=device)
    loaded.model.requires_grad_(False)
    precision = arithmetic(config.precision, device, loaded.image_size)
    return DatasetEmbeddings.open(dataset, loaded, config, device, precision)


def _in_batches(source: DatasetEmbeddings, views: Sequence[View]) -> Iterator[int]:
    """Make the embeddings in this process; yields how many are done, batch by batch."""
    size = source.at_once
    for start in range(0, len(views), size):
        some = views[start : start + size]
        source(some, then=views[start + size : start + size + _LOOKAHEAD])
        yield len(some)


_source: DatasetEmbeddings | None = None
"""In a worker process: what it encodes with, loaded once."""


def _in_processes(path: Path, config: EmbedConfig, views: Sequence[View]) -> Iterator[int]:
    """Make the embeddings in several processes on this machine's processors; yields 1 for each."""
    context = multiprocessing.get_context("forkserver")
    threads = max(1, cpu_count() // config.processes)
    initial = (path, config, threads)
    with lost_workers(), ProcessPoolExecutor(config.processes, context, _start_worker, initial) as pool:
        try:
            yield from pool.map(_embed_one, views)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(path: Path, config: EmbedConfig, threads: int) -> None:
    global _source
    torch.set_num_threads(threads)
    _source = _open(Dataset.open(path), config)


def _embed_one(view: View) -> int:
    assert _source is not None
    _source([view])
    return 1
