"""From pixels to masks, fast: the decoder's two transposed convolutions, and the product with the mask tokens' vectors.

A transposed convolution whose stride equals its kernel makes a block of 2 x 2 pixels of each, by a matrix product. The
upper pixels of all blocks are products with one half of the matrix, in the order of the image's even rows; the lower
ones, with the other half, of its odd rows. These halves are kept apart as *strips*, because nothing has to be moved
then: the second convolution takes pixels in any order, and what both have made are whole rows of the masks, which are
sorted at the very end. The high-resolution features are brought into the same order once for each image.

Half of the decoder's time goes by here, on arrays sixteen times as long as those before. On a CPU one prompt at a time
goes through, forward and backward (`MaskByMask`), so that they are read from the cache they were written to. A GPU
takes all prompts together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder


class Weights(NamedTuple):
    """What upscaling learns: the matrices and biases of both convolutions, scale and shift of the layer norm between.

    A matrix comes in halves, for even and odd rows: `[2, in, 2 * out]`.
    """

    first: Tensor
    second: Tensor
    first_bias: Tensor
    second_bias: Tensor
    scale: Tensor
    shift: Tensor


def strips(features: Tensor, levels: int) -> Tensor:
    """Features in the order in which upscaling makes pixels.

    Args:
        features: `[B, c, 2^levels * h, 2^levels * w]`.
        levels: how many times upscaled, 1 or 2.

    Returns:
        `[B, 2, L, 2c]`: even and odd rows, in each of them pairs of neighbours. On level 1 pixels are ordered
        `(y, x)`, L = h * w; on level 2 `(dy, y, x, dx)`, dy and dx being the place in the block of level 1, L = 4 h w.
    """
    rows = features.permute(0, 2, 3, 1).unflatten(1, (-1, *(2,) * levels))
    last_first = rows.transpose(1, 2) if levels == 1 else rows.permute(0, 3, 2, 1, 4, 5)
    return last_first.reshape(len(features), 2, -1, 2 * features.shape[1])


def masks(
    decoder: Sam2MaskDecoder, rows: Tensor, heads: Tensor, fine: Tensor, finer: Tensor, size: tuple[int, int]
) -> Tensor:
    """Upscale pixels four times and multiply with the mask tokens' vectors.

    Args:
        decoder: supplies the weights.
        rows: `[n, h * w, C]`, the pixels of n prompts.
        heads: `[n, M, C/8]`.
        fine: `strips` of the features after `conv_s1`, of B images whose n / B prompts follow one another.
        finer: those of the features after `conv_s0`.
        size: h and w.

    Returns:
        Logits `[n, M, 4h, 4w]`, in the type of `rows`.
    """
    first, second, norm = decoder.upscale_conv1, decoder.upscale_conv2, decoder.upscale_layer_norm
    assert first.bias is not None
    assert second.bias is not None
    heads, matrices = heads.to(rows.dtype), [row_halves(layer.weight.to(rows.dtype)) for layer in (first, second)]
    weights = Weights(matrices[0], matrices[1], first.bias, second.bias, norm.weight, norm.bias)
    if rows.device.type == "cpu":
        return MaskByMask.apply(rows, heads, fine, finer, size, norm.eps, torch.is_grad_enabled(), *weights)
    return masks_together(rows, heads, fine, finer, size, norm.eps, weights)


def row_halves(weight: Tensor) -> Tensor:
    """A transposed convolution's weight `[in, out, 2, 2]` as matrices for even and odd rows, `[2, in, 2 * out]`."""
    return weight.permute(2, 0, 3, 1).flatten(2)


def _plus_bias(features: Tensor, bias: Tensor) -> Tensor:
    return features + bias.to(features.dtype).repeat(2)


