"""The numbers of an event by name, the same for every tracker."""

from __future__ import annotations

import math

from samtune.training.tracking.events import Event, StepDone, Validated


def scalars(event: Event) -> dict[str, float]:
    """Losses under `train/`, validations under `iou/`, and `lr`; what is not finite is left out."""
    match event:
        case StepDone():
            named = {"loss": event.loss, **event.parts, "train_iou": event.train_iou}
            values = {f"train/{name}": value for name, value in named.items()} | {"lr": event.lr}
        case Validated():
            values = {f"iou/{name}": value for name, value in event.metrics.items()}
        case _:
            values = {}
    return {name: value for name, value in values.items() if math.isfinite(value)}
