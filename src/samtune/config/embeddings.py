"""Where image embeddings are kept, and what `samtune embed` computes ahead of training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from samtune.config.base import Config, Device, Model


class CacheConfig(Config):
    """Where image embeddings are kept, and how."""

    cache_dir: Path | None = Field(default=None, description="Embedding cache folder; default inside the dataset.")
    cache_limit: str = Field(default="40GB", description="Largest size of the embedding cache on disk.")
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto", description="How cached embeddings are stored; auto is bf16."
    )

    @property
    def cache_bytes(self) -> int:
        """`cache_limit` in bytes."""
        return parse_size(self.cache_limit)

    @field_validator("cache_limit")
    @classmethod
    def _limit_is_a_size(cls, value: str) -> str:
        parse_size(value)
        return value


class EmbedConfig(CacheConfig):
    """What `samtune embed` computes ahead of training."""

    model: Model = "nano"
    split: Literal["all", "train", "valid", "test"] = Field(default="all", description="Images of which split.")
    flip: bool = Field(default=False, description="Also the mirrored training images, for training with --flip.")
    views: int = Field(
        default=1, ge=1, le=16, description="Also the other views of the training images, for training with --views."
    )
    processes: int = Field(
        default=1, ge=1, description="Processes that share the images on a CPU; each loads the model."
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what training would."
    )

    @model_validator(mode="after")
    def _mirrored_once(self) -> EmbedConfig:
        refuse_flip_and_views(self.flip, self.views)
        return self


def refuse_flip_and_views(flip: bool, views: int) -> None:
    """Views hold the mirrored image already.

    Raises:
        ValueError: both are asked for.
    """
    if flip and views > 1:
        raise ValueError("expected flip or views, not both: leave flip out, a mirrored view is one of several")


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*")
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str) -> int:
    """Bytes from `40GB`, `500 MB`, `1.5TB` or a plain number; units are powers of 1000.

    Raises:
        ValueError: not such a size, or not above 0.
    """
    match = _SIZE.fullmatch(text.upper())
    size = int(float(match[1]) * _FACTORS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError("expected a size above 0 such as 40GB or 500MB")
    return size
