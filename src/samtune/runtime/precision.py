"""Which precision to compute in: fp32, or bf16 where the hardware has it; never fp16, whose range training exceeds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

SMALLEST_FOR_BF16 = 512
"""Side of the model's input in pixels from which bf16 pays on a CPU, see docs/decisions/0053."""


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
