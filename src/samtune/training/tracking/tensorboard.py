"""A run in TensorBoard, where TensorBoard is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.training.tracking.events import Event, Listener, StepDone, Validated
from samtune.training.tracking.scalars import scalars

_NAME = "events.out.tfevents."
_LONGEST_WAIT_SECONDS = 2.0


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
    _wait_for_a_later_name(folder)
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


def _wait_for_a_later_name(folder: Path) -> None:
    """Let the second pass in which an earlier event file was begun.

    TensorBoard reads a folder's event files in the order of their names: second, host, process, number within the
    process. Within one second that order is no order in time (10 comes before 9), and an interrupted run's last steps
    would be shown beside those that a resumed run did again. A clock that was set back is not waited for.
    """
    seconds = [
        int(name[:10]) for path in folder.glob(f"{_NAME}*") if (name := path.name.removeprefix(_NAME))[:10].isdigit()
    ]
    left = max(seconds, default=0) + 1 - time.time()
    if 0 < left <= _LONGEST_WAIT_SECONDS:
        time.sleep(left)
