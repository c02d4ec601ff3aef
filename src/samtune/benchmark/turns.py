"""The real training loop, a few steps at a time, so that several runs can take turns.

Timing one run for a minute and another one a minute later compares two states of the machine. Here every round gives
each contestant a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.utils.flop_counter import FlopCounterMode

from samtune.benchmark.traffic import Traffic
from samtune.training.loop import train
from samtune.training.readings import STEPS_BETWEEN_READINGS
from samtune.training.run import Run
from samtune.training.state import Progress
from samtune.training.tracking.events import Event, StepDone

STEPS = STEPS_BETWEEN_READINGS
"""Steps of one turn: what the loop reports together."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step has to do.

    Attributes:
        flops: floating point operations of matrix products and convolutions, forward and backward, a multiply-add as
            two.
        bytes: moved through memory, see `Traffic`.
    """

    flops: float
    bytes: float


class _Enough(BaseException):
    """Ends the loop from inside its listener, without validation or checkpoint."""


class Turns:
    """Steps of a run by `training.loop.train`, ten at a time, each time going on where the last ones ended.

    Args:
        run: a new run. It is taken up after its first ten steps, as if it were resumed, which leaves out the
            validation of the base model; `eval_every` must lie beyond the steps that will be made.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = STEPS

    def advance(self) -> float:
        """Make ten steps; returns the seconds of one, reading the data included.

        Raises:
            KeyboardInterrupt: a signal asked for an end.
        """
        last = self._done + STEPS
        found: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, StepDone) and event.step == last:
                found.append(event.seconds)
                raise _Enough

        self._run.state.progress = Progress(step=self._done)
        try:
            train(self._run, [listen])
        except _Enough:
            self._done = last
            return found[0]
        raise KeyboardInterrupt

    def count(self) -> StepWork:
        """Make ten steps, which take longer than usual; returns the work of one.

        They are not recorded as CUDA graphs: operations of a replay cannot be counted.
        """
        run = self._run
        self._run = replace(run, config=run.config.model_copy(update={"cuda_graphs": False}))
        try:
            with FlopCounterMode(display=False) as flops, Traffic() as traffic:
                self.advance()
        finally:
            self._run = run
        return StepWork(flops.get_total_flops() / STEPS, traffic.bytes / STEPS)
