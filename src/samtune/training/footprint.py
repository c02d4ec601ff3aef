"""How much memory a step takes, found without taking it: the step runs on tensors that have shapes and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from samtune.model.decoder.fast import decode_grid
from samtune.model.encoder.embeddings import ImageEmbeddings
from samtune.model.encoder.fast import encode
from samtune.prompts.batch import PromptBatch
from samtune.training.run import Run

_ROUGH = 6e9
"""Bytes that a step at 1024 px takes at most, by far: one image and 16 prompts of the largest model."""
_LOSS_COPIES = 8
"""Copies of the masks that the loss holds at once, about."""


def rough_footprint(run: Run) -> float:
    """Bytes that a step surely takes less than; whoever has more need not measure, which takes seconds."""
    scale = (run.loaded.image_size / 1024) ** 2 * max(run.chunk / 16, run.images_at_once)
    return _ROUGH * scale * (1 if run.trainable.upstream_frozen else 5) + _kept(run)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a step takes beyond what is held already, in bytes.

    Attributes:
        encoder: of one image's way through the image encoder; with what its gradients need, where it learns.
        embeddings: of one image's embeddings.
        decoder: of one prompt's way through decoder and loss.
        each_prompt: of every further one.
        kept: what stays: gradients, the optimizer's two moments, the average.
        encoder_learns: whether the encoder's part is held until the decoder's gradients are there.
    """

    encoder: float
    embeddings: float
    decoder: float
    each_prompt: float
    kept: float
    encoder_learns: bool

    def bytes(self, images: int, prompts: int) -> float:
        """Of so many images and prompts at once."""
        decoder = self.decoder + (prompts - 1) * self.each_prompt + images * self.embeddings
        if self.encoder_learns:
            return images * self.encoder + decoder + self.kept
        return max(self.encoder, decoder) + self.kept


def measure_footprint(run: Run) -> Footprint:
    """Run a step's parts without their numbers: one image, one prompt, two prompts; the rest is proportional."""
    learns, size = not run.trainable.upstream_frozen, run.loaded.image_size
    with FakeTensorMode(allow_non_fake_inputs=True), run.arithmetic():
        with _Peak() as encoder:
            embeddings = encode(run.model, torch.empty(1, 3, size, size, device=run.device))
            leaves = embeddings.as_leaves()
            if learns:
                embeddings.backward(_with_gradients(leaves))
        one, two = (_decoder_bytes(run, leaves, prompts) for prompts in (1, 2))
    for parameter in run.parameters.values():
        parameter.grad = None
    return Footprint(encoder.bytes, _bytes_of(embeddings.tensors), one, max(0, two - one), _kept(run), learns)


def _decoder_bytes(run: Run, leaves: ImageEmbeddings, prompts: int) -> int:
    with _Peak() as peak:
        boxes = PromptBatch.from_boxes(torch.empty(prompts, 4, device=run.device))
        output = decode_grid(run.model, _first(leaves), boxes)
        (output.masks.float().sum() + output.iou_scores.sum() + output.object_score_logits.sum()).backward()
    return peak.bytes + output.masks.numel() * 4 * _LOSS_COPIES


def _with_gradients(leaves: ImageEmbeddings) -> ImageEmbeddings:
    for tensor in leaves.tensors:
        tensor.grad = torch.empty_like(tensor)
    return leaves


def _first(leaves: ImageEmbeddings) -> ImageEmbeddings:
    image, high, middle = (tensor.detach()[:1].requires_grad_() for tensor in leaves.tensors)
    return ImageEmbeddings(image, (high, middle))


def _kept(run: Run) -> int:
    """Gradients, two moments, and the average where there is one."""
    copies = 3 + (run.state.average is not None)
    return copies * _bytes_of(run.parameters.values())


def _bytes_of(tensors: Iterable[Tensor | nn.Parameter]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Peak(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still in use.

    Attributes:
        bytes: the most that there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)
