"""What the machine can do at best: the operations a second of its matrix products, the bytes a second of its memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from samtune.utils.workers import cpu_count

SIZES = (256, 512, 1024, 2048)
"""Sides of the square matrices that are multiplied on a CPU; the largest that fits the time counts."""
SIZES_ACCELERATOR = (1024, 2048, 4096, 8192)
"""The same on a GPU."""
LONGEST_PRODUCT = 0.4
"""Seconds; larger products are not tried: without units for bf16, its products are a hundred times slower than fp32."""
COPIED = 512 * 2**20
"""Bytes of the array that is copied: more than any cache holds."""
REPEATS = 4
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class MatmulRate:
    """How fast matrix products are.

    Attributes:
        dtype: `fp32` or `bf16`.
        threads: that worked on it; 0 for a GPU.
        gflops: 1e9 operations a second, a multiply-add counted as two: the best of several, which a bound has to be.
        size: side of the matrices.
    """

    dtype: str
    threads: int
    gflops: float
    size: int


@dataclass(frozen=True)
class Machine:
    """Where something was measured.

    Attributes:
        name: of the processor or GPU.
        device: `cpu`, `cuda` or `mps`.
        cores: logical cores this process may use.
        threads: threads PyTorch uses.
        load: other work before measuring, as the system's mean number of running processes over a minute; None where
            the system does not say.
        rates: of matrix products.
        bandwidth: of memory, 1e9 bytes a second, those read and those written: the best of several copies.
        versions: of Python and PyTorch.
    """

    name: str
    device: str
    cores: int
    threads: int
    load: float | None
    rates: tuple[MatmulRate, ...]
    bandwidth: float
    versions: dict[str, str]

    def rate(self, dtype: str, threads: int | None = None) -> MatmulRate:
        """The measured rate of `dtype`, with all threads by default."""
        wanted = (self.threads if self.device == "cpu" else 0) if threads is None else threads
        return next(rate for rate in self.rates if (rate.dtype, rate.threads) == (dtype, wanted))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"rates": [asdict(rate) for rate in self.rates]}

    def line(self) -> str:
        """In words."""
        if self.device != "cpu":
            speeds = ", ".join(f"{rate.gflops / 1000:.1f} TFLOP/s in {rate.dtype}" for rate in self.rates)
            return f"{self.name} ({self.device}); matrix products: {speeds}; memory: {self.bandwidth:.3g} GB/s"
        speeds = ", ".join(
            f"{self.rate(dtype).gflops:.3g} GFLOP/s in {dtype} ({self.rate(dtype, 1).gflops:.3g} with one thread)"
            for dtype in _DTYPES
        )
        return f"{self.name}, {self.threads} of {self.cores} cores; matrix products: {speeds}"


def look_at(device: str = "cpu") -> Machine:
    """Measure the machine; takes a few seconds.

    Args:
        device: `cpu`, `cuda` or `mps`.
    """
    threads = torch.get_num_threads()
    counts: Sequence[int] = sorted({1, threads}) if device == "cpu" else (0,)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Machine(
        name=torch.cuda.get_device_name() if device == "cuda" else _processor(),
        device=device,
        cores=cpu_count(),
        threads=threads,
        load=load,
        rates=tuple(matmul_rate(dtype, count, device) for dtype in _DTYPES for count in counts),
        bandwidth=bandwidth(device),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def matmul_rate(dtype: str, threads: int, device: str = "cpu") -> MatmulRate:
    """How fast square matrices are multiplied, by the largest size that takes no longer than `LONGEST_PRODUCT`.

    Args:
        dtype: `fp32` or `bf16`.
        threads: to use on a CPU; 0 on a GPU.
        device: where.
    """
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        size, seconds = 0, 0.0
        for size in SIZES if device == "cpu" else SIZES_ACCELERATOR:
            matrix = torch.ones(size, size, dtype=_DTYPES[dtype], device=device)
            _timed(lambda m=matrix: m @ m, device)  # the first of its size prepares
            seconds = min(_timed(lambda m=matrix: m @ m, device) for _ in range(REPEATS))
            if 8 * seconds > LONGEST_PRODUCT:  # the next one has eight times as many operations
                break
        return MatmulRate(dtype, threads, 2 * size**3 / seconds / 1e9, size)
    finally:
        torch.set_num_threads(before)


def bandwidth(device: str = "cpu") -> float:
    """How fast memory is copied, 1e9 bytes a second, those read and those written."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    _timed(lambda: target.copy_(source), device)  # the first touches the pages
    return 2 * COPIED / min(_timed(lambda: target.copy_(source), device) for _ in range(REPEATS)) / 1e9


def wait_for(device: str) -> None:
    """Wait until a device has finished its work; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _timed(work: Callable[[], object], device: str) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def _processor() -> str:
    """The processor's name, as well as the system knows it."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
