"""How prompts are made from masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from samtune.config.base import Config, Fraction


class PromptPolicy(Config):
    """How prompts are made from masks. Training and validation use the same policy type with different values.

    Source of the noise and the corrections: the official SAM 2 training recipe (box noise of 10 % of the side, at most
    20 px at 1024; correction clicks from the error region, 10 % of them from the object itself).
    """

    box: float = Field(default=1.0, ge=0.0, description="Weight of box prompts.")
    point: float = Field(default=0.0, ge=0.0, description="Weight of single positive clicks.")
    box_jitter: Fraction = Field(
        default=0.1, description="Box noise: each edge moves by up to this share of the side, 0 to 1."
    )
    box_jitter_max: float = Field(
        default=20 / 1024, ge=0.0, le=1.0, description="Largest box noise, as a share of the model's input side."
    )
    point_at: Literal["random", "center"] = Field(
        default="random", description="Clicks anywhere in the region, or at its deepest pixel."
    )
    correction_clicks: int = Field(default=0, ge=0, le=15, description="Correction clicks after the first prompt.")
    correction_from_object: Fraction = Field(
        default=0.1, description="Share of correction clicks drawn from the object, not the error."
    )
    negative: Fraction = Field(default=0.0, description="Share of prompts on background, whose answer is 'no object'.")

    @model_validator(mode="after")
    def _some_kind(self) -> PromptPolicy:
        if self.box + self.point <= 0:
            raise ValueError("prompts.box and prompts.point are both 0: give at least one of them a weight")
        return self
