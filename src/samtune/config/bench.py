"""What `samtune bench` measures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from samtune.config.base import Config, Device, Model


class BenchConfig(Config):
    """What `samtune bench` measures, and the run whose time it tells."""

    model: Model = "nano"
    steps: int = Field(default=3000, ge=1, description="Optimizer steps of the run to estimate.")
    images: int = Field(default=200, ge=1, description="Training images of the run to estimate.")
    views: int = Field(default=1, ge=1, le=16, description="Views of each image of the run to estimate.")
    rounds: int = Field(
        default=3, ge=1, le=1000, description="Turns of ten steps that each setting and decoder path gets."
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what training would."
    )
