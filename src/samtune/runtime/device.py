"""Which device this process computes on, and what is set once before it does."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from samtune.errors import ConfigError
from samtune.runtime.allocator import keep_freed_memory
from samtune.runtime.matmul import choose_matmul_library


def choose_device(wanted: str) -> torch.device:
    """The device meant by `auto`, `cpu`, `cuda` or `mps`.

    `auto` takes a CUDA GPU, else Apple's GPU (MPS), else the CPU. Under `torchrun` or `accelerate launch` each process
    of a machine gets the GPU of its own number, `LOCAL_RANK`, whether it was asked for by `auto` or by `cuda`.

    Raises:
        ConfigError: there is no such device here, or fewer GPUs than processes.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if _mps_works() else "cpu"
    if wanted == "cuda":
        return torch.device("cuda", _own_gpu())
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ConfigError.of(
            expected="a machine with Apple's GPU", found="none", where="--device mps", do="use --device auto"
        )
    return torch.device(wanted)


def configure_process(device: torch.device) -> None:
    """Set what computing on `device` gains from: current GPU, allocator, library for fp32 products.

    It may be called again, for another device too.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    keep_freed_memory(device)
    choose_matmul_library(device)


def _own_gpu() -> int:
    """Number of this process's GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank = number_of_gpu(os.environ, count)
    if rank >= count:
        several = "LOCAL_RANK" in os.environ
        raise ConfigError.of(
            expected=f"a CUDA GPU for each process, {rank + 1} or more" if several else "a CUDA GPU",
            found=f"{count} that PyTorch can use",
            where="--device cuda",
            do="start fewer processes on this machine, or use --device cpu" if several else "use --device auto",
        )
    return rank


def number_of_gpu(environment: Mapping[str, str], count: int) -> int:
    """The GPU of a process by what its launcher says: `LOCAL_RANK`, else its number among a machine's SLURM tasks.

    SLURM often shows each task its own GPUs alone, hence the remainder by `count`, how many the process sees.
    """
    if "LOCAL_RANK" in environment:
        return int(environment["LOCAL_RANK"])
    return int(environment.get("SLURM_LOCALID", "0")) % max(count, 1)


def _mps_works() -> bool:
    """Whether Apple's GPU is there and can do what the models need beyond ordinary layers.

    Older versions of macOS lack some operations. What is tried here is resizing with antialiasing and attention.
    """
    if not torch.backends.mps.is_available():
        return False
    try:
        image = torch.zeros(1, 4, 8, 8, device="mps")
        small = torch.nn.functional.interpolate(image, (4, 4), mode="bilinear", antialias=True)
        torch.nn.functional.scaled_dot_product_attention(small, small, small)
    except (NotImplementedError, RuntimeError):
        return False
    return True
