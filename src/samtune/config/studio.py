"""How `samtune studio` is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from samtune.config.base import Config, Device
from samtune.config.inference import parse_box

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
    image: str = Field(default="", description="Image to open first: its path in the source, or a name it has alone.")
    box: str = Field(default="", description="x0,y0,x1,y1 in pixels of that image; the object there is selected.")
    device: Device = "auto"

    @model_validator(mode="after")
    def _box_is_about_an_image(self) -> StudioConfig:
        if self.box:
            parse_box(self.box)
            if not self.image:
                raise ValueError("a box says where in --image to look: name that too")
        return self
