"""A search for settings of a training run within a budget of time."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from samtune.config.base import Config

DIMENSIONS = ("lr", "prompts", "loss", "train", "views")
"""What a search can vary."""


class SweepConfig(Config):
    """How long to search, and among what."""

    budget: str = Field(default="30m", description="Time for the whole search, such as 30m, 2h or 90s.")
    trials: int = Field(default=0, ge=0, description="Most trials; 0 means as many as the budget allows.")
    search: tuple[str, ...] = Field(
        default=DIMENSIONS,
        description="What is searched: lr, prompts, loss, train (what learns), views.",
    )

    measure: Literal["both", "box", "point"] = Field(
        default="both",
        description="What decides, on the validation split: mean IoU of boxes and single clicks, or of one of them.",
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of prompts that decide."""
        return ("box", "point") if self.measure == "both" else (self.measure,)

    @property
    def seconds(self) -> float:
        """`budget` in seconds."""
        return parse_duration(self.budget)

    @field_validator("budget")
    @classmethod
    def _budget_is_a_time(cls, value: str) -> str:
        parse_duration(value)
        return value

    @field_validator("search")
    @classmethod
    def _dimensions_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(DIMENSIONS))
        if unknown or not value:
            raise ValueError(f"expected some of {', '.join(DIMENSIONS)}{f', not {unknown[0]!r}' if unknown else ''}")
        return value


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds from `30m`, `2h`, `90s` or `1.5h`.

    Raises:
        ValueError: no such time, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text.lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError("expected a time above 0 such as 30m, 2h or 90s")
    return seconds
