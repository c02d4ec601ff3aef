"""The SAM 2 models samtune knows by name: their architecture, size, cost and licence.

`python -m samtune.model.catalogue` measures the figures of the official sizes that are written down here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.model.cost import Cost, cost

NANO = "nano"
"""Name of the small model that ships in the package."""
NANO_FOLDER = Path(__file__).parents[1] / "nano" / "weights"
"""Where it stands: a Hugging Face folder with fp16 weights."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A Hiera image encoder and what hangs on its size.

    Attributes:
        embed_dim: channels of the first stage; they double with each stage, as do the heads.
        num_heads: attention heads of the first stage.
        stages: blocks per stage.
        global_blocks: numbers of the blocks without windows.
        windows: window side per stage.
        background: side of the coarse position embedding.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    windows: tuple[int, int, int, int]
    background: int

    @property
    def channels(self) -> list[int]:
        """Channels per stage, first to last."""
        return [self.embed_dim * 2**stage for stage in range(len(self.stages))]

    def vision_config(self) -> dict[str, Any]:
        """The `vision_config` of transformers' `Sam2Config`, for an input of 1024 x 1024 pixels."""
        return {
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": self.embed_dim,
                "num_attention_heads": self.num_heads,
                "embed_dim_per_stage": self.channels,
                "num_attention_heads_per_stage": [self.num_heads * 2**stage for stage in range(len(self.stages))],
                "blocks_per_stage": list(self.stages),
                "global_attention_blocks": list(self.global_blocks),
                "window_size_per_stage": list(self.windows),
                "window_positional_embedding_background_size": [self.background, self.background],
            },
            "backbone_channel_list": self.channels[::-1],
        }


BACKBONES = {
    "tiny": Backbone(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), 7),
    "small": Backbone(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), 7),
    "base-plus": Backbone(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "large": Backbone(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), 7),
}
"""The official sizes. Source: `sam2/configs/sam2.1/*.yaml` and `sam2/modeling/backbones/hieradet.py`."""

COSTS = {
    "tiny": Cost(31_440_721, 292.68, 3.56),
    "small": Cost(38_538_577, 360.41, 3.56),
    "base-plus": Cost(73_328_401, 647.82, 3.56),
    "large": Cost(216_924_865, 1824.97, 3.56),
}
"""What they cost, as `cost` counts it; the decoder is the same in all of them."""

VERSIONS = ("sam2", "sam2.1")
"""The official releases; the image parts of both have the same tensors, 2.1 has three more for video."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One row of `samtune models`.

    Attributes:
        name: what `--model` takes.
        source: repository on the Hugging Face hub, or where else the weights come from.
        image_size: side of the square input in pixels.
        cost: parameters and operations of the image model.
        licence: SPDX name.
    """

    name: str
    source: str
    image_size: int
    cost: Cost
    licence: str


def catalogue() -> list[KnownModel]:
    """Every model known by name, the one in the package first (where the package holds it)."""
    official = [
        KnownModel(f"{version}-{size}", f"facebook/{version}-hiera-{size}", 1024, COSTS[size], "Apache-2.0")
        for version in reversed(VERSIONS)
        for size in BACKBONES
    ]
    described = NANO_FOLDER / "config.json"
    if not described.is_file():
        return official
    config = json.loads(described.read_text(encoding="utf-8"))
    size = int(config["prompt_encoder_config"]["image_size"])
    return [KnownModel(NANO, "in the package", size, cost(config), "Apache-2.0"), *official]


def _aliases() -> dict[str, str]:
    """Every accepted spelling of an official model, and its hub repository."""
    names: dict[str, str] = {}
    for version in VERSIONS:
        for size in BACKBONES:
            hub = f"facebook/{version}-hiera-{size}"
            names |= {f"{version}-{size}": hub, f"{version}-hiera-{size}": hub, hub: hub}
    return names


ALIASES = _aliases()
"""Accepted spellings of the official models, and the hub repository of each."""


def hub_name(name: str) -> str | None:
    """The hub repository of an official model's name or alias, or None where the name is not one."""
    return ALIASES.get(name.lower())


def suggest(name: str) -> str:
    """`did you mean ...?` for a name that resembles a known one or a sibling of a path, else nothing."""
    candidates: Iterable[str] = [NANO, *ALIASES]
    path = Path(name)
    if path.parent.is_dir() and path.name:
        candidates = [*candidates, *(str(path.parent / entry.name) for entry in path.parent.iterdir())]
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def architecture_name(config: Mapping[str, Any]) -> str | None:
    """The official model whose architecture this is, such as `sam2.1-hiera-tiny`, or None.

    Without video parts 2.0 and 2.1 are alike, and count as 2.1.
    """
    vision = config["vision_config"]
    backbone = vision["backbone_config"]
    for size, known in BACKBONES.items():
        if _same_backbone(backbone, known) and config["prompt_encoder_config"].get("image_size", 1024) == 1024:
            older = config.get("enable_occlusion_spatial_embedding") is False
            return f"{'sam2' if older else 'sam2.1'}-hiera-{size}"
    return None


def _same_backbone(config: Mapping[str, Any], known: Backbone) -> bool:
    wanted = known.vision_config()["backbone_config"]
    return all(config.get(key) == value for key, value in wanted.items() if key != "model_type")


if __name__ == "__main__":
    for name, backbone in BACKBONES.items():
        print(name, cost({"model_type": "sam2", "vision_config": backbone.vision_config()}))
