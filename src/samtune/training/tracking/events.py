"""The events of the training loop. It prints nothing itself: progress bar, files, TensorBoard are listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Training begins, or goes on.

    Attributes:
        folder: the run folder.
        steps: steps of the whole run.
        first_step: 0, or where a resumed run goes on.
        notes: what the user should know about this run: what learns, why the cache is off.
    """

    folder: Path
    steps: int
    first_step: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step was made.

    Attributes:
        step: steps done so far, 1 after the first.
        loss: the total loss, over all processes; may be infinite or NaN where the step was skipped.
        parts: its terms before weighting.
        train_iou: mean IoU of this step's predictions on its own, freshly drawn prompts, before the step; low-res grid.
        lr: learning rate of the decoder.
        grad_norm: gradient norm before clipping.
        seconds: time the step took, its share of loading and encoding included.
        skipped: loss or gradients were not finite, and no weight was changed.
    """

    step: int
    loss: float
    parts: Mapping[str, float]
    train_iou: float
    lr: float
    grad_norm: float
    seconds: float
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Validated:
    """The model was measured on fixed prompts.

    Attributes:
        step: steps done so far; 0 is the base model.
        metrics: mean IoU by `split/prompt`, such as `valid/box`, 0 to 1.
        best: whether these are the best weights so far.
        objects: how many objects each split's figures rest on.
        images: some objects of the validation split as uint8 `[H, W, 3]` RGB, by name: image, truth, base, model now.
        lost: kinds of prompts that are worse than the base model's; such weights are never the best.
    """

    step: int
    metrics: Mapping[str, float]
    best: bool
    objects: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user should know happened, such as a step that did not fit into memory.

    Attributes:
        step: steps done so far.
        text: what.
    """

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The loop ended.

    Attributes:
        step: steps done.
        best_step: the step whose weights are in `checkpoints/best`; 0 means no step was better than the base model.
        seconds: time this session took.
        signal: number of the signal that asked for an early end, or None; the run can be resumed.
        is_out_of_patience: it ended before its last step, because validation had not got better for long enough.
        best_share: how far the best weights lie from the base model's towards those of their step; 1 is all the way.
    """

    step: int
    best_step: int
    seconds: float
    signal: int | None = None
    is_out_of_patience: bool = False
    best_share: float = 1.0


Event: TypeAlias = RunStarted | StepDone | Validated | Noted | RunFinished
Listener: TypeAlias = Callable[[Event], None]
