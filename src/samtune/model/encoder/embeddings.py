"""The image encoder's output as a value: everything the mask decoder needs, computed once per image.

The value holds the features after the decoder's own `conv_s0` and `conv_s1`, because after them an image is a tenth of
the size. A value kept beyond one step therefore contains outputs of decoder weights too: these two convolutions must be
frozen while it is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Sam2Model


@dataclass(frozen=True)
class ImageEmbeddings:
    """The encoder's output for B images, as the mask decoder takes it.

    The tensors are in PyTorch's `channels_last` memory order where they come from `encode` or the cache (the fast
    decoder reads pixels as rows of channels); any memory order is accepted.

    Attributes:
        image_embeddings: `[B, C, h, w]`, with `no_memory_embedding` added; h and w are a sixteenth of the input's side.
        high_resolution_features: `[B, C/8, 4h, 4w]` after `conv_s0` and `[B, C/4, 2h, 2w]` after `conv_s1`.
    """

    image_embeddings: Tensor
    high_resolution_features: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return self.image_embeddings.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three tensors, the image embedding first."""
        return (self.image_embeddings, *self.high_resolution_features)

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.image_embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""
        return self.image_embeddings.dtype

    def __getitem__(self, images: int | slice | Sequence[int] | Tensor) -> ImageEmbeddings:
        """Some of the images, still as a batch: `embeddings[2]` has B = 1. Consecutive ones are a view, not a copy."""
        if not isinstance(images, (slice, Tensor)):
            places = [range(len(self))[place] for place in ([images] if isinstance(images, int) else images)]
            first = places[0] if places else 0
            images = slice(first, first + len(places))
            if places != list(range(images.start, images.stop)):
                images = torch.tensor(places, dtype=torch.long, device=self.device)
        image, *features = (tensor[images] for tensor in self.tensors)
        return ImageEmbeddings(image, (features[0], features[1]))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageEmbeddings:
        """The same value elsewhere or in another precision; copies to a GPU do not wait where the memory is pinned."""
        image, s0, s1 = (
            tensor.to(device=device or tensor.device, dtype=dtype or tensor.dtype, non_blocking=True)
            for tensor in self.tensors
        )
        return ImageEmbeddings(image, (s0, s1))

    def detach(self) -> ImageEmbeddings:
        """The same value cut off from the graph that made it."""
        image, s0, s1 = (tensor.detach() for tensor in self.tensors)
        return ImageEmbeddings(image, (s0, s1))

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow back from here into what made the value."""
        return any(tensor.requires_grad for tensor in self.tensors)

    def as_leaves(self) -> ImageEmbeddings:
        """The same value as new leaves that collect gradients, over as many backward passes as there are.

        Where no gradient would flow on from here, the value itself: collecting would be work for nothing.
        """
        if not self.requires_grad:
            return self
        image, s0, s1 = (tensor.detach().requires_grad_() for tensor in self.tensors)
        return ImageEmbeddings(image, (s0, s1))

    def backward(self, leaves: ImageEmbeddings) -> None:
        """Send the gradients that `leaves` (from `as_leaves`) have collected back into what made this value."""
        pairs = [(own, leaf.grad) for own, leaf in zip(self.tensors, leaves.tensors, strict=True)]
        reached = [(own, gradient) for own, gradient in pairs if own.requires_grad and gradient is not None]
        if reached:
            torch.autograd.backward([own for own, _ in reached], [gradient for _, gradient in reached])

    @staticmethod
    def cat(parts: Sequence[ImageEmbeddings]) -> ImageEmbeddings:
        """The images of all parts in one batch, in order."""
        if len(parts) == 1:
            return parts[0]
        image, s0, s1 = (torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True))
        return ImageEmbeddings(image, (s0, s1))


def encode(model: Sam2Model, pixel_values: Tensor) -> ImageEmbeddings:
    """The reference image encoder: transformers' own modules in their own order. Gradients flow.

    The same arithmetic as `Sam2Model.get_image_embeddings`, which forbids gradients and returns one list of features.

    Args:
        model: a transformers `Sam2Model` (or the same wrapped by adapters inside).
        pixel_values: `[B, 3, S, S]`, normalised, S the model's input side.
    """
    high, middle, low = model.vision_encoder(pixel_values, return_dict=True).fpn_hidden_states
    decoder = model.mask_decoder
    tensors = (low + model.no_memory_embedding.view(1, -1, 1, 1), decoder.conv_s0(high), decoder.conv_s1(middle))
    image, s0, s1 = (tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors)
    return ImageEmbeddings(image, (s0, s1))
