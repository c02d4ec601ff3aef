"""What `samtune evaluate`, `compare` and validation measure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from samtune.config.base import Config, Device


class EvalConfig(Config):
    """What `samtune evaluate` and validation measure."""

    split: Literal["train", "valid", "test"] = Field(default="test", description="Split to evaluate.")
    max_objects: int = Field(
        default=0, ge=0, description="Evaluate at most this many objects, evenly spaced; 0 means all."
    )
    jitter: tuple[float, ...] = Field(
        default=(0.1, 0.2),
        description="Boxes that are not exact: each edge moves by up to this share of the side, one figure per share.",
    )
    mask_prompt: bool = Field(
        default=True, description="Also ask with a click and a rough outline, the object's convex hull."
    )
    clicks: int = Field(
        default=3,
        ge=0,
        le=20,
        description="Correction clicks of a simulated annotator after the first click; 0 leaves it out.",
    )
    boundaries: bool = Field(
        default=False, description="Also boundary IoU, boundary F, surface Dice and Hausdorff 95; takes longer."
    )
    background_clicks: int = Field(default=3, ge=0, description="Clicks per image where no object is annotated.")
    seed: int = Field(default=0, ge=0, description="Seed of the jittered boxes and the background clicks.")
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    cache: bool = Field(
        default=False,
        description="Keep the images' embeddings in the dataset's folder, unrounded, for the next evaluation.",
    )
    device: Device = "auto"

    @classmethod
    def exact_prompts(cls, split: Literal["train", "valid", "test"], max_objects: int = 0) -> EvalConfig:
        """Exact boxes and single clicks alone, for models that are compared with each other many times."""
        return cls(split=split, max_objects=max_objects, jitter=(), mask_prompt=False, clicks=0, background_clicks=0)

    @field_validator("jitter")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values) or len(set(values)) != len(values):
            raise ValueError("each jitter is a share of the box's side, above 0 and at most 1, named once")
        return tuple(sorted(values))


class ClipEvalConfig(Config):
    """What `samtune evaluate` measures on annotated clips."""

    split: Literal["train", "valid", "test"] = Field(default="test", description="Split to evaluate.")
    prompt: Literal["mask", "box", "click"] = Field(
        default="mask", description="How an object is given on the first frame that shows it."
    )
    device: Device = "auto"
