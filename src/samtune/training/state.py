"""What changes while a run goes on: learning weights, optimizer, moving average, progress. A checkpoint holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from samtune.training.optimizer import MovingAverage


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best_step: step of the weights in `checkpoints/best`, 0 for the base model.
        best_iou: their mean IoU on the validation split's fixed prompts; None where there is no validation split.
        images_at_once: images of a step that go through the model together since memory ran out; 0 while it has not.
        prompts_at_once: prompts likewise.
    """

    step: int = 0
    best_step: int = 0
    best_iou: float | None = None
    images_at_once: int = 0
    prompts_at_once: int = 0


@dataclass
class TrainingState:
    """The state of a run.

    Attributes:
        parameters: what learns, by name; the model's own parameters, changed in place.
        optimizer: of these parameters.
        average: their moving average, or None.
        progress: how far the run is.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None = None
    progress: Progress = field(default_factory=Progress)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the moving average of its weights, where one is kept."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every learning weight is a finite number."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.parameters.values()]).all())
