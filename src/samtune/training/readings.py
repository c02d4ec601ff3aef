"""The figures of the last steps, on the device until they are read together: every reading makes a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from samtune.errors import SamtuneError
from samtune.training.run import Run
from samtune.training.step import Figures
from samtune.training.tracking.events import StepDone

STEPS_BETWEEN_READINGS = 10
MOST_SKIPPED = 3
"""Steps in a row without a finite loss after which a run stops."""
_MOST_NAMED = 8
"""Images that an error names."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step that was made; `step` counts from 1."""

    step: int
    lr: float
    figures: Figures


class Readings:
    """Collects figures, emits them as events, and ends the run when its loss is no number any more."""

    def __init__(self, run: Run, emit: Callable[[StepDone], None]) -> None:
        self._run = run
        self._emit = emit
        self._pending: list[_Pending] = []
        self._skipped: list[StepDone] = []
        self._since = time.monotonic()

    def add(self, step: int, lr: float, figures: Figures) -> None:
        """Take in a step's figures, the same in every process."""
        self._pending.append(_Pending(step, lr, figures))

    def read(self) -> None:
        """Read what was taken in from the device, and emit it.

        Raises:
            SamtuneError: the last steps in a row had no finite loss.
        """
        if not self._pending:
            return
        names = list(self._pending[0].figures)
        table = torch.stack([torch.stack([one.figures[name].float() for name in names]) for one in self._pending])
        rows = table.tolist()
        seconds = (time.monotonic() - self._since) / len(rows)
        for one, row in zip(self._pending, rows, strict=True):
            figures = dict(zip(names, row, strict=True))
            loss, iou, norm, skipped = (figures.pop(name) for name in ("loss", "train_iou", "grad_norm", "skipped"))
            event = StepDone(one.step, loss, figures, iou, one.lr, norm, seconds, bool(skipped))
            self._emit(event)
            self._skipped = [*self._skipped, event] if skipped else []
            if len(self._skipped) == MOST_SKIPPED:
                raise self._run.processes.failure(self._no_finite_loss())
        self._pending.clear()
        self._since = time.monotonic()

    def _no_finite_loss(self) -> SamtuneError:
        first, last = self._skipped[0], self._skipped[-1]
        steps = range(first.step - 1, last.step)
        images = dict.fromkeys(image.image_path for step in steps for image in self._run.batches.images_of(step))
        named = ", ".join(list(images)[:_MOST_NAMED])
        more = f" and {len(images) - _MOST_NAMED} more" if len(images) > _MOST_NAMED else ""
        return SamtuneError.of(
            expected="a loss and gradients that are finite numbers",
            found=f"loss {last.loss:g}, gradient norm {last.grad_norm:g} for {MOST_SKIPPED} steps in a row, which were "
            f"skipped: steps {first.step} to {last.step}, at learning rate {last.lr:.2g}",
            where=f"{named}{more}",
            do=f"train again with a smaller --optimizer.lr, or with --precision fp32; what was good until then is in "
            f"{self._run.folder.last}",
        )
