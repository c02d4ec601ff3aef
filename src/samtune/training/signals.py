"""SIGINT and SIGTERM ask a run to stop after the step at hand; its checkpoint is then saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from samtune.runtime.distributed import Processes


@dataclass
class StopRequest:
    """Whether a signal has asked the run to end, and which."""

    signal: int | None = None

    def reached(self, processes: Processes, *, reads: bool) -> bool:
        """True in every process when one of them was asked; several ask each other only where a step `reads` anyway."""
        return (reads or processes.is_alone) and processes.any(self.signal is not None)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """The first SIGINT or SIGTERM asks for a stop; a second SIGINT ends the process at once."""
    request = StopRequest()

    def ask(number: int, _: FrameType | None) -> None:
        if request.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = number

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever started it there stops it in another way
        before = {}
    try:
        yield request
    except Exception:  # an error says more than the interrupt
        raise
    except BaseException as ended:
        if request.signal == signal.SIGINT:  # whoever ended the work did so before it could heed the request
            raise KeyboardInterrupt from ended
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
