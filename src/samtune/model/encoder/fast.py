"""The image encoder on a CPU: the same function of the same weights as `embeddings.py`, faster.

The reference encoder spends a third of its time waiting for memory: one block of the first stage writes, reads and
frees several hundred MB. Three remarks save most of that; nothing is approximated, what differs is rounding.

1. *Work in strips.* Windows are independent, and everything around the attention works on single pixels. So a block
   runs on a few rows of windows from beginning to end while they are in the processor's cache. Only the blocks
   with global attention need all pixels at once, and only for the attention itself.
2. *Merge what is linear.* Of the two finer levels of the feature pyramid, the decoder takes a 1x1 convolution of a
   convolution. Their product, 96 to 32 channels instead of 96 to 256 to 32, is one.
3. *Leave out what an image does not need*: the position encodings of the pyramid (for video), the padding of windows
   after the attention, and a product inside transformers' attention whose result is unused.

Adapters (LoRA) work: layers are called, not read. Only the pyramid's convolutions are read. Gradients flow, and blocks
that shall be computed again in the backward pass are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Sam2Model
from transformers.models.sam2.modeling_sam2 import (
    Sam2HieraDetModel,
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
    Sam2VisionNeck,
)

from samtune.model.encoder import embeddings
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.runtime.matmul import uses_onednn

STRIP = 8192
"""Pixels of a strip, about: few enough for a processor's cache, enough for efficient matrix products."""
LARGEST_KEPT = 2**26
"""Attention weights of one block that the backward pass may keep: 134 MB in bf16, as an image of SAM 2.1 tiny has."""
_UPSTREAM = ("vision_encoder.", "mask_decoder.conv_s")


def encode(model: Sam2Model, pixel_values: Tensor) -> ImageEmbeddings:
    """Run the image encoder. Arguments and result are those of `samtune.model.encoder.embeddings.encode`.

    On a GPU, and for pyramids of another build than SAM 2's, that is what runs.

    Args:
        model: a transformers `Sam2Model` (or the same wrapped by adapters inside).
        pixel_values: `[B, 3, S, S]`, normalised, S the model's input side.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(model)):
        if pixel_values.device.type == "cpu" and _is_mergeable(model.vision_encoder.neck):
            return functional_call(_Strips(model), _in_working_precision(model), (pixel_values,))
        return embeddings.encode(model, pixel_values)


def is_frozen(model: Sam2Model) -> bool:
    """Whether nothing that decides an image's embeddings learns."""
    decoder = model.mask_decoder
    upstream = [*model.vision_encoder.parameters(), model.no_memory_embedding]
    upstream += [*decoder.conv_s0.parameters(), *decoder.conv_s1.parameters()]
    return not any(parameter.requires_grad for parameter in upstream)


class _Strips(nn.Module):
    """`_in_strips` as a module, so that it can be called with other weights than the model's."""

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> ImageEmbeddings:
        return _in_strips(self.model, pixel_values)


def _in_working_precision(model: Sam2Model) -> dict[str, Tensor]:
    """The weights of the products in autocast's type, by their name in `_Strips`; nothing outside of autocast.

    Left to autocast, every strip would cast them again.
    """
    if not torch.is_autocast_enabled("cpu"):
        return {}
    dtype = torch.get_autocast_dtype("cpu")
    return {
        f"model.{name}.{own}": parameter.to(dtype)
        for name, module in model.named_modules()
        if name.startswith(_UPSTREAM) and isinstance(module, (nn.Linear, nn.Conv2d))
        for own, parameter in module.named_parameters(recurse=False)
    }


def _in_strips(model: Sam2Model, pixel_values: Tensor) -> ImageEmbeddings:
    convolutions = _convolutions(model.vision_encoder.neck)
    finest, finer, *coarse = _stages(model.vision_encoder.backbone, pixel_values)
    decoder = model.mask_decoder
    tensors = (
        _top_down(coarse, convolutions) + model.no_memory_embedding.view(-1),
        _merged(finest, convolutions[3], decoder.conv_s0),
        _merged(finer, convolutions[2], decoder.conv_s1),
    )
    image, s0, s1 = (tensor.permute(0, 3, 1, 2) for tensor in tensors)
    return ImageEmbeddings(image, (s0, s1))


def _stages(backbone: Sam2HieraDetModel, pixel_values: Tensor) -> Iterator[Tensor]:
    """What each stage ends with, `[B, H, W, C]`, the finest first."""
    pixels = backbone.patch_embed(pixel_values)
    pixels = pixels + backbone._get_pos_embed(pixels.shape[1:3])
    for number, block in enumerate(backbone.blocks):
        assert isinstance(block, Sam2MultiScaleBlock)
        run = partial(_windowed_block if block.window_size else _global_block, block)
        pixels = checkpoint(run, pixels, use_reentrant=False) if _is_recomputed(block) else run(pixels)
        if number in backbone.stage_ends:
            yield pixels


def _is_recomputed(block: Sam2MultiScaleBlock) -> bool:
    """Whether the block keeps nothing for the backward pass, as transformers' own layers decide it."""
    return block.gradient_checkpointing and block.training and torch.is_grad_enabled()


