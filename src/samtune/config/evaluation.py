"""What `samtune evaluate`, `compare` and validation measure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from samtune.config.base import Config, Device


class EvalConfig(Config):
    """What `samtune evaluate` and validation measure."""

    split: Literal["train", "valid", "test"] = Field(default="test", description="Split to evaluate.")
    max_objects: int = Field(
        default=0, ge=0, description="Evaluate at most this many objects, evenly spaced; 0 means all."
    )
    clicks: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Correction clicks of a simulated annotator after the first click; 0 leaves it out.",
    )
    background_clicks: int = Field(default=3, ge=0, description="Clicks per image where no object is annotated.")
    seed: int = Field(default=0, ge=0, description="Seed of the background clicks and of the intervals' resampling.")
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    device: Device = "auto"
