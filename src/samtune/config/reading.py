"""Which part of an image file is looked at, and how: the same options for preparing and for predicting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from samtune.config.base import Config


class ReadingConfig(Config):
    """Tiles of large images, bands and pages, and how values of more than 8 bits are stretched."""

    tile: int = Field(
        default=0, ge=0, description="Cut images with a longer side into overlapping tiles of this side; 0 cuts none."
    )
    halo: int = Field(default=128, ge=0, description="Margin of a tile that its neighbours see too, in pixels.")
    bands: str = Field(
        default="", description="Bands that become red, green and blue, such as 4,3,2, or one band; the first is 1."
    )
    channel: int = Field(default=0, ge=0, description="A single band to read as gray; the first is 1.")
    page: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=1,
        description="Page of files with several pages, the first is 1; all takes each as an image of its own.",
    )
    percentiles: str = Field(
        default="0.1,99.9", description="Percentiles that become black and white, of values of more than 8 bits."
    )

    @property
    def band_numbers(self) -> tuple[int, ...]:
        """`bands`, or `channel`, as numbers that count from 1; empty where the file's own colours are read."""
        return (self.channel,) if self.channel else _bands(self.bands)

    @property
    def page_number(self) -> int:
        """`page` as a number; 1 where it is all."""
        return 1 if self.page == "all" else self.page

    @property
    def percentile_pair(self) -> tuple[float, float]:
        """`percentiles` as numbers."""
        return _percentiles(self.percentiles)

    @model_validator(mode="after")
    def _images_can_be_read_so(self) -> ReadingConfig:
        if self.bands and self.channel:
            raise ValueError("give bands or channel, not both")
        _bands(self.bands)
        _percentiles(self.percentiles)
        if self.tile and self.tile < 64:
            raise ValueError(f"tile is at least 64 pixels, unlike {self.tile}")
        if self.tile and 4 * self.halo > self.tile:
            raise ValueError(f"halo is at most a quarter of tile, {self.tile // 4}, unlike {self.halo}")
        return self


def _bands(text: str) -> tuple[int, ...]:
    """One or three bands, counted from 1, from text such as `4,3,2`; none from an empty one."""
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (0,)
    if len(numbers) not in (0, 1, 3) or any(number < 1 for number in numbers):
        raise ValueError(f"bands are one or three numbers from 1, such as 4,3,2, unlike {text!r}")
    return numbers


def _percentiles(text: str) -> tuple[float, float]:
    """Two percentiles from text such as `0.1,99.9`."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles are two rising numbers from 0 to 100, such as 0.1,99.9, unlike {text!r}")
    return low, high
