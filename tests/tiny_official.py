"""A random SAM 2 as small as the official code can build one: 128 px input, 16 channels. See
`tests/parity/tiny.yaml`."""

from __future__ import annotations

from typing import Any

from transformers import Sam2Model

from samtune.model.architecture import image_config
from tests.tiny import random_sam2

TINY_OFFICIAL: dict[str, Any] = {
    "model_type": "sam2",
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "num_attention_heads": 1,
            "image_size": [128, 128],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "blocks_per_stage": [1, 1, 2, 1],
            "global_attention_blocks": [3],
            "window_size_per_stage": [8, 4, 8, 4],
            "window_positional_embedding_background_size": [4, 4],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 16,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 128},
    "mask_decoder_config": {"hidden_size": 16},
}
"""What `tests/parity/tiny.yaml` says, in transformers' words."""

TINY_OFFICIAL_VIDEO: dict[str, Any] = TINY_OFFICIAL | {
    "model_type": "sam2_video",
    "vision_config": TINY_OFFICIAL["vision_config"] | {"fpn_hidden_size": 128},
    "prompt_encoder_config": {"hidden_size": 128, "image_size": 128},
    "mask_decoder_config": {"hidden_size": 128},
    "image_size": 128,
    "num_maskmem": 4,
    "max_object_pointers_in_encoder": 5,
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 2,
    "memory_attention_feed_forward_hidden_size": 64,
    "memory_attention_rope_feat_sizes": [8, 8],
    "memory_encoder_hidden_size": 128,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 512,
}
"""What `tests/parity/tiny_video.yaml` says: the same with a memory, which wants 128 channels or more."""


def tiny_official(seed: int) -> Sam2Model:
    """That model with random weights."""
    return random_sam2(image_config(TINY_OFFICIAL), seed)
