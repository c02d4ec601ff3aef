"""Which library multiplies fp32 matrices on a CPU."""

from __future__ import annotations

import torch

_EXACT, _ONEDNN = "highest", "medium"
"""Values of torch's `float32_matmul_precision`."""
ROUNDING = 1e-5
"""Error allowed to a product of fp32 matrices, relative to its largest value; bf16 factors make a hundredfold."""


def choose_matmul_library(device: torch.device) -> bool:
    """Let fp32 products go through oneDNN where it is the faster library and as exact.

    torch multiplies fp32 matrices with MKL, which on AMD's processors uses AVX2 alone; oneDNN uses AVX-512 and takes
    half the time: see docs/decisions/0053. torch selects oneDNN only where factors may be rounded to bf16. oneDNN
    does round on processors with AMX, so those are left alone; elsewhere a product is checked first.

    A choice the user made (`torch.set_float32_matmul_precision`) stays. For a GPU, where the setting means something
    else, it is reset.

    Args:
        device: where this process computes.

    Returns:
        Whether fp32 products go through oneDNN now.
    """
    before = torch.get_float32_matmul_precision()
    if before not in (_EXACT, _ONEDNN):
        return False
    wanted = device.type == "cpu" and onednn_is_faster()
    torch.set_float32_matmul_precision(_ONEDNN if wanted else _EXACT)
    if wanted and not is_exact():
        torch.set_float32_matmul_precision(_EXACT)
    return uses_onednn()


def uses_onednn() -> bool:
    """Whether fp32 products on a CPU go through oneDNN."""
    return torch.get_float32_matmul_precision() == _ONEDNN


def onednn_is_faster() -> bool:
    """On AMD's processors with AVX-512. Versions of torch before 2.13 cannot tell."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    has_amx = any(value for name, value in known.items() if name.startswith("amx"))
    return bool(known.get("avx512_f")) and "AMD" in str(known.get("cpu_name", "")) and not has_amx


def is_exact() -> bool:
    """Whether a product of fp32 matrices has the error of fp32."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    return bool(((left @ right) - exact).abs().max() <= ROUNDING * exact.abs().max())
