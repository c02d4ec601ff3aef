"""Hashing and writing tensors. What the disk refuses to safetensors or torch is raised as the `OSError` it is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from samtune.utils.files import share


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors, whatever their order and device, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk refused.
    """
    with disk_errors():
        save_file(dict(tensors), path, metadata={"format": "pt"})
    share(path)


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a `.pt` file.

    Raises:
        OSError: the disk refused.
    """
    with disk_errors(), path.open("wb") as file:
        torch.save(content, file)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Inside, what a disk refused to safetensors or torch is raised as the `OSError` it was."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
