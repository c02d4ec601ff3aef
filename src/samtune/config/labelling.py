"""How much data is enough, and which images to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from samtune.config.base import Config, Device


class CurveConfig(Config):
    """What `samtune curve` measures; how it tunes is said by the settings of a training run."""

    shares: tuple[float, ...] = Field(
        default=(0.125, 0.25, 0.5, 1.0), description="Shares of the training groups to tune on, above 0 and at most 1."
    )
    seeds: int = Field(default=3, ge=1, le=50, description="Runs for each share, with other groups and other draws.")
    split: Literal["valid", "test"] = Field(default="test", description="Held-out split to measure on.")
    max_objects: int = Field(
        default=0, ge=0, description="Measure at most this many objects, evenly spaced; 0 means all."
    )
    more: int = Field(default=50, ge=1, description="Further images whose gain is estimated.")

    @field_validator("shares")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values) or len(set(values)) != len(values) or len(values) < 2:
            raise ValueError("at least two different shares, each above 0 and at most 1")
        return tuple(sorted(values))


class RankConfig(Config):
    """How `samtune next` ranks images that nobody has labelled yet."""

    most: int = Field(default=0, ge=0, description="Keep at most this many images, the most useful ones; 0 means all.")
    doubt_weight: float = Field(
        default=0.5, ge=0, le=1, description="Share of the model's doubt in the score; the rest is being unlike."
    )
    points_per_side: int = Field(
        default=8, ge=1, le=64, description="Clicks per side of the grid, where the model has no finder."
    )
    most_prompts: int = Field(default=32, ge=1, description="Prompts per image that the doubt is measured with.")
    views: bool = Field(
        default=True, description="Also ask about the mirrored image; takes a second run of the encoder."
    )
    labelled: Path | None = Field(
        default=None, description="Prepared dataset of what is labelled; that of the run if left out."
    )
    device: Device = "auto"
