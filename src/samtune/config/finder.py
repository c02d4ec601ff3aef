"""The finder: how it is trained, and how its finds are chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from samtune.config.base import Config, Device, Fraction


class FinderConfig(Config):
    """How a finder is trained on a dataset's own masks, from the image embeddings that training keeps."""

    classes: Literal["all", "none"] = Field(
        default="all", description="all learns the dataset's class names; none finds objects without naming them."
    )
    steps: int = Field(default=1000, ge=1, description="Optimizer steps of a round.")
    rounds: int = Field(
        default=4,
        ge=1,
        description="Rounds at most. After the first one another follows, from half the rate, only where the network "
        "has not yet learned its own training images and the last round has made boxes on validation better.",
    )
    images_per_step: int = Field(default=4, ge=1, description="Images per step.")
    lr: float = Field(
        default=2e-3, gt=0.0, description="Learning rate at the start; a cosine to 0 follows in each round."
    )
    weight_decay: float = Field(default=0.05, ge=0.0, description="Weight decay of matrices.")
    width: int = Field(default=64, ge=8, multiple_of=8, description="Channels inside the network.")
    dropout: Fraction = Field(
        default=0.2,
        le=0.9,
        description="Share of the features' channels that a step leaves out, each image others.",
    )
    context: bool = Field(
        default=True, description="Dilated convolutions at stride 16, for large and for thin objects."
    )
    objects_per_image: int = Field(
        default=64, ge=1, description="Objects per image and step whose class is learned; all boxes are, always."
    )
    views: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Views of each training image to learn from: 2 adds its mirror image, then come turned, recoloured "
        "and cropped ones. Each is embedded once. 0 means as many as make about 200 of them, at most 16 "
        "and no more than the steps look at ten times.",
    )
    looks: int = Field(
        default=0,
        ge=0,
        le=2,
        description="How often it looks at an image to find: 2 means at its mirror image too, and takes the mean of "
        "both, for which the encoder runs twice. 0 means 2 where boxes on validation get better by it, else 1.",
    )
    eval_every: int = Field(default=0, ge=0, description="Steps between validations; 0 means an eighth of a round.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    device: Device = "auto"


class FindConfig(Config):
    """Which of a finder's finds are kept."""

    threshold: Fraction | None = Field(
        default=None, description="Least calibrated score, 0 to 1; left out, half of the best F1 on validation."
    )
    precision: Fraction | None = Field(
        default=None, description="Keep what gives this precision on validation, and as many finds as that allows."
    )
    recall: Fraction | None = Field(
        default=None, description="Keep what gives this recall on validation, and as few finds as that needs."
    )

    @model_validator(mode="after")
    def _one_wish(self) -> FindConfig:
        wishes = [name for name in ("threshold", "precision", "recall") if getattr(self, name) is not None]
        if len(wishes) > 1:
            raise ValueError(f"{' and '.join(wishes)} are given: they choose the same thing, so give one")
        return self


class FindEvalConfig(FindConfig):
    """What is measured of a finder."""

    split: Literal["train", "valid", "test"] = Field(default="test", description="Split to evaluate.")
    grid: bool = Field(default=True, description="Also find by a grid of clicks, which takes seconds an image.")
    chunk: int = Field(default=32, ge=1, description="Prompts per decoder call.")
    device: Device = "auto"
