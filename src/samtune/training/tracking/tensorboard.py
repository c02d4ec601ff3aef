"""A run in TensorBoard, where TensorBoard is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.training.tracking.events import Event, Listener, StepDone, Validated
from samtune.training.tracking.scalars import scalars


@contextmanager
def tensorboard_listener(folder: Path, first_step: int) -> Iterator[Listener | None]:
    """Writes what `scalars` says, and images of validation objects; None where TensorBoard is not installed.

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
        if not isinstance(event, StepDone | Validated):
            return
        for name, value in scalars(event).items():
            writer.add_scalar(name, value, event.step)
        if isinstance(event, Validated):
            for name, image in event.images.items():
                writer.add_image(name, image, event.step, dataformats="HWC")

    try:
        yield listen
    finally:
        writer.close()
