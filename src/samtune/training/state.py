"""What changes while a run goes on: learning weights, optimizer, moving average, progress. A checkpoint holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from samtune.training.optimizer import MovingAverage


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best_step: step of the weights in `checkpoints/best`, 0 for the base model.
        best_iou: their mean IoU on the validation split's fixed prompts; None where there is no validation split.
        best_share: how far those weights lie from the base model's towards the tuned ones; 1 is all the way.
        best: what those weights reached on the validation split, by kind of prompt.
        base: what the base model reached on the validation split, by kind of prompt.
        lost: the kinds that the weights measured last are worse at than the base model.
        images_at_once: images of a step that go through the model together since memory ran out; 0 while it has not.
        prompts_at_once: prompts likewise.
    """

    step: int = 0
    best_step: int = 0
    best_iou: float | None = None
    best_share: float = 1.0
    best: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    lost: Sequence[str] = ()
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
        start: what the parameters were before the first step, on the CPU.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None = None
    progress: Progress = field(default_factory=Progress)
    start: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.start = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.parameters.items()}

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

    @contextmanager
    def towards_start(self) -> Iterator[Callable[[float], None]]:
        """Gives what sets the weights to a share of the way from the start to where they are; undone at the end."""
        ends = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}

        @torch.no_grad()
        def go(share: float) -> None:
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.lerp(self.start[name].to(parameter.device), ends[name], share))

        try:
            yield go
        finally:
            go(1.0)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every learning weight is a finite number."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.parameters.values()]).all())
