"""Pre-training of the small model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from samtune.config.base import Config, Fraction
from samtune.config.training import LossConfig


class PretrainStage(Config):
    """A stretch of pre-training with one input size."""

    subject: Literal["prompts", "scenes"] = Field(
        default="scenes",
        description="prompts: decoder and prompt encoder alone, on noise; scenes: everything, on images.",
    )
    learns: Literal["all", "decoder", "encoder"] = Field(
        default="all",
        description="decoder: prompt encoder and mask decoder alone; the image encoder only computes. encoder: the "
        "image encoder alone, from `neighbours`; nothing is asked of the decoder.",
    )
    size: int = Field(ge=64, multiple_of=64, description="Side of the input, in pixels.")
    small_share: Fraction = Field(
        default=0.0,
        description="Share of the steps whose input has two thirds of the side, for less than half the work.",
    )
    steps: int = Field(ge=1, description="Optimizer steps.")
    images: int = Field(default=2, ge=1, description="Images per step.")
    objects: int = Field(default=12, ge=1, description="Most objects per image and step.")
    small_boxes: int = Field(
        default=0,
        ge=0,
        description="Further boxes per image, of 4 to 24 pixels anywhere in it, whose answer is the ellipse inside: "
        "they teach where a small box is.",
    )
    neighbours: float = Field(
        default=0.0,
        ge=0.0,
        description="Weight of a second task for the encoder: which pixels around a pixel belong to the same object.",
    )
    neighbour_objects: int = Field(
        default=24, ge=1, description="Most objects per image that this task is about; `objects` of them are asked for."
    )
    lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at the stage's start.")
    final_lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at its end; a straight line in between.")
    warmup: int = Field(default=50, ge=0, description="Steps of linear warm-up.")
    corrections: Fraction = Field(
        default=0.5,
        description="Share of steps with a correction click on the first mask; the same share of those goes on, to 3.",
    )
    whole: Fraction = Field(
        default=0.4, description="Share of the views of real images that show all of the image, as users' images are."
    )
    paste: Fraction = Field(default=0.0, description="Share of views with objects of other real images laid over them.")
    degrade: bool = Field(default=False, description="Sometimes blur, add noise, or compress once more.")
    loss: LossConfig = LossConfig(focal=0.0, bce=1.0)

    @model_validator(mode="after")
    def _an_encoder_alone_has_a_task(self) -> PretrainStage:
        if self.learns == "encoder" and not self.neighbours:
            raise ValueError("learns: encoder needs neighbours above 0, since that task is all that it learns from")
        return self

    @property
    def teaches_neighbours(self) -> bool:
        """Whether the encoder has its second task in this stage: not where it only computes."""
        return self.neighbours > 0 and self.learns != "decoder"

    @property
    def small_size(self) -> int:
        """Side of the input in the steps that `small_share` is about: two thirds, in whole units of 64 pixels."""
        return max(64, self.size * 2 // 3 // 64 * 64)


_SHARP = LossConfig(focal=20.0, focal_alpha=-1.0, area_bce=0.3)


class PretrainConfig(Config):
    """Pre-training of `nano` from random weights, or from given ones, on procedural scenes and real images."""

    out: Path = Field(
        default=Path("runs/nano"), description="Folder for scenes, checkpoints and the log; run again to continue."
    )
    start: str | None = Field(
        default=None, description="A model to start from, such as nano, instead of random weights."
    )
    images: tuple[Path, ...] = Field(
        default=(),
        description="Real images with masks: prepared datasets, annotations in any format, or folders of such sets.",
    )
    shares: tuple[Fraction, ...] = Field(
        default=(), description="Share of the views for each of --images; empty divides --real-share by their sets."
    )
    real_share: Fraction = Field(default=0.75, description="Share of the views that show real images; the rest scenes.")
    hold_out: tuple[str, ...] = Field(default=(), description="Names of sets that only measure.")
    background: tuple[str, ...] = Field(
        default=(), description="Names of sets with every object labelled: elsewhere in them is nothing."
    )
    incomplete: tuple[str, ...] = Field(
        default=(), description="Names of sets known to lack labels; refused in --background."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to compute.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Arithmetic; auto takes bf16 where the hardware has units for it."
    )
    scenes: int = Field(default=4000, ge=1, description="Scenes to draw before training.")
    scene_size: int = Field(default=512, ge=64, description="Side of the drawn scenes, in pixels.")
    held_out: int = Field(default=40, ge=1, description="Further scenes that only measure.")
    workers: int = Field(default=0, ge=0, description="Processes that draw scenes; 0 means one per core.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, scenes and training.")
    weight_decay: float = Field(default=0.05, ge=0.0, description="Weight decay of matrices.")
    clip: float = Field(default=1.0, gt=0.0, description="Largest gradient norm.")
    ema: float = Field(
        default=0.998, ge=0.0, lt=1.0, description="Decay of the moving average of the weights, which is what ships."
    )
    save_every: int = Field(default=200, ge=1, description="Steps between checkpoints.")
    measure_every: int = Field(default=1000, ge=1, description="Steps between measurements on the held-out scenes.")
    stages: tuple[PretrainStage, ...] = (
        PretrainStage(subject="prompts", size=128, steps=600, images=4, objects=24),
        PretrainStage(size=128, steps=1500, images=4),
        PretrainStage(size=192, steps=1500, images=4, loss=LossConfig(focal=10.0, focal_alpha=-1.0, bce=0.2)),
        PretrainStage(size=256, steps=1400, images=3, objects=9, lr=3e-4, final_lr=1.8e-4, loss=_SHARP),
        PretrainStage(size=384, steps=1600, images=4, lr=1.5e-4, final_lr=2e-6, corrections=0.35, loss=_SHARP),
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> PretrainConfig:
        if self.shares and len(self.shares) != len(self.images):
            raise ValueError(f"shares has {len(self.shares)} numbers for {len(self.images)} of images: one each")
        if sum(self.shares) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(self.shares):g}: at most 1, the rest are scenes")
        return self
