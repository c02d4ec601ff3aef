"""What `samtune prepare` does with a source."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from samtune.config.base import Fraction
from samtune.config.reading import ReadingConfig
from samtune.types import SourceFormat


class PrepareConfig(ReadingConfig):
    """How `samtune prepare` turns a source into a dataset."""

    source_format: SourceFormat = Field(
        default="auto", description="Format of the source; auto recognises it from its files."
    )
    images: Path | None = Field(default=None, description="Image folder, when the annotation file stands elsewhere.")
    crowd: Literal["auto", "objects", "regions"] = Field(
        default="auto",
        description="What COCO's iscrowd marks: single objects, as CVAT's painted masks, or regions of many.",
    )
    mask_pattern: str = Field(
        default="",
        description="How masks are named, {stem} for the image's name, such as masks/{stem}_x.png; empty tells.",
    )
    mask_format: Literal["png", "jpg"] = Field(
        default="png", description="Mask files; jpg is lossy and read back thresholded."
    )
    merge: Literal["none", "image", "category"] = Field(
        default="none", description="Also write one merged mask per image or category."
    )
    copy_images: bool = Field(
        default=False, description="Copy the images into the dataset instead of pointing at them."
    )
    on_error: Literal["auto", "fail", "skip"] = Field(
        default="auto", description="What unusable objects do: fail, skip, or auto (skip, but fail above --max-broken)."
    )
    max_broken: Fraction = Field(default=0.1, description="Share of unusable objects above which auto fails, 0 to 1.")
    split: str = Field(
        default="",
        description="New train,valid,test shares; empty keeps the source's splits, or 0.8,0.1,0.1 if it has none.",
    )
    group_by: str = Field(
        default="source",
        description="What must not be split apart: source, folder, or a regex whose group 1 is the key.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the split.")
    min_area: int = Field(default=1, ge=1, description="Smallest usable object, in mask pixels.")
    stretch: Literal["image", "set"] = Field(
        default="image", description="Whose percentiles become black and white, for values of more than 8 bits."
    )
    workers: int = Field(default=0, ge=0, description="Processes; 0 means one per core.")

    @property
    def shares(self) -> tuple[float, float, float] | None:
        """`split` as numbers, or None where the source's splits are kept."""
        return _shares(self.split) if self.split else None

    @model_validator(mode="after")
    def _merged_masks_are_of_whole_images(self) -> PrepareConfig:
        if self.tile and self.merge != "none":
            raise ValueError("merged masks are of whole images: leave out merge, or tile")
        return self

    @model_validator(mode="after")
    def _split_is_three_shares(self) -> PrepareConfig:
        if self.split:
            _shares(self.split)
        return self


def _shares(text: str) -> tuple[float, float, float]:
    """Three shares that add up to 1, from text such as `0.8,0.1,0.1`."""
    try:
        train, valid, test = (float(share) for share in text.split(","))
    except ValueError:
        raise ValueError(f"split is three numbers such as 0.8,0.1,0.1, not {text!r}") from None
    if min(train, valid, test) < 0 or abs(train + valid + test - 1) > 1e-6:
        raise ValueError(f"the shares of split must not be negative and must add up to 1, unlike {text!r}")
    return train, valid, test
