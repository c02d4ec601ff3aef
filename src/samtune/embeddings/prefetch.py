"""Images read, decoded and resized in threads, before the encoder needs them.

The result is the same as reading each one when it is needed; only the waiting is gone. See docs/decisions/0055.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


class Prefetch(Generic[Key]):
    """Reads images when they are needed, or before.

    Args:
        read: gives an image as the model takes it, float32 `[3, S, S]`; called in other threads too.
        threads: how many threads.
        limit: images that may be held at a time; each takes 12 MB at 1024 pixels.
    """

    def __init__(self, read: Callable[[Key], Tensor], *, threads: int, limit: int) -> None:
        self._read = read
        self._count = threads
        self._limit = limit
        self._pending: dict[Key, Future[Tensor]] = {}

    def __call__(self, key: Key) -> Tensor:
        """An image. What reading it raises is raised here, whenever it was read."""
        pending = self._pending.pop(key, None)
        return self._read(key) if pending is None else pending.result()

    def ahead(self, keys: Iterable[Key]) -> None:
        """Start to read images that will be needed, as far as there is room; those no longer needed are dropped."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._pending if key not in wanted]:
            self._pending.pop(key).cancel()
        for key in wanted:
            if len(self._pending) >= self._limit:
                break
            if key not in self._pending:
                self._pending[key] = self._threads.submit(self._read, key)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        torch.get_num_threads()  # fixes this thread's own number, which the others' would otherwise become
        return ThreadPoolExecutor(self._count, "reader", initializer=torch.set_num_threads, initargs=(1,))
