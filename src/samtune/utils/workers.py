"""The same work on many items by several processes, in order, with few items under way at any time.

The helpers are plain Python processes of our own that load the work's module and nothing else. multiprocessing would
load the user's main script again in each of them, which runs the whole script a second time where it has no
`if __name__ == "__main__"`, and costs as much as hundreds of objects where it has one. What goes back and forth is
pickled: both ends are this program.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO, Generic, TypeVar

from samtune.errors import SamtuneError

_CHUNK = 2
_SENT_AHEAD = 2
"""Chunks that a helper is sent before its answer to the first one has come, so that it never waits."""
_FEW = 64
"""With fewer items than this, starting processes costs what they save: measured with 51 images of 20 objects."""
_MOST_UNDER_WAY = 32
"""Chunks per process that may be finished while an earlier one is not."""
_START = "import sys; sys.path[:] = {path!r}; from samtune.utils.workers import serve; serve()"

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    work: Callable[[Item], Result],
    items: Iterator[Item],
    processes: int = 0,
    *,
    expected: int = 0,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Yields `work(item)` for every item, in order.

    This process works too: while its helpers start, and whenever they have enough to do.

    Args:
        work: a function of a module that loads fast, or a `partial` of one, because every process loads it.
        items: taken as they are needed.
        processes: all that work, this one counted; 0 means one per core.
        expected: about how many items there are, where that is known, so that helpers start before the first is read.
        meanwhile: what this process has to do sooner or later, called first of all while its helpers start.

    Raises:
        SamtuneError: a process was ended from outside.
    """
    processes = processes or cpu_count()
    first = list(islice(items, _FEW)) if expected < _FEW else None
    if processes == 1 or (first is not None and len(first) < _FEW):
        yield from map(work, chain(first or (), items))
        return
    items = chain(first or (), items)
    with _helpers(work, processes - 1) as helpers:
        meanwhile()
        under_way: deque[Future[list[Result]]] = deque()
        while True:
            while under_way and (under_way[0].done() or len(under_way) > _MOST_UNDER_WAY * processes):
                yield from under_way.popleft().result()
            helper = min(helpers, key=lambda one: one.load)
            is_free = helper.load < _SENT_AHEAD
            chunk = list(islice(items, _CHUNK if is_free else 1))
            if not chunk:
                break
            under_way.append(helper.send(chunk) if is_free else _done([work(item) for item in chunk]))
        while under_way:
            yield from under_way.popleft().result()


def cpu_count() -> int:
    """Processors that this process may use; containers and batch systems often allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def lost_workers() -> Generator[None]:
    """Turn the end of a pool's process that nobody asked for into a message."""
    from concurrent.futures.process import BrokenProcessPool  # loads multiprocessing, which helpers do without

    try:
        yield
    except BrokenProcessPool as error:
        raise _lost() from error


@contextmanager
def _helpers(work: Callable[[Item], Result], count: int) -> Generator[list[_Helper[Item, Result]]]:
    helpers = [_Helper(work) for _ in range(count)]
    try:
        yield helpers
    finally:
        for helper in helpers:
            helper.end()


class _Helper(Generic[Item, Result]):
    """A process that works on the chunks it is sent, one after the other."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._ready = False
        self._waiting: deque[Future[list[Result]]] = deque()
        pickle.dump(work, self._to)
        self._to.flush()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def load(self) -> int:
        """Chunks sent and not answered; too many while the process still starts."""
        return len(self._waiting) if self._ready else _SENT_AHEAD

    def send(self, chunk: list[Item]) -> Future[list[Result]]:
        """Hand over a chunk; the answer fails with `SamtuneError` if the process ends before it has come."""
        answer: Future[list[Result]] = Future()
        self._waiting.append(answer)
        try:
            pickle.dump(chunk, self._to)
            self._to.flush()
        except BrokenPipeError:
            self._give_up()
        return answer

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._to, self._from):
            try:
                pipe.close()
            except BrokenPipeError:  # what was still to be sent
                continue

    def _read(self) -> None:
        """Take the answers as they come: a sign of life first, then for each chunk its results or an error."""
        try:
            self._ready = pickle.load(self._from)  # noqa: S301
            while True:
                found: list[Result] | Exception = pickle.load(self._from)  # noqa: S301
                answer = self._waiting.popleft()
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)
        except (EOFError, pickle.UnpicklingError):  # the end of the process, maybe in the middle of an answer
            self._give_up()

    def _give_up(self) -> None:
        self._ready = False
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(_lost())


def serve() -> None:
    """What a helper runs: reads a function, then chunks of items, from stdin; answers on stdout."""
    # Ctrl-C reaches every process of a terminal; the one that started the others ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what libraries print must not stand between the answers
        work: Callable[[Any], Any] = pickle.load(sys.stdin.buffer)  # noqa: S301
        _answer(answers, True)
        chunks: SimpleQueue[list[Any] | None] = SimpleQueue()
        Thread(target=_receive, args=(sys.stdin.buffer, chunks), daemon=True).start()
        while (chunk := chunks.get()) is not None:
            try:
                _answer(answers, [work(item) for item in chunk])
            except Exception as error:
                error.add_note(traceback.format_exc())
                _answer(answers, error)


def _receive(source: BinaryIO, chunks: SimpleQueue[list[Any] | None]) -> None:
    """Read ahead, so that the sender never waits for the work; None at the end."""
    try:
        while True:
            chunks.put(pickle.load(source))  # noqa: S301
    except (EOFError, pickle.UnpicklingError):
        chunks.put(None)


def _answer(answers: BinaryIO, value: object) -> None:
    try:
        pickle.dump(value, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
    except BrokenPipeError:  # nobody is there to read it
        os._exit(1)


def _done(results: list[Result]) -> Future[list[Result]]:
    answer: Future[list[Result]] = Future()
    answer.set_result(results)
    return answer


def _lost() -> SamtuneError:
    return SamtuneError.of(
        expected="worker processes that do their work to its end",
        found="one that was ended from outside, most often because memory ran out",
        do="start again with fewer processes",
    )
