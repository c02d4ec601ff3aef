"""What all settings share: the base model and the types of fields that several of them have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Model = Annotated[str, Field(description="nano, a hub name, a checkpoint file, a Hugging Face folder or a run.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="Where to compute.")]


class Config(BaseModel):
    """Base of all settings: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
