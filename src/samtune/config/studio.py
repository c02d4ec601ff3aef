"""How `samtune studio` is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from samtune.config.base import Config, Device

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class StudioConfig(Config):
    """The studio: one person annotates in a browser on this machine."""

    base: str | None = Field(
        default=None, description="Model to show beside; left out, the one --model was tuned from."
    )
    out: Path | None = Field(
        default=None, description="Folder for what is annotated; default studio/NAME. An earlier one goes on."
    )
    classes: tuple[ClassName, ...] = Field(default=(), description="Classes to begin with, beside those of the source.")
    port: int = Field(default=0, ge=0, le=65_535, description="Port on this machine; 0 takes any free one.")
    browser: bool = Field(default=True, description="Open the page in a browser.")
    device: Device = "auto"
