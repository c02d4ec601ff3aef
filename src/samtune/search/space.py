"""What a search varies: for each dimension the choices, and what they change in the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from samtune.config import PromptPolicy, TrainConfig

GIVEN = "as given"
"""The choice that leaves a setting as it is: the first trial has it everywhere."""
LR_AROUND = 10.0
"""Learning rates are searched between the given one divided by this and multiplied by it."""
PROMPTS = (GIVEN, "boxes", "mixture", "clicks", "interactive")
LOSSES: dict[str, dict[str, float]] = {
    GIVEN: {},
    "area_bce": {"area_bce": 5.0},
    "area_bce and less focal": {"focal": 5.0, "area_bce": 5.0},
}
TRAIN = (GIVEN, "decoder+prompt-encoder")
TRAIN_ON_A_GPU = (*TRAIN, "decoder+lora", "decoder+encoder-last-2")
"""On a CPU an encoder that learns would eat the budget: it has to be run in every step."""
VIEWS = (GIVEN, 4)


def first_choice(base: TrainConfig, search: tuple[str, ...]) -> dict[str, Any]:
    """The choice that leaves every setting as it is."""
    return {name: base.optimizer.lr_of(base.steps) if name == "lr" else GIVEN for name in search}


def choose(trial: optuna.Trial, base: TrainConfig, search: tuple[str, ...], *, on_cpu: bool) -> dict[str, Any]:
    """A trial's choice in every dimension of the search."""
    options = {"prompts": PROMPTS, "loss": tuple(LOSSES), "train": TRAIN if on_cpu else TRAIN_ON_A_GPU, "views": VIEWS}
    lr = base.optimizer.lr_of(base.steps)
    return {
        name: trial.suggest_float("lr", lr / LR_AROUND, lr * LR_AROUND, log=True)
        if name == "lr"
        else trial.suggest_categorical(name, options[name])
        for name in search
    }


def with_choice(base: TrainConfig, choice: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run with a choice."""
    changes: dict[str, Any] = {}
    for name, value in choice.items():
        if value == GIVEN:
            continue
        match name:
            case "lr":
                changes["optimizer"] = base.optimizer.model_copy(update={"lr": value})
            case "prompts":
                changes["prompts"] = PromptPolicy(preset=value)
            case "loss":
                changes["loss"] = base.loss.model_copy(update=LOSSES[value])
            case "train":
                changes["trainable"] = base.trainable.model_copy(update={"train": value})
            case _:
                changes |= {"views": value, "flip": False}
    return base.model_copy(update=changes)
