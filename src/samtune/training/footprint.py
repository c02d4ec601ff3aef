"""How much memory a step takes, found without taking it: the step runs on tensors that have shapes and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
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
    """Bytes that a step surely takes less than; whoever has more need not ask `footprint`, which takes seconds."""
    scale = (run.loaded.image_size / 1024) ** 2 * max(run.chunk / 16, run.images_at_once)
    return _ROUGH * scale * (1 if run.trainable.upstream_frozen else 5) + _kept(run)


def footprint(run: Run) -> float:
    """Bytes that a step takes beyond what is held already.

    The encoder's, or the decoder's and the loss's, and what stays: gradients, the optimizer's two moments, the average.
    """
    parameters = list(run.parameters.values())
    with FakeTensorMode(allow_non_fake_inputs=True), run.arithmetic():
        size = run.loaded.image_size
        images = run.images_at_once if not run.trainable.upstream_frozen else run.embeddings.at_once
        with _Peak() as encoder:
            embeddings = encode(run.model, torch.empty(images, 3, size, size, device=run.device))
            leaves = embeddings.as_leaves()
            if not run.trainable.upstream_frozen:
                embeddings.backward(_with_gradients(leaves))
        with _Peak() as decoder:
            prompts = PromptBatch.from_boxes(torch.empty(run.chunk, 4, device=run.device))
            output = decode_grid(run.model, _first(leaves), prompts)
            (output.masks.float().sum() + output.iou_scores.sum() + output.object_score_logits.sum()).backward()
    for parameter in parameters:
        parameter.grad = None
    masks = output.masks.numel() * 4 * _LOSS_COPIES
    return max(encoder.bytes, decoder.bytes + masks + _bytes_of(embeddings.tensors)) + _kept(run)


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
