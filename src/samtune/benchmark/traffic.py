"""What operations move through memory: the second floor of a GPU's step, beside its floating point operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """Inside, sums the bytes that operations read and write, each tensor once per operation; views move nothing.

    This is what reaches memory when every operation is a kernel of its own and no cache keeps anything for the next:
    fusing operations, and tensors small enough for a cache, can do better.

    Attributes:
        bytes: the sum so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it moves."""
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            self.bytes += sum(
                _bytes(value) for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)
            )
        return result


def _is_view(func: Any) -> bool:
    """Whether an operation only looks at its input in another way."""
    return any(given.alias_info is not None and not given.alias_info.is_write for given in func._schema.returns)


def _bytes(tensor: Tensor) -> int:
    """Bytes a tensor has in memory; what is expanded is there once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or size == 0 else 1
    return elements * tensor.element_size() if tensor.layout is torch.strided else tensor.nbytes
