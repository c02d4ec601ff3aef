"""A run on the terminal: a progress bar, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from samtune.training.tracking.events import Event, Listener, Noted, RunFinished, RunStarted, StepDone, Validated

PLAIN_LINE_EVERY_SECONDS = 10.0


@contextmanager
def progress_listener(console: Console) -> Iterator[Listener]:
    """A progress bar with loss, IoU, steps/s and time left; plain lines when the output is no terminal."""
    if console.is_terminal:
        with _Bar(console) as bar:
            yield bar
    else:
        yield _PlainLines(console)


class _Smooth:
    """Running means for display: noisy per-step values, with more weight on the recent ones."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float) -> None:
        self.values[name] = value if name not in self.values else 0.95 * self.values[name] + 0.05 * value

    def take(self, event: StepDone) -> None:
        if event.skipped:
            return
        self.add("loss", event.loss)
        self.add("iou", event.train_iou)
        self.add("seconds", event.seconds)

    def __str__(self) -> str:
        if not self.values:
            return ""
        rate = 1 / max(self.values["seconds"], 1e-9)
        return f"loss {self.values['loss']:.3f}  train IoU {self.values['iou']:.3f}  {rate:.1f} steps/s"


class _Bar:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.smooth = _Smooth()
        columns = (TextColumn("tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                for line in _started_lines(event):
                    self.console.print(line, highlight=False, markup=False)
                self.task = self.progress.add_task("tuning", total=event.steps, completed=event.first_step, note="")
            case StepDone():
                if event.skipped:
                    self.console.print(_skipped_line(event), highlight=False, markup=False)
                self.smooth.take(event)
                self.progress.update(self.task, completed=event.step, note=str(self.smooth))
            case Noted():
                self.console.print(event.text, highlight=False, markup=False)
            case Validated():
                self.console.print(_validated_line(event), highlight=False, markup=False)
            case RunFinished():
                self.progress.stop()


class _PlainLines:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.smooth = _Smooth()
        self.steps = 0
        self.last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.steps = event.steps
                self._print(*_started_lines(event))
            case StepDone():
                if event.skipped:
                    self._print(_skipped_line(event))
                self.smooth.take(event)
                if time.monotonic() - self.last_line >= PLAIN_LINE_EVERY_SECONDS:
                    left = (self.steps - event.step) * self.smooth.values.get("seconds", event.seconds)
                    self._print(f"step {event.step}/{self.steps}  {self.smooth}  {left:.0f} s left")
            case Noted():
                self._print(event.text)
            case Validated():
                self._print(_validated_line(event))
            case RunFinished():
                pass

    def _print(self, *lines: str) -> None:
        self.last_line = time.monotonic()
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _started_lines(event: RunStarted) -> list[str]:
    start = f"resuming at step {event.first_step} of" if event.first_step else "training"
    return [f"{start} {event.steps} steps, run folder {event.folder}", *event.notes]


def _validated_line(event: Validated) -> str:
    figures = "  ".join(f"{name} IoU {value:.3f}" for name, value in event.metrics.items())
    who = "base model" if event.step == 0 else f"step {event.step}"
    mark = "  best so far" if event.best and event.step else f"  loses {' and '.join(event.lost)}" if event.lost else ""
    return f"{who}: {figures}{mark}"


def _skipped_line(event: StepDone) -> str:
    return f"step {event.step}: skipped, loss {event.loss:g} and gradient norm {event.grad_norm:g} are not both finite"
