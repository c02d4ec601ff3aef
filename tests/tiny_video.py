"""A random SAM 2 with memory, small enough to follow objects in milliseconds: the real video model at 64 px."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from samtune.model.architecture import VIDEO, image_config
from samtune.model.io.loaded import LoadedModel
from samtune.nano.architecture import reset_layers
from tests.tiny import TINY_SIZE, random_sam2

WIDTH, MEMORY = 128, 64
"""transformers writes 64 down as the width of memories, and cuts wider pointers into pieces of it."""


def tiny_video_config() -> dict[str, Any]:
    """Everything narrow; what is looked back at is short, so that it is forgotten within a few frames."""
    return {
        "model_type": VIDEO,
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [TINY_SIZE, TINY_SIZE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [4, 4, 4, 4],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[TINY_SIZE // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": WIDTH,
        },
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": TINY_SIZE},
        "mask_decoder_config": {"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 4},
        "image_size": TINY_SIZE,
        "num_maskmem": 4,
        "max_object_pointers_in_encoder": 6,
        "memory_attention_hidden_size": WIDTH,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_rope_feat_sizes": [TINY_SIZE // 16] * 2,
        "memory_encoder_hidden_size": WIDTH,
        "memory_encoder_output_channels": MEMORY,
        "mask_downsampler_embed_dim": WIDTH,
        "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": 64,
    }


def tiny_video(seed: int) -> LoadedModel:
    """That model with random weights that matter: no scale, norm or embedding left constant."""
    config = tiny_video_config()
    image = random_sam2(image_config(config), seed)
    whole = Sam2VideoModel(Sam2VideoConfig(**{k: v for k, v in config.items() if k != "model_type"}))
    reset_layers(whole)
    state = image.state_dict()
    memory = {name: tensor for name, tensor in whole.state_dict().items() if name not in state}
    for tensor in memory.values():
        if tensor.min() == tensor.max():
            tensor.add_(0.5 * torch.randn(tensor.shape))
    described = whole.config.to_dict() | {"model_type": VIDEO}
    return LoadedModel(image, "tiny-video", "random", "custom", "tiny-video", described, memory)
