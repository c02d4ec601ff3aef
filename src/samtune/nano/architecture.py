"""The architecture of `nano`, the small SAM 2 that ships with samtune, and its state before any training.

The same modules as every SAM 2.1 (Hiera, FPN, prompt encoder, mask decoder with IoU and object score) in 5.7 M
parameters. The official code fixes some widths in its source (8 decoder heads, 2048 in the decoder's MLP, 256 in the
IoU head); nano keeps those, so that the official code can run its export.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

NANO_SIZE = 384
"""Side of nano's input in pixels."""

_WIDTHS = [48, 96, 192, 384]
HIDDEN = 128
"""Width of the prompt encoder, the mask decoder and the image embedding."""
_FREQUENCIES = (0.5, 3.0)


def nano_config(size: int = NANO_SIZE) -> Sam2Config:
    """The configuration of nano.

    Args:
        size: side of the input in pixels, a multiple of 64. The weights fit any size; training starts with small ones.

    Returns:
        A `Sam2Config` that `Sam2Model` and, after export, the official code can build.
    """
    backbone = Sam2HieraDetConfig(
        hidden_size=_WIDTHS[0],
        num_attention_heads=1,
        image_size=[size, size],
        blocks_per_stage=[1, 2, 3, 1],
        embed_dim_per_stage=_WIDTHS,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 8, 8, 8],
        global_attention_blocks=[4, 5],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=_WIDTHS[::-1],
        backbone_feature_sizes=[[size // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=HIDDEN,
        # SAM 2's pyramid has 1x1 convolutions; in an encoder this small nothing else compares a pixel with the next one
        fpn_kernel_size=3,
        fpn_padding=1,
    )
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=HIDDEN, image_size=size),
        mask_decoder_config=Sam2MaskDecoderConfig(hidden_size=HIDDEN),
    )


def untrained_nano(seed: int, size: int = NANO_SIZE) -> Sam2Model:
    """Nano with random weights that can learn, drawn from torch's global generator after seeding it.

    transformers' own initialisation (std 0.02 everywhere, two different matrices for the positions of prompts and
    pixels) stalls. As in the official code, layers start as PyTorch's defaults and embeddings from N(0, 1), and prompts
    and pixels share one matrix; its frequencies are spread over more octaves than the official N(0, 1), because a small
    model at low resolution has to tell places apart with 64 of them.
    """
    torch.manual_seed(seed)
    model = Sam2Model(nano_config(size))
    reset_layers(model)
    low, high = torch.tensor(_FREQUENCIES).log()
    frequency = torch.exp(low + (high - low) * torch.rand(HIDDEN // 2))
    positions = torch.randn(2, HIDDEN // 2) * frequency
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.copy_(positions)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model


def reset_layers(model: nn.Module) -> None:
    """Layers as PyTorch starts them, embeddings from N(0, 1), as in the official code; in place."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
