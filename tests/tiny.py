"""A random SAM 2 small enough to decode in milliseconds: the real architecture with narrow layers and 64 px input."""

from __future__ import annotations

import torch
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from samtune.nano.architecture import reset_layers

TINY_SIZE = 64


def tiny_config(size: int = TINY_SIZE) -> Sam2Config:
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[size, size],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[size // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=size),
        mask_decoder_config=Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=64, num_attention_heads=4),
    )


def tiny_sam2(seed: int, size: int = TINY_SIZE) -> Sam2Model:
    """The model of `tiny_config` with random weights."""
    return random_sam2(tiny_config(size), seed)


def random_sam2(config: Sam2Config, seed: int) -> Sam2Model:
    """Layers as PyTorch starts them, embeddings from N(0, 1), one matrix for the positions of prompts and pixels."""
    torch.manual_seed(seed)
    model = Sam2Model(config)
    reset_layers(model)
    pixels = model.shared_image_embedding.positional_embedding
    positions = torch.randn(pixels.shape)
    with torch.no_grad():
        model.no_memory_embedding.normal_()
        pixels.copy_(positions)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model.eval().requires_grad_(False)
