"""A run in its folder: `metrics.jsonl`, `results.csv`, `training.png`, and TensorBoard events where it is installed.

And with the services that the settings name, see `services.py`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from samtune.config import TrainConfig
from samtune.training.checkpoint import RunFolder
from samtune.training.identity import flat
from samtune.training.tracking.chart import chart_listener
from samtune.training.tracking.events import Event, Listener, Noted, RunFinished, RunStarted, StepDone, Validated
from samtune.training.tracking.services import service_listener
from samtune.training.tracking.tensorboard import tensorboard_listener
from samtune.utils.files import storage_errors


@contextmanager
def file_listeners(folder: RunFolder, config: TrainConfig, first_step: int = 0) -> Iterator[list[Listener]]:
    """The listeners that write into the run folder, and those of the services that `config` names.

    Args:
        folder: the run's.
        config: its settings.
        first_step: steps done before; what a resumed run had written of later ones is taken back.
    """
    with ExitStack() as stack:
        listeners: list[Listener] = [stack.enter_context(_metrics_file(folder.metrics)), results_table(folder)]
        tensorboard = stack.enter_context(tensorboard_listener(folder.path / "tensorboard", first_step))
        if tensorboard is not None:
            listeners.append(tensorboard)
        settings = flat(config.model_dump(mode="json"))
        listeners += [stack.enter_context(service_listener(name, folder.path, settings)) for name in config.track]
        yield [*listeners, chart_listener(folder)]


@contextmanager
def _metrics_file(path: Path) -> Iterator[Listener]:
    """One JSON object per line; `step` is in each, and either a step's values or a validation's.

    JSON knows no NaN and no infinity: null stands for them. Each line is handed to the system at once, so that no
    checkpoint is ever ahead of it.
    """
    with storage_errors(path), path.open("a", encoding="utf-8", buffering=1) as file:

        def listen(event: Event) -> None:
            match event:
                case StepDone():
                    values = {"loss": event.loss, **event.parts, "train_iou": event.train_iou, "lr": event.lr}
                    line = {"step": event.step, **values, "grad_norm": event.grad_norm, "seconds": event.seconds}
                    line |= {"skipped": True} if event.skipped else {}
                case Validated():
                    line = {"step": event.step, **event.metrics, "best": event.best}
                case RunStarted() | RunFinished() | Noted():
                    return
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")

        yield listen


def _finite(line: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def results_table(folder: RunFolder) -> Listener:
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
