"""fp32 products on a CPU stay exact, whichever library makes them."""

from __future__ import annotations

import pytest
import torch

from samtune.runtime import matmul

CPU = torch.device("cpu")


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_products_stay_exact_whatever_library_makes_them(precision):
    precision("highest")
    assert matmul.choose_matmul_library(CPU) == matmul.uses_onednn()
    generator = torch.Generator().manual_seed(1)
    for rows, inner, columns in ((4096, 256, 72), (9, 2048, 256), (300, 96, 288)):
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        exact = left.double() @ right.double()
        assert ((left @ right) - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_where_products_would_be_rounded_to_bf16_nothing_changes(precision, monkeypatch):
    """On a processor that rounds, as those with AMX do: bf16 factors make an error that is found."""
    precision("highest")
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(matmul, "ROUNDING", 0.0)  # no product of this processor is as exact as that
    assert not matmul.choose_matmul_library(CPU)
    assert torch.get_float32_matmul_precision() == "highest"


def test_bf16_factors_are_told_from_fp32():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    assert (rounded - exact).abs().max() > 10 * matmul.ROUNDING * exact.abs().max()


def test_a_gpu_and_the_users_own_choice_are_left_alone(precision):
    precision("high")
    assert not matmul.choose_matmul_library(CPU)
    assert torch.get_float32_matmul_precision() == "high"
    precision("highest")
    matmul.choose_matmul_library(CPU)
    assert not matmul.choose_matmul_library(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "highest"
