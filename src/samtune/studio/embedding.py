"""Image embeddings for the page: asked for, or computed ahead, by one thread; the last used ones stay in memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import PriorityQueue

import torch

from samtune.config import CacheConfig
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.errors import SamtuneError
from samtune.inference.predictor import EmbeddedImage
from samtune.runtime.precision import arithmetic
from samtune.studio.models import StudioModel

MEMORY = 1 << 30
"""Bytes of embeddings that stay in memory."""
QUIET_SECONDS = 0.4
"""How long nobody has clicked before images are embedded ahead: an encoder takes the cores that a click needs."""
_NOW, _AHEAD, _LAST = 0, 1, 2


class Embedder:
    """Embeds images one after the other in a thread of its own: those that are waited for first.

    What is embedded is also kept on disk, in the same cache that training uses, so that neither a new session nor a
    tuned model computes it again.

    Args:
        dataset: the images.
        folder: of the cache on disk.
        memory: bytes of embeddings that stay in memory; one image always does.
    """

    def __init__(self, dataset: Dataset, folder: Path, memory: int = MEMORY) -> None:
        self._dataset, self._folder, self._memory = dataset, folder, memory
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], EmbeddedImage] = OrderedDict()
        self._done: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], Future[EmbeddedImage]] = {}
        self._readers: dict[str, DatasetEmbeddings] = {}
        self._queue: PriorityQueue[tuple[int, int, Callable[[], object]]] = PriorityQueue()
        self._order = itertools.count()
        self._round = 0
        self._last_click = 0.0
        self._is_closed, self._is_urgent = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    def get(self, model: StudioModel, key: str, entry: ImageEntry) -> EmbeddedImage:
        """An image's embeddings, from memory, from disk, or computed before anything else is.

        Raises:
            DataError: the image is missing, damaged, or not of the size it had.
        """
        place = (model.encoder, key)
        with self._lock:
            self._last_click = time.monotonic()
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
            future = self._waiting.get(place)
            if future is None:
                future = self._waiting[place] = Future()
                self._put(_NOW, lambda: self._embed(model, key, entry))
                self._is_urgent.set()
        return future.result()

    def ahead(self, model: StudioModel, images: Iterable[tuple[str, ImageEntry]], then: Callable[[str], None]) -> None:
        """Embed some images when nothing else is to be done; what was asked for before is not any more.

        `then` is called with the key of each image that is embedded.
        """
        self._round += 1
        for key, entry in images:
            self._put(_AHEAD, lambda key=key, entry=entry, now=self._round: self._ahead(model, key, entry, then, now))

    def is_embedded(self, model: StudioModel, key: str) -> bool:
        """Whether an image was embedded since the start."""
        return (model.encoder, key) in self._done

    def kept(self, model: StudioModel, key: str) -> EmbeddedImage | None:
        """An image's embeddings where they are in memory."""
        with self._lock:
            return self._kept.get((model.encoder, key))

    def close(self) -> None:
        """End the thread after the image at hand."""
        self._is_closed.set()
        self._is_urgent.set()
        self._put(_LAST, lambda: None)
        self._thread.join()
        with self._lock:
            for future in self._waiting.values():
                future.cancel()

    def _put(self, priority: int, work: Callable[[], object]) -> None:
        self._queue.put((priority, next(self._order), work))

    def _work(self) -> None:
        while not self._is_closed.is_set():
            self._is_urgent.clear()  # what is urgent by now comes out of the queue first
            self._queue.get()[2]()

    def _ahead(self, model: StudioModel, key: str, entry: ImageEntry, then: Callable[[str], None], asked: int) -> None:
        if asked != self._round or (model.encoder, key) in self._done:
            return
        if (quiet := self._last_click + QUIET_SECONDS - time.monotonic()) > 0:
            self._is_urgent.wait(quiet)
            self._put(_AHEAD, lambda: self._ahead(model, key, entry, then, asked))
            return
        with self._lock:
            self._waiting.setdefault((model.encoder, key), Future())
        if self._embed(model, key, entry):
            then(key)

    def _embed(self, model: StudioModel, key: str, entry: ImageEntry) -> bool:
        place = (model.encoder, key)
        if place in self._kept:  # computed ahead while somebody began to wait
            self._answer(place, self._kept[place])
            return True
        try:
            embeddings = self._reader(model)([View(entry)]).to(dtype=torch.float32)
        except (SamtuneError, RuntimeError, MemoryError) as error:
            with self._lock:
                future = self._waiting.pop(place, None)
            if future is not None:
                future.set_exception(error)
            return False
        embedded = EmbeddedImage(embeddings, (entry.height, entry.width))
        with self._lock:
            self._kept[place] = embedded
            self._done.add(place)
            while len(self._kept) > 1 and sum(map(_size_of, self._kept.values())) > self._memory:
                self._kept.popitem(last=False)
        self._answer(place, embedded)
        return True

    def _answer(self, place: tuple[str, str], embedded: EmbeddedImage) -> None:
        with self._lock:
            future = self._waiting.pop(place, None)
        if future is not None:
            future.set_result(embedded)

    def _reader(self, model: StudioModel) -> DatasetEmbeddings:
        if model.encoder not in self._readers:
            loaded, device = model.predictor.loaded, model.predictor.device
            precision = arithmetic("auto", device, loaded.image_size)
            settings = CacheConfig(cache_dir=self._folder)
            self._readers[model.encoder] = DatasetEmbeddings.open(self._dataset, loaded, settings, device, precision)
        return self._readers[model.encoder]


def _size_of(embedded: EmbeddedImage) -> int:
    return sum(one.nbytes for one in embedded.embeddings.tensors)
