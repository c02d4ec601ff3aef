"""The training loop. It reads from top to bottom: set up, measure the base model, step, measure, keep the best, stop.

Everything it has to say goes out as events; see `listeners.py` for who listens.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

import torch
from torch import Tensor

from samtune.training.batches import loader
from samtune.training.checkpoint import Progress, save_last
from samtune.training.cuda_graphs import learner
from samtune.training.optimizer import lr_factor, set_learning_rate
from samtune.training.run import Run
from samtune.training.tracking.events import Listener, RunFinished, RunStarted, StepDone, Validated

STEPS_BETWEEN_READINGS = 10
"""Losses are read from the device this often; every reading makes a GPU wait."""


def train(run: Run, listeners: Sequence[Listener] = ()) -> RunFinished:
    """Train until the last step, or until SIGINT or SIGTERM asks to stop; either way `checkpoints/last` is whole.

    Args:
        run: a new run, or one being resumed (see `setup.py`).
        listeners: told of everything that happens.

    Returns:
        How it ended.
    """
    config, progress = run.config, run.progress
    started = time.monotonic()

    def tell(event: RunStarted | StepDone | Validated | RunFinished) -> None:
        if run.is_main:
            for listener in listeners:
                listener(event)

    tell(RunStarted(run.folder.path, config.steps, progress.step, run.notes))
    with _stop_on_signal() as stop:
        if progress.step == 0:
            progress = _validate(run, progress, tell)
        readings = _Readings(tell)
        learn, pin = learner(run), run.device.type == "cuda"
        for batch in loader(run.batches, progress.step, config.steps, config.workers, pin=pin):
            lr = set_learning_rate(run.optimizer, lr_factor(batch.step, config.steps, config.optimizer))
            figures = learn(batch)
            norm = _step(run, batch.step)
            progress = replace(progress, step=batch.step + 1)
            readings.add(progress.step, lr, figures | {"grad_norm": norm})

            due = progress.step % run.validate_every == 0 or progress.step == config.steps
            reading = due or progress.step % STEPS_BETWEEN_READINGS == 0
            stopping = stop.is_requested(run, reading)
            if reading or stopping:
                readings.read()
            if due:
                progress = _validate(run, progress, tell)
            if due or stopping:
                _save(run, progress)
            if stopping:
                break
    finished = RunFinished(progress.step, progress.best_step, time.monotonic() - started, stop.signal)
    tell(finished)
    return finished


def _step(run: Run, step: int) -> Tensor:
    """Average gradients over processes, clip, step, follow with the moving average; returns the unclipped norm."""
    run.average_gradients()
    norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), run.config.optimizer.clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update(step)
    return norm


def _validate(run: Run, progress: Progress, tell: Callable[[Validated], None]) -> Progress:
    """Measure on the fixed prompts; the best weights so far go to `checkpoints/best`."""
    with run.averaged_weights():
        metrics = run.measure()
        iou = run.validation.criterion(metrics)
        is_best = iou is None or progress.best_iou is None or iou > progress.best_iou
        if is_best:
            progress = replace(progress, best_step=progress.step, best_iou=iou)
            if run.is_main:
                run.save_best()
    tell(Validated(progress.step, metrics, is_best, run.validation.objects))
    return progress


def _save(run: Run, progress: Progress) -> None:
    if run.is_main:
        save_last(run.folder, run.parameters, run.optimizer, run.average, progress)
    run.accelerator.wait_for_everyone()


@dataclass
class _Readings:
    """Figures of the last steps, still on the device, until they are read together and told."""

    tell: Callable[[StepDone], None]
    pending: list[tuple[int, float, dict[str, Tensor]]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def add(self, step: int, lr: float, figures: dict[str, Tensor]) -> None:
        self.pending.append((step, lr, figures))

    def read(self) -> None:
        if not self.pending:
            return
        names = list(self.pending[0][2])
        table = torch.stack([torch.stack([figures[name].float() for name in names]) for _, _, figures in self.pending])
        rows = table.tolist()
        seconds = (time.monotonic() - self.since) / len(rows)
        for (step, lr, _), row in zip(self.pending, rows, strict=True):
            figures = dict(zip(names, row, strict=True))
            loss, iou, norm = (figures.pop(name) for name in ("loss", "train_iou", "grad_norm"))
            self.tell(StepDone(step, loss, figures, iou, lr, norm, seconds))
        self.pending.clear()
        self.since = time.monotonic()


@dataclass
class _Stop:
    """Whether a signal has asked the run to end, and which."""

    signal: int | None = None

    def is_requested(self, run: Run, waits: bool) -> bool:
        """True on every process when one of them was asked; several ask each other only where a step `waits` anyway."""
        return (waits or run.is_alone) and run.any_process(self.signal is not None)


@contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """The first SIGINT or SIGTERM asks for a stop after the step at hand; a second SIGINT ends the process at once."""
    stop = _Stop()

    def ask(number: int, _: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever started it there stops it in another way
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
