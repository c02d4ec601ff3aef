"""What `samtune predict` asks about each image."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from samtune.config.base import Config, Device, Fraction
from samtune.config.reading import ReadingConfig
from samtune.errors import ConfigError
from samtune.types import Box

LEAST_IOU_SCORE, LEAST_STABILITY = 0.7, 0.85
"""Thresholds of a model for which none were chosen on annotated images."""

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif"})
"""Files that are opened as a video."""


def is_video_file(path: Path) -> bool:
    """Whether a path is a video file by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


class AutomaticConfig(Config):
    """Finding everything in an image, from a grid of clicks."""

    points_per_side: int = Field(default=16, ge=1, le=128, description="Clicks per side of the grid.")
    crop_layers: int = Field(
        default=0, ge=0, le=3, description="Also look at crops: 2 x 2 of them in layer 1, 4 x 4 in layer 2, and so on."
    )
    min_iou_score: Fraction | None = Field(
        default=None,
        description=f"Least predicted IoU of a mask that is kept, 0 to 1; left out, what `samtune fit-grid` chose for "
        f"the run, else {LEAST_IOU_SCORE}.",
    )
    min_stability: Fraction | None = Field(
        default=None,
        description=f"Least IoU of a mask with itself at a stricter threshold, 0 to 1; left out, what `samtune "
        f"fit-grid` chose for the run, else {LEAST_STABILITY}.",
    )
    duplicate_iou: Fraction = Field(
        default=0.7, description="Of two masks with a higher IoU only the better one is kept, 0 to 1."
    )
    min_area: int = Field(default=16, ge=1, description="Smallest mask, in pixels of the image.")
    chunk: int = Field(default=64, ge=1, description="Clicks per decoder call.")
    crop_batch: int = Field(default=4, ge=1, description="Crops per encoder call.")

    @property
    def least_iou_score(self) -> float:
        """`min_iou_score`, or the default."""
        return LEAST_IOU_SCORE if self.min_iou_score is None else self.min_iou_score

    @property
    def least_stability(self) -> float:
        """`min_stability`, or the default."""
        return LEAST_STABILITY if self.min_stability is None else self.min_stability


class FixedPromptsConfig(ReadingConfig):
    """Prompts of the command line, and how the images they are about are read."""

    boxes: Path | None = Field(
        default=None,
        description="COCO annotations or detections (JSON) whose boxes are prompts; with --many also CSV or Parquet.",
    )
    box: tuple[str, ...] = Field(
        default=(), description="A box x0,y0,x1,y1 in pixels, for every image; may be repeated."
    )
    point: tuple[str, ...] = Field(
        default=(), description="A positive click x,y in pixels, one object each, for every image; may be repeated."
    )
    like: Path | None = Field(
        default=None,
        description="Prepared dataset whose bands and stretch are used; that of a run if left out.",
    )
    device: Device = "auto"

    @property
    def fixed_boxes(self) -> list[Box]:
        """`box` as numbers, xyxy in pixels."""
        return [parse_box(text) for text in self.box]

    @property
    def fixed_points(self) -> list[tuple[float, float]]:
        """`point` as numbers, xy in pixels."""
        return [_point(text) for text in self.point]

    @field_validator("box")
    @classmethod
    def _boxes_are_numbers(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            parse_box(text)
        return texts

    @field_validator("point")
    @classmethod
    def _points_are_numbers(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            _point(text)
        return texts


class ShardsConfig(Config):
    """How many images are shared out among processes."""

    shard_images: int = Field(default=1000, ge=1, description="Images in a shard, which is what a dead process costs.")
    images_root: Path | None = Field(
        default=None, description="Folder that the manifest's paths are relative to; left out, the manifest's own."
    )
    encode_batch: int = Field(
        default=0, ge=0, description="Images per encoder call; 0 means 8 on a GPU, on a CPU what fits its caches."
    )
    threads: int = Field(
        default=0, ge=0, description="Threads that read images and write masks; 0 means one per core, at most 8."
    )


class PredictConfig(FixedPromptsConfig):
    """What `samtune predict` asks about each image."""

    everything: bool = Field(default=False, description="Segment everything, from a grid of clicks.")
    automatic: AutomaticConfig = AutomaticConfig()
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")

    def require_prompts(self) -> None:
        """Refuse settings that ask nothing.

        Raises:
            ConfigError: no boxes, no clicks, and not `everything`.
        """
        if not (self.boxes or self.box or self.point or self.everything):
            raise ConfigError.of(
                expected="prompts: --boxes FILE, --box x0,y0,x1,y1, --point x,y, or --everything", found="none"
            )


class ClipConfig(Config):
    """What only a clip's frames can be asked."""

    frame: int = Field(default=0, ge=0, description="Frame of a clip that --box and --point are about; the first is 0.")
    prompts: Path | None = Field(
        default=None, description="JSON file with boxes, clicks and masks on any frames of a clip (docs/video.md)."
    )
    backwards: bool = Field(
        default=False, description="Also follow objects back to a clip's first frame, from where they are prompted."
    )


class TrackConfig(FixedPromptsConfig, ClipConfig):
    """What is followed through a clip; `box` and `point` are one object each, `boxes` are about its frames."""

    @model_validator(mode="after")
    def _frames_are_looked_at_whole(self) -> TrackConfig:
        if self.tile:
            raise ValueError("the frames of a clip are looked at whole: leave out tile")
        return self

    def require_prompts(self) -> None:
        """Refuse settings that ask nothing.

        Raises:
            ConfigError: no boxes and no clicks.
        """
        if not (self.boxes or self.box or self.point or self.prompts):
            raise ConfigError.of(
                expected="prompts: --boxes FILE, --prompts FILE, --box x0,y0,x1,y1 or --point x,y", found="none"
            )


def parse_box(text: str) -> Box:
    """A box xyxy from x0,y0,x1,y1; ValueError for anything else."""
    numbers = _numbers(text)
    if len(numbers) != 4 or numbers[2] <= numbers[0] or numbers[3] <= numbers[1]:
        raise ValueError("a box is x0,y0,x1,y1 with x1 above x0 and y1 above y0")
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


def _point(text: str) -> tuple[float, float]:
    numbers = _numbers(text)
    if len(numbers) != 2:
        raise ValueError("a point is x,y")
    return numbers[0], numbers[1]


def _numbers(text: str) -> tuple[float, ...]:
    """Finite numbers between commas; none where anything else stands there."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()
