"""The public surface: each step of the main job as one function. Command line, notebooks and scripts stand on it.

Functions import what they need when they are called, so that `samtune doctor` starts without torch. Progress goes to
stderr; `quiet=True` silences it. Errors are those of `samtune.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.config import PrepareConfig, TrainConfig
from samtune.progress import progress, stderr_console

if TYPE_CHECKING:
    from rich.table import Table

    from samtune.data.doctor import Audit
    from samtune.data.prepare import PrepareReport
    from samtune.evaluation.compare import Comparison
    from samtune.evaluation.evaluate import Evaluation
    from samtune.export import ExportReport
    from samtune.inference.predict_files import PredictReport
    from samtune.training.setup import Run


def doctor(
    source: Path | str,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    html: Path | None = None,
    quiet: bool = False,
) -> Audit:
    """Check annotations and images without changing anything; see `data.doctor.audit`. `html` also writes a page."""
    from samtune.data.doctor import audit
    from samtune.data.doctor_report import render_html

    with progress("checking", quiet=quiet) as advance:
        found = audit(Path(source), source_format, images, progress=advance)
    if html is not None:
        render_html(found, html)
    return found


def prepare(
    source: Path | str, out: Path | str, config: PrepareConfig | None = None, *, quiet: bool = False
) -> PrepareReport:
    """Turn annotations into mask files and a table; see `data.prepare.prepare`."""
    from samtune.data.prepare import prepare as prepare_source

    with progress("preparing", quiet=quiet) as advance:
        return prepare_source(Path(source), Path(out), config or PrepareConfig(), progress=advance)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training run ended.

    Attributes:
        folder: the run folder, usable wherever a model is asked for.
        step: steps done.
        best_step: step of the weights in `checkpoints/best`; 0 means no step was better than the base model.
        signal: number of the signal that interrupted the run, or None.
    """

    folder: Path
    step: int
    best_step: int
    signal: int | None

    def lines(self) -> list[str]:
        """What to tell the user."""
        if self.signal:
            return [f"interrupted after step {self.step}; go on with: samtune train --resume {self.folder}"]
        best = f"best at step {self.best_step}" if self.best_step else "no step was better than the base model"
        return [f"done: {self.step} steps, {best}", f"run        {self.folder}"]


def train(dataset: Path | str, config: TrainConfig | None = None, *, quiet: bool = False) -> TrainResult:
    """Tune a model on a prepared dataset; see `training.loop.train`."""
    from samtune.training.setup import new

    return _train(new(Path(dataset), config or TrainConfig()), quiet)


def resume(folder: Path | str, *, quiet: bool = False) -> TrainResult:
    """Continue an interrupted run where its last checkpoint left it, with the same numbers it would have had."""
    from samtune.training.setup import resumed

    return _train(resumed(Path(folder)), quiet)


def _train(run: Run, quiet: bool) -> TrainResult:
    from samtune.training.listeners import file_listeners, progress_listener
    from samtune.training.loop import train as train_run

    with ExitStack() as stack:
        listeners = stack.enter_context(file_listeners(run.folder))
        listeners.append(stack.enter_context(progress_listener(stderr_console(quiet=quiet))))
        finished = train_run(run, listeners)
    return TrainResult(run.folder.path, finished.step, finished.best_step, finished.signal)