def _sorted(strips: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks `[..., 2 * 2 * h * 4w]` of strips in strips, as images `[..., 4h, 4w]`."""
    height, width = size
    rows = strips.unflatten(-1, (2, 2, height, 4 * width))
    return rows.movedim(-2, -4).transpose(-3, -2).flatten(-4, -2)


def _in_strips(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`_sorted` undone."""
    height, _ = size
    rows = images.unflatten(-2, (height, 2, 2))
    return rows.transpose(-3, -2).movedim(-4, -2).flatten(-4)


def masks_together(
    rows: Tensor,
    heads: Tensor,
    fine: Tensor,
    finer: Tensor,
    size: tuple[int, int],
    eps: float,
    weights: Weights,
) -> Tensor:
    """All prompts at once. Arguments as for `masks`."""
    B, each = len(fine), len(rows) // len(fine)

    def upscaled(pixels: Tensor, matrices: Tensor, features: Tensor) -> Tensor:
        """`[n, L, in]` to `[n, 2, L, 2 * out]`."""
        found = pixels[:, None] @ matrices
        return (found.unflatten(0, (B, each)) + features[:, None]).flatten(0, 1)

    channels = [len(weights.scale)]
    scale, shift = weights.scale.to(rows.dtype), weights.shift.to(rows.dtype)
    twice = upscaled(rows, weights.first, _plus_bias(fine, weights.first_bias)).unflatten(-1, (2, *channels))
    twice = F.gelu(F.layer_norm(twice, channels, scale, shift, eps)).flatten(1, 3)
    four_times = F.gelu(upscaled(twice, weights.second, _plus_bias(finer, weights.second_bias)))
    return _sorted(heads @ four_times.view(len(rows), -1, heads.shape[-1]).transpose(1, 2), size)


class MaskByMask(torch.autograd.Function):
    """`masks_together`, one prompt after the other, with the backward pass written out.

    Whatever lives no longer than a prompt is written to the same memory for each (`small`, `large`): fresh memory is
    not in the cache, and to fetch it takes longer than the arithmetic. The GELUs are computed again instead of kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        heads: Tensor,
        fine: Tensor,
        finer: Tensor,
        size: tuple[int, int],
        eps: float,
        keep: bool,
        *flat: Tensor,
    ) -> Tensor:
        """As `masks_together`; `flat` is the fields of `Weights`, and `keep` keeps what `backward` needs."""
        weights = Weights(*flat)
        (n, M, c), each, channels = heads.shape, len(rows) // len(fine), [len(weights.scale)]
        fine, finer = _plus_bias(fine, weights.first_bias), _plus_bias(finer, weights.second_bias)
        found = rows.new_empty(n, M, 4 * size[0], 4 * size[1])
        small, large = rows.new_empty(4 * rows.shape[1], *channels), torch.empty_like(finer[0])
        kept: list[Tensor] = []
        for i in range(n):
            twice = _upscaled(rows[i], weights.first, fine[i // each]).view(-1, *channels)
            normed, mean, inverse = torch.native_layer_norm(twice, channels, weights.scale, weights.shift, eps)
            torch.ops.aten.gelu.out(normed, out=small)
            four_times = _upscaled(small, weights.second, finer[i // each])
            torch.ops.aten.gelu.out(four_times, out=large)
            found[i] = _sorted(heads[i] @ large.view(-1, c).t(), size)
            if keep:
                kept += twice, mean, inverse, normed, four_times
        ctx.save_for_backward(rows, heads, *weights, *kept)
        ctx.images, ctx.size = len(fine), size
        return found

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, by_masks: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of rows, heads, features and weights, from those of the masks."""
        rows, heads, *saved = ctx.saved_tensors
        weights, kept = Weights(*saved[: len(Weights._fields)]), saved[len(Weights._fields) :]
        (n, L, _), c, channels = rows.shape, heads.shape[2], [len(weights.scale)]
        by_rows, by_heads = torch.empty_like(rows), torch.empty_like(heads)
        by_first = _Gradients(weights.first, ctx.images * ctx.needs_input_grad[2], L)
        by_second = _Gradients(weights.second, ctx.images * ctx.needs_input_grad[3], 4 * L)
        by_scale, by_shift = torch.zeros_like(weights.scale), torch.zeros_like(weights.shift)
        small, large = torch.empty_like(kept[3]), torch.empty_like(kept[4])
        for i in range(n):
            twice, mean, inverse, normed, four_times = kept[5 * i : 5 * i + 5]
            image = i // (n // ctx.images)
            by_strips = _in_strips(by_masks[i], ctx.size)
            torch.ops.aten.gelu.out(four_times, out=large)
            torch.mm(by_strips, large.view(-1, c), out=by_heads[i])
            torch.mm(by_strips.t(), heads[i], out=large.view(-1, c))
            torch.ops.aten.gelu_backward.grad_input(large, four_times, grad_input=large)
            torch.ops.aten.gelu.out(normed, out=small)
            by_second.add(image, small, large)
            _through(large, weights.second, out=small)
            torch.ops.aten.gelu_backward.grad_input(small, normed, grad_input=small)
            by_twice, *by_norm = torch.ops.aten.native_layer_norm_backward(
                small, twice, channels, mean, inverse, weights.scale, weights.shift, [True] * 3
            )
            by_scale += by_norm[0]
            by_shift += by_norm[1]
            by_first.add(image, rows[i], by_twice.view(2, L, -1))
            _through(by_twice.view(2, L, -1), weights.first, out=by_rows[i])
        convolutions = zip(by_first.results(), by_second.results(), strict=True)
        by_features, by_matrices, by_biases = convolutions
        return by_rows, by_heads, *by_features, None, None, None, *by_matrices, *by_biases, by_scale, by_shift


class _Gradients:
    """The gradients of one convolution, added up over prompts.

    Args:
        matrices: its weight in halves, `[2, in, 2 * out]`.
        images: whose features want a gradient; 0 if none does.
        length: of a strip in pixels.
    """

    def __init__(self, matrices: Tensor, images: int, length: int) -> None:
        self._features = matrices.new_zeros(images, 2, length, matrices.shape[2])
        self._matrices = torch.zeros_like(matrices, dtype=torch.promote_types(matrices.dtype, torch.float32))
        self._pairs = self._matrices.new_zeros(matrices.shape[2])

    def add(self, image: int, pixels: Tensor, by_result: Tensor) -> None:
        """What one prompt adds: its `pixels` `[L, in]` became strips with the gradient `by_result`."""
        if len(self._features):
            self._features[image] += by_result
        self._matrices += torch.stack([(half.t() @ pixels).t() for half in by_result])
        self._pairs += by_result.sum((0, 1))

    def results(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Those at features, matrices and bias."""
        features = self._features if len(self._features) else None
        return features, self._matrices.to(self._features.dtype), self._pairs.view(2, -1).sum(0)


def _upscaled(pixels: Tensor, matrices: Tensor, features: Tensor) -> Tensor:
    """`pixels` `[L, in]` times `matrices` `[2, in, 2 * out]` plus `features`: `[2, L, 2 * out]`."""
    found = torch.empty_like(features)
    for half, matrix in zip(found, matrices, strict=True):
        torch.mm(pixels, matrix, out=half)
    return found.add_(features)


def _through(by_result: Tensor, matrices: Tensor, out: Tensor) -> None:
    """Write the gradient at `_upscaled`'s pixels, `[L, in]`, from that at its result."""
    torch.mm(by_result[0], matrices[0].t(), out=out)
    torch.addmm(out, by_result[1], matrices[1].t(), out=out)
