"""A loaded model as a value: transformers' `Sam2Model` with its configuration, and the weights only video needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Sam2Model

from samtune.model.architecture import input_size
from samtune.model.io.tensors import hash_tensors


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to use.

    Attributes:
        model: in eval mode, every parameter frozen.
        name: what it was asked for by.
        source: where its weights were read from: a path, or `hub:REPOSITORY`.
        family: `sam2.1-hiera-tiny` and the like, `nano`, or `custom`; a tuned model keeps the family of its base.
        base: name of the model it was tuned from; its own name where it was not tuned.
        config: the configuration as in `config.json`, video parts included.
        video_state: weights only video needs, in transformers' names, untouched; empty where there are none.
    """

    model: Sam2Model
    name: str
    source: str
    family: str
    base: str
    config: dict[str, Any] = field(repr=False)
    video_state: dict[str, Tensor] = field(repr=False)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return input_size(self.model)

    @property
    def mask_size(self) -> int:
        """Side of low-res masks in pixels, a quarter of `image_size`."""
        return self.image_size // 4

    def fingerprint(self) -> str:
        """sha256 over names, types, shapes and bytes of the image model's weights, hexadecimal."""
        return hash_tensors(self.model.state_dict())
