"""The finder's network: kept image embeddings in, for every stride-4 cell an objectness, a box and class scores out.

It works at stride 8, where the issue's measurements put it (stride 16 alone finds a third as much; the stride-4 grid
costs four times the time and brings nothing): the three levels that the mask decoder uses are brought there by 1x1
convolutions, three 3x3 convolutions follow, and a 1x1 convolution with pixel shuffle gives the answers at stride 4.
Large and thin objects need more context than three 3x3 convolutions see, so dilated convolutions at stride 16, where
they are cheap, come first.

Sources: CenterNet (Zhou et al. 2019) for objectness on a grid of centres, FCOS (Tian et al. 2019) for four distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samtune.model.encoder.embeddings import ImageEmbeddings

STRIDE = 4
"""Pixels of the model's input per cell of the answers; the low-res masks have the same grid."""
DILATIONS = (1, 2, 4, 8)
"""Of the context's convolutions at stride 16: together they see 33 cells, 528 pixels of the input."""
_GROUPS = 8
_PRIOR = 0.02
"""Objectness before any training: centres are rare, and starting at 0.5 would waste the first steps."""
_LARGEST_LOG = 8.0
"""Largest log distance that is believed; a box of e^8 cells is larger than any input."""
_BOX_OUTPUTS = 5


@dataclass(frozen=True, slots=True)
class FinderOutput:
    """What the network says of B images; h and w are a quarter of the input's side.

    Attributes:
        objectness: logits `[B, h, w]` that a cell is the middle of an object.
        distances: logs `[B, 4, h, w]` of the distances from the cell's middle to the box's left, upper, right and lower
            edge, in cells.
        classes: logits `[B, K, h, w]` of what a cell shows; K is 0 for a finder without classes.
    """

    objectness: Tensor
    distances: Tensor
    classes: Tensor

    def boxes(self) -> Tensor:
        """The boxes all cells propose, `[B, h, w, 4]`, xyxy in cells; they reach beyond the image where they say so."""
        height, width = self.objectness.shape[-2:]
        far = self.distances.clamp(max=_LARGEST_LOG).exp()
        x = torch.arange(width, device=far.device, dtype=far.dtype) + 0.5
        y = (torch.arange(height, device=far.device, dtype=far.dtype) + 0.5)[:, None]
        left, up, right, down = far.unbind(1)
        return torch.stack([x - left, y - up, x + right, y + down], dim=-1)

    def mirrored(self) -> FinderOutput:
        """What was said of images mirrored left to right, said of the images themselves."""
        left, up, right, down = self.distances.flip(-1).unbind(1)
        return FinderOutput(
            self.objectness.flip(-1), torch.stack([right, up, left, down], dim=1), self.classes.flip(-1)
        )

    def mean(self, other: FinderOutput) -> FinderOutput:
        """Half-way between two answers about the same images: of logits, and of logs of distances."""
        return FinderOutput(
            (self.objectness + other.objectness) / 2,
            (self.distances + other.distances) / 2,
            (self.classes + other.classes) / 2,
        )


class FinderHead(nn.Module):
    """The network.

    Args:
        channels: of the image embeddings' tensors, stride 16, 4 and 8 in this order.
        classes: K, 0 for none.
        width: channels inside.
        context: whether dilated convolutions at stride 16 come first.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, width: int = 64, context: bool = True) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.classes = classes
        for name, count in zip(("coarse", "fine", "middle"), self.channels, strict=True):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_scale", torch.ones(count))
        coarse, fine, middle = self.channels
        self.from_coarse = nn.Conv2d(coarse, width, 1)
        self.from_fine = nn.Conv2d(4 * fine, width, 1, bias=False)
        self.from_middle = nn.Conv2d(middle, width, 1, bias=False)
        self.context = nn.ModuleList(_Residual(width, dilation) for dilation in DILATIONS if context)
        self.trunk = nn.Sequential(*(layer for _ in range(3) for layer in _block(width)))
        self.answer = nn.Conv2d(width, 4 * (_BOX_OUTPUTS + classes), 1)
        self._start()

    def forward(self, embeddings: ImageEmbeddings, factors: Sequence[Tensor] = ()) -> FinderOutput:
        """Answers for B images.

        Args:
            embeddings: of any float type; the answers are float32.
            factors: of the normalised channels, `[B, C]` for each level, stride 16, 4 and 8; none means 1.
        """
        levels = self._normalised(embeddings)
        if factors:
            levels = [level * factor[:, :, None, None] for level, factor in zip(levels, factors, strict=True)]
        coarse, fine, middle = levels
        x = self.from_coarse(coarse)
        for block in self.context:
            x = block(x)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = x + self.from_middle(middle) + self.from_fine(F.pixel_unshuffle(fine, 2))
        answers = F.pixel_shuffle(self.answer(self.trunk(x)), 2).float()
        return FinderOutput(answers[:, 0], answers[:, 1:_BOX_OUTPUTS], answers[:, _BOX_OUTPUTS:])

    @torch.no_grad()
    def normalise_to(self, images: Iterable[ImageEmbeddings]) -> None:
        """Set mean and spread of every channel to those over some images, and forget what was set before."""
        sums = [torch.zeros(2, count, dtype=torch.float64) for count in self.channels]
        pixels = [0] * len(sums)
        for embeddings in images:
            for level, tensor in enumerate(embeddings.tensors):
                values = tensor.float().flatten(2)
                moments = torch.stack([values.sum((0, 2)), values.square().sum((0, 2))])
                sums[level] += moments.double().cpu()
                pixels[level] += values.shape[0] * values.shape[2]
        for (name, mean, scale), moments, count in zip(self._statistics(), sums, pixels, strict=True):
            assert count, f"no images to normalise {name} to"
            first, second = moments / count
            mean.copy_(first)
            scale.copy_((second - first.square()).clamp(min=1e-6).rsqrt())

    @torch.no_grad()
    def start_boxes_at(self, width: float, height: float) -> None:
        """Let every cell propose boxes of this size, in cells, before any training."""
        sides = torch.tensor([width, height, width, height]).clamp(min=0.5) / 2
        self._answer_bias()[1:_BOX_OUTPUTS] = sides.log()[:, None]

    def _normalised(self, embeddings: ImageEmbeddings) -> list[Tensor]:
        return [
            (tensor.float() - mean[:, None, None]) * scale[:, None, None]
            for tensor, (_, mean, scale) in zip(embeddings.tensors, self._statistics(), strict=True)
        ]

    def _statistics(self) -> list[tuple[str, Tensor, Tensor]]:
        names = ("coarse", "fine", "middle")
        return [(name, self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_scale")) for name in names]

    def _answer_bias(self) -> Tensor:
        """Biases of the answers `[5 + K, 4]`: pixel shuffle takes four channels for each."""
        assert self.answer.bias is not None
        return self.answer.bias.view(-1, 4)

    def _start(self) -> None:
        nn.init.zeros_(self.answer.weight)
        self._answer_bias().detach().zero_()
        with torch.no_grad():
            self._answer_bias()[0] = math.log(_PRIOR / (1 - _PRIOR))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.answer:
                nn.init.kaiming_normal_(module.weight)


class _Residual(nn.Module):
    """A dilated 3x3 convolution that adds to what it gets; at first it adds nothing."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


def _block(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(_GROUPS, width), nn.SiLU()]
