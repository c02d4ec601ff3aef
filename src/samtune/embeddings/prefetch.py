"""Images read, decoded and resized in threads, ahead of the encoder that wants them.

The tensors are those that reading without prefetch gives. See docs/decisions/0055.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


class Prefetcher(Generic[Key]):
    """Reads images in threads before they are asked for.

    Args:
        read: gives an image as the model takes it, float32 `[3, S, S]`; called in other threads too.
        threads: number of threads.
        most: images held at a time; each takes 12 MB at 1024 pixels.
    """

    def __init__(self, read: Callable[[Key], Tensor], *, threads: int, most: int) -> None:
        self._read = read
        self._count = threads
        self._most = most
        self._waiting: dict[Key, Future[Tensor]] = {}

    def __call__(self, key: Key) -> Tensor:
        """An image. What reading it raises is raised here, whenever it was read."""
        waiting = self._waiting.pop(key, None)
        return self._read(key) if waiting is None else waiting.result()

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Start to read images that will be asked for, as far as there is room; those no longer wanted are dropped."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._waiting if key not in wanted]:
            self._waiting.pop(key).cancel()
        for key in wanted:
            if len(self._waiting) >= self._most:
                break
            if key not in self._waiting:
                self._waiting[key] = self._threads.submit(self._read, key)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        torch.get_num_threads()  # fixes this thread's number first: otherwise the workers' one would apply to it too
        return ThreadPoolExecutor(self._count, "reader", initializer=torch.set_num_threads, initargs=(1,))