def _windowed_block(block: Sam2MultiScaleBlock, pixels: Tensor) -> Tensor:
    """A block whose pixels attend within windows, strip by strip; `[B, H, W, C]`, halved at the start of a stage."""
    window, step = block.window_size, 2 if block.query_stride else 1
    height, width = pixels.shape[1:3]
    rows = window * max(1, STRIP // (window * width))
    done = pixels.new_empty(len(pixels), height // step, width // step, block.dim_out)
    for top in range(0, height, rows):
        normed = block.layer_norm1(pixels[:, top : top + rows])
        high = len(normed[0]) // step
        attended = _attend_in_windows(block.attn, normed, window, step)[:, :high, : width // step]
        stays = pixels[:, top : top + rows] if block.dim == block.dim_out else _halved(block.proj(normed), step)
        done[:, top // step : top // step + high] = _finished(block, stays + attended)
    return done


def _global_block(block: Sam2MultiScaleBlock, pixels: Tensor) -> Tensor:
    """A block whose pixels attend to all, `[B, H, W, C]`; transformers has none at the start of a stage."""
    attended = pixels + _attention(block.attn, block.layer_norm1(pixels), step=1)
    strips = attended.split(max(1, STRIP // attended.shape[2]), dim=1)
    return torch.cat([_finished(block, strip) for strip in strips], dim=1)


def _finished(block: Sam2MultiScaleBlock, pixels: Tensor) -> Tensor:
    """The second half of a block: every pixel by itself."""
    return pixels + block.mlp(block.layer_norm2(pixels))


def _attend_in_windows(attention: Sam2MultiScaleAttention, pixels: Tensor, window: int, step: int) -> Tensor:
    """Attention within windows of `window` by `window` pixels, `[B, h, w, C]` to `[B, h', w', C']`.

    Images that are no multiple of the window are padded with zeros, as in training; the result still has the padding.
    """
    B, height, width, C = pixels.shape
    below, right = -height % window, -width % window
    if below or right:
        pixels = F.pad(pixels, (0, 0, 0, right, 0, below))
    down, across = (height + below) // window, (width + right) // window
    windows = pixels.view(B, down, window, across, window, C).transpose(2, 3).reshape(-1, window, window, C)
    windows = _attention(attention, windows, step)
    side = window // step
    together = windows.view(B, down, across, side, side, -1).transpose(2, 3)
    return together.reshape(B, down * side, across * side, -1)


def _attention(attention: Sam2MultiScaleAttention, pixels: Tensor, step: int) -> Tensor:
    """Attention among all pixels of `[n, h, w, C]`; queries are the maxima over `step` by `step` pixels."""
    n, height, width, _ = pixels.shape
    query, key, value = attention.qkv(pixels).chunk(3, dim=-1)
    query = _halved(query, step)
    heads = attention.num_attention_heads

    def by_head(rows: Tensor) -> Tensor:
        return rows.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)

    attended = _attended(by_head(query), by_head(key), by_head(value), attention.scale)
    return attention.proj(attended.transpose(1, 2).reshape(n, height // step, width // step, -1))


def _attended(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention, `[n, H, q, d]`, `[n, H, k, d]`, `[n, H, k, e]` to `[n, H, q, e]`.

    Two products and a softmax where they go through oneDNN, because torch's fused attention (2.13) multiplies by MKL;
    one head after the other, so that the largest table of weights is a fourth or eighth of all. The backward pass would
    keep that table, so a large one is left to the fused attention there, which keeps none.
    """
    is_kept = torch.is_grad_enabled() and query.requires_grad
    weights = query[..., 0].numel() * key.shape[2]
    if (query.dtype == torch.float32 and not uses_onednn()) or (is_kept and weights > LARGEST_KEPT):
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    query, key = query * scale, key.transpose(2, 3)
    if len(query) > 1:
        return (query @ key).softmax(-1) @ value
    heads = zip(query[0].unbind(), key[0].unbind(), value[0].unbind(), strict=True)
    return torch.stack([(q @ k).softmax(-1) @ v for q, k, v in heads])[None]


def _halved(pixels: Tensor, step: int) -> Tensor:
    """Maxima over squares of `step` (1 or 2) pixels of `[n, h, w, C]`, channels staying last."""
    if step == 1:
        return pixels
    rows = torch.maximum(pixels[:, ::2], pixels[:, 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _convolutions(neck: Sam2VisionNeck) -> list[nn.Conv2d]:
    """The pyramid's convolutions, that of the coarsest level first."""
    return [conv for conv in neck.convs if isinstance(conv, nn.Conv2d)]


def _is_mergeable(neck: Sam2VisionNeck) -> bool:
    """Whether the pyramid has four levels of convolutions that keep the size, and features flow into the third alone.

    SAM 2's are 1x1; the official code and transformers take larger ones by their configuration.
    """
    convolutions = _convolutions(neck)
    keeping = all(
        conv.stride == (1, 1) and conv.padding == tuple((side - 1) / 2 for side in conv.kernel_size)
        for conv in convolutions
    )
    return keeping and len(convolutions) == 4 and {0, 1, 2} & set(neck.fpn_top_down_levels or ()) == {2}


def _top_down(coarse: list[Tensor], convolutions: list[nn.Conv2d]) -> Tensor:
    """The pyramid's third level from the two coarsest stages, `[B, h, w, C]`."""
    third, last = (
        _convolved(level, convolutions[place].weight, convolutions[place].bias)
        for level, place in zip(coarse, (1, 0), strict=True)
    )
    B, height, width, C = last.shape
    twice = last[:, :, None, :, None].expand(B, height, 2, width, 2, C)
    return third + twice.reshape(B, 2 * height, 2 * width, C)


def _merged(level: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """`second(first(level))` as one convolution, where the second one is 1x1; `[B, h, w, C]`."""
    assert first.bias is not None
    outer = second.weight.flatten(1)
    weight = (outer @ first.weight.flatten(1)).view(-1, *first.weight.shape[1:])
    return _convolved(level, weight, F.linear(first.bias, outer, second.bias))


def _convolved(level: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of `[B, h, w, C]` with zeros around it, `[B, h, w, C']`."""
    if weight.shape[-2:] == (1, 1):
        return F.linear(level, weight.flatten(1), bias)
    return F.conv2d(level.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2).permute(0, 2, 3, 1)
