"""Where image embeddings are kept, and what `samtune embed` computes ahead of training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from samtune.config.base import Config, Device, Model


class CacheConfig(Config):
    """Where image embeddings are kept, and how."""

    cache_dir: Path | None = Field(default=None, description="Embedding cache folder; default inside the dataset.")
    cache_limit: str = Field(default="40GB", description="Largest size of the embedding cache on disk.")
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto", description="How cached embeddings are stored; auto is bf16."
    )


class EmbedConfig(CacheConfig):
    """What `samtune embed` computes ahead of training."""

    model: Model = "nano"
    split: Literal["all", "train", "valid", "test"] = Field(default="all", description="Images of which split.")
    flip: bool = Field(default=False, description="Also the mirrored training images, for training with --flip.")
    processes: int = Field(
        default=1, ge=1, description="Processes that share the images on a CPU; each loads the model."
    )
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic; auto picks what training would."
    )
