"""Where to compute, and in what: fp32, or bf16 where the hardware has it; never fp16, whose range training leaves."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from samtune.runtime.allocator import keep_freed_memory
from samtune.runtime.matmul import multiply_by_onednn

SMALLEST_FOR_BF16 = 512
"""Side of the model's input in pixels from which bf16 pays on a CPU, see docs/decisions/0053."""


def choose_device(wanted: str) -> torch.device:
    """The device meant by `auto`, `cpu`, `cuda` or `mps`; `auto` is a GPU where there is one.

    Under `torchrun` each process gets the GPU of its own number.
    """
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu" if wanted == "auto" else wanted)


def settle(device: torch.device) -> None:
    """Make this process ready to compute on `device`. It may be called again, for another device too."""
    keep_freed_memory(device)
    multiply_by_onednn(device)


def arithmetic(wanted: str, device: torch.device, image_size: int | None = None) -> str:
    """`no` (fp32) or `bf16`, in accelerate's words.

    Args:
        wanted: `fp32`, `bf16`, or `auto`: bf16 on GPUs that have it, and on CPUs with units for it (AVX512-BF16, AMX);
            without them its matrix products are slower by two orders of magnitude.
        device: where to compute.
        image_size: side of the model's input in pixels, where its encoder is frozen; below `SMALLEST_FOR_BF16`, auto
            means fp32 on a CPU, which is as fast there and gives the same numbers everywhere.
    """
    if wanted != "auto":
        return {"fp32": "no", "bf16": "bf16"}[wanted]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    is_small = image_size is not None and image_size < SMALLEST_FOR_BF16
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() and not is_small else "no"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context to compute in, for a value of `arithmetic`."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _cpu_has_bf16() -> bool:
    """Whether the CPU has units for bf16 products. Older versions of torch cannot tell; fp32 is right everywhere."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
