"""The same work on many items by several processes, in order, with few items under way at any time."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

from samtune.errors import SamtuneError

_CHUNK = 8
_FEW = 32
"""With fewer items than this, starting processes costs more than they save."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(work: Callable[[Item], Result], items: Iterator[Item], processes: int = 0) -> Iterator[Result]:
    """Yields `work(item)` for every item, in order.

    While the processes start, which takes as long as dozens of items, the items are worked on here.

    Args:
        work: a function of a module that loads fast, or a `partial` of one, because every process loads it.
        items: taken as they are needed.
        processes: 0 means one per core.

    Raises:
        SamtuneError: a process was ended from outside.
    """
    processes = processes or _cores()
    first = list(islice(items, _FEW))
    items = chain(first, items)
    if processes == 1 or len(first) < _FEW:
        yield from map(work, items)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([getattr(work, "func", work).__module__])
    with lost_workers(), ProcessPoolExecutor(processes, mp_context=context, initializer=_ignore_interrupts) as pool:
        started = pool.submit(_cores)
        under_way: deque[Future[list[Result]]] = deque()
        try:
            while batch := list(islice(items, _CHUNK)):
                if not started.done():
                    yield from _work_on(work, batch)
                    continue
                under_way.append(pool.submit(_work_on, work, batch))
                if len(under_way) > 4 * processes:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def lost_workers() -> Generator[None]:
    """Turn the end of a worker process that nobody asked for into a message."""
    try:
        yield
    except BrokenProcessPool as error:
        raise SamtuneError.of(
            expected="worker processes that do their work to its end",
            found="one that was ended from outside, most often because memory ran out",
            do="start again with fewer processes",
        ) from error


def _work_on(work: Callable[[Item], Result], batch: list[Item]) -> list[Result]:
    return [work(item) for item in batch]


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that started the others tidies up for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
