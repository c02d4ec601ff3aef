"""What `samtune predict` asks about each image."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from samtune.config.base import Config, Device, Fraction


class AutomaticConfig(Config):
    """Finding everything in an image, from a grid of clicks."""

    points_per_side: int = Field(default=16, ge=1, le=128, description="Clicks per side of the grid.")
    min_iou_score: Fraction = Field(default=0.7, description="Least predicted IoU of a mask that is kept, 0 to 1.")
    min_stability: Fraction = Field(
        default=0.85, description="Least IoU of a mask with itself at a stricter threshold, 0 to 1."
    )
    duplicate_iou: Fraction = Field(
        default=0.7, description="Of two masks with a higher IoU only the better one is kept, 0 to 1."
    )
    min_area: int = Field(default=16, ge=1, description="Smallest mask, in pixels of the image.")
    chunk: int = Field(default=64, ge=1, description="Clicks per decoder call.")


class PredictConfig(Config):
    """What `samtune predict` asks about each image."""

    boxes: Path | None = Field(
        default=None, description="COCO annotations or detections (JSON) whose boxes are prompts."
    )
    box: tuple[str, ...] = Field(
        default=(), description="A box x0,y0,x1,y1 in pixels, for every image; may be repeated."
    )
    point: tuple[str, ...] = Field(
        default=(), description="A positive click x,y in pixels, one object each, for every image; may be repeated."
    )
    everything: bool = Field(default=False, description="Segment everything, from a grid of clicks.")
    automatic: AutomaticConfig = AutomaticConfig()
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    device: Device = "auto"
