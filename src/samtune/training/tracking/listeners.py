"""Who listens to the training loop: the progress bar, the metrics file, the table of results, TensorBoard."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from samtune.training.checkpoint import RunFolder
from samtune.training.tracking.events import Event, Listener, RunFinished, RunStarted, StepDone, Validated
from samtune.utils.files import storage_errors

PLAIN_LINE_EVERY_SECONDS = 10.0


@contextmanager
def file_listeners(folder: RunFolder) -> Iterator[list[Listener]]:
    """The listeners that write into the run folder."""
    with ExitStack() as stack:
        listeners: list[Listener] = [stack.enter_context(_metrics_file(folder.metrics)), _results_table(folder)]
        tensorboard = stack.enter_context(_tensorboard(folder.path / "tensorboard"))
        yield listeners if tensorboard is None else [*listeners, tensorboard]


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
        self.add("loss", event.loss)
        self.add("iou", event.train_iou)
        self.add("seconds", event.seconds)

    def __str__(self) -> str:
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
                self.smooth.take(event)
                self.progress.update(self.task, completed=event.step, note=str(self.smooth))
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
                self._say(*_started_lines(event))
            case StepDone():
                self.smooth.take(event)
                if time.monotonic() - self.last_line >= PLAIN_LINE_EVERY_SECONDS:
                    left = (self.steps - event.step) * self.smooth.values["seconds"]
                    self._say(f"step {event.step}/{self.steps}  {self.smooth}  {left:.0f} s left")
            case Validated():
                self._say(_validated_line(event))
            case RunFinished():
                pass

    def _say(self, *lines: str) -> None:
        self.last_line = time.monotonic()
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _started_lines(event: RunStarted) -> list[str]:
    start = f"resuming at step {event.first_step} of" if event.first_step else "training"
    return [f"{start} {event.steps} steps, run folder {event.folder}", *event.notes]


def _validated_line(event: Validated) -> str:
    figures = "  ".join(f"{name} IoU {value:.3f}" for name, value in event.metrics.items())
    who = "base model" if event.step == 0 else f"step {event.step}"
    return f"{who}: {figures}{'  best so far' if event.best and event.step else ''}"


@contextmanager
def _metrics_file(path: Path) -> Iterator[Listener]:
    """One JSON object per line; `step` is in each, and either a step's values or a validation's."""
    with storage_errors(path), path.open("a", encoding="utf-8") as file:

        def listen(event: Event) -> None:
            match event:
                case StepDone():
                    values = {"loss": event.loss, **event.parts, "train_iou": event.train_iou, "lr": event.lr}
                    line = {"step": event.step, **values, "grad_norm": event.grad_norm, "seconds": event.seconds}
                case Validated():
                    line = {"step": event.step, **event.metrics, "best": event.best}
                case RunStarted() | RunFinished():
                    return
            file.write(json.dumps(line) + "\n")
            if isinstance(event, Validated):
                file.flush()

        yield listen


def _results_table(folder: RunFolder) -> Listener:
    """`results.csv`, one row per validation, for spreadsheets."""

    def listen(event: Event) -> None:
        if not isinstance(event, Validated):
            return
        new = not folder.results.exists()
        with storage_errors(folder.results), folder.results.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(["step", *event.metrics, "best"])
            writer.writerow([event.step, *(f"{value:.5f}" for value in event.metrics.values()), int(event.best)])

    return listen


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Listener | None]:
    """TensorBoard events, where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    except ImportError:
        yield None
        return
    writer = SummaryWriter(str(folder))

    def listen(event: Event) -> None:
        match event:
            case StepDone():
                for name, value in {"loss": event.loss, **event.parts, "train_iou": event.train_iou}.items():
                    writer.add_scalar(f"train/{name}", value, event.step)
                writer.add_scalar("lr", event.lr, event.step)
            case Validated():
                for name, value in event.metrics.items():
                    writer.add_scalar(f"iou/{name}", value, event.step)
            case RunStarted() | RunFinished():
                pass

    try:
        yield listen
    finally:
        writer.close()
