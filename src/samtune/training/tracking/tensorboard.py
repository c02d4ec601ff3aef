"""A run in TensorBoard, where TensorBoard is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.training.tracking.events import Event, Listener, RunFinished, RunStarted, StepDone, Validated


@contextmanager
def tensorboard_listener(folder: Path, first_step: int) -> Iterator[Listener | None]:
    """Writes losses under `train/` and validations under `iou/`; None where TensorBoard is not installed.

    Args:
        folder: where its event files go.
        first_step: steps done before; TensorBoard then drops what earlier files say of later ones.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    except ImportError:
        yield None
        return
    writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def listen(event: Event) -> None:
        match event:
            case StepDone():
                values = {"loss": event.loss, **event.parts, "train_iou": event.train_iou}
                for name, value in values.items():
                    if math.isfinite(value):
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
