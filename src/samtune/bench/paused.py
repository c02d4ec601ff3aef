"""The real training loop, made to wait: it takes some steps when it is told to, so that several loops can take turns.

Timing one loop for a minute and the next one a minute later compares two states of the machine. Here every round gives
each contestant a few steps.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Self, TypeAlias

from torch.utils.flop_counter import FlopCounterMode

from samtune.training.events import Event, StepDone, Validated
from samtune.training.loop import STEPS_BETWEEN_READINGS, train
from samtune.training.setup import Run

STEPS = STEPS_BETWEEN_READINGS
"""Steps of one turn: what the loop reports together."""

_Order: TypeAlias = Literal["go", "count", "close"]


class _Closed(BaseException):
    """Ends the loop from inside its listener; nothing on the way may take it for a failure."""


class PausedLoop:
    """A new run of `training.loop.train` in a thread of its own, which waits in its listener between turns.

    The time it waits is not part of what the loop reports as a step's time. Use as a context; the run ends with it.

    Args:
        run: a new run, with a validation at its start and at its end only: `eval_every` not below `steps`.
    """

    def __init__(self, run: Run) -> None:
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._answers: SimpleQueue[float | BaseException] = SimpleQueue()
        self._counter: FlopCounterMode | None = None
        self._thread = threading.Thread(target=self._train, args=(run,), daemon=True)
        self._thread.start()
        self._answer()

    def advance(self) -> float:
        """Make ten steps; returns the seconds of one."""
        self._orders.put("go")
        return self._answer()

    def count_flops(self) -> float:
        """Make ten steps, which take longer than usual; returns the floating point operations of one.

        Counted are matrix products and convolutions, forward and backward, a multiply-add as two.
        """
        self._orders.put("count")
        return self._answer()

    def close(self) -> None:
        """End the run where it stands, without a checkpoint."""
        self._orders.put("close")
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> float:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _train(self, run: Run) -> None:
        try:
            train(run, [self._listen])
        except _Closed:
            return
        except BaseException as error:  # belongs to whoever waits for the answer
            self._answers.put(error)

    def _listen(self, event: Event) -> None:
        if isinstance(event, Validated) and event.step == 0:
            self._pause(0.0)
        elif isinstance(event, StepDone) and event.step % STEPS == 0:
            if self._counter is None:
                self._pause(event.seconds)
            else:
                self._counter.__exit__(None, None, None)
                self._pause(self._counter.get_total_flops() / STEPS)

    def _pause(self, answer: float) -> None:
        """Hand over the answer to the last order, and wait for the next."""
        self._answers.put(answer)
        order = self._orders.get()
        if order == "close":
            raise _Closed
        self._counter = FlopCounterMode(display=False) if order == "count" else None
        if self._counter is not None:
            self._counter.__enter__()
