"""The settings of a process that computes on a CPU; the allocator's in a process of its own: it cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from samtune.model import process

CPU = torch.device("cpu")

COUNT_PAGE_FAULTS = """
import resource, torch
from samtune.model.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
before = faults()
assert keep_freed_memory(torch.device("cpu"))
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_blocks_are_used_again_without_asking_the_system():
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    before, after = map(int, result.stdout.split())
    assert after * 10 < before


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_products_stay_exact_whatever_library_makes_them(precision):
    precision("highest")
    assert process.multiply_by_onednn(CPU) == process.products_by_onednn()
    generator = torch.Generator().manual_seed(1)
    for rows, inner, columns in ((4096, 256, 72), (9, 2048, 256), (300, 96, 288)):
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        exact = left.double() @ right.double()
        assert ((left @ right) - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_where_products_would_be_rounded_to_bf16_nothing_changes(precision, monkeypatch):
    """On a processor that rounds, as those with AMX do: bf16 factors make an error that is found."""
    precision("highest")
    monkeypatch.setattr(process, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(process, "_ROUNDING", 0.0)  # no product of this processor is as exact as that
    assert not process.multiply_by_onednn(CPU)
    assert torch.get_float32_matmul_precision() == "highest"


def test_bf16_factors_are_told_from_fp32():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    assert (rounded - exact).abs().max() > 10 * process._ROUNDING * exact.abs().max()


def test_a_gpu_and_the_users_own_choice_are_left_alone(precision):
    precision("high")
    assert not process.multiply_by_onednn(CPU)
    assert torch.get_float32_matmul_precision() == "high"
    precision("highest")
    process.multiply_by_onednn(CPU)
    assert not process.multiply_by_onednn(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "highest"
