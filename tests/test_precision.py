"""What is computed in: bf16 where there are units for it and it pays, fp32 elsewhere, fp16 nowhere."""

from __future__ import annotations

import pytest
import torch

from samtune.runtime.precision import SMALLEST_FOR_BF16, arithmetic, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("units", [{}, {"avx512_f": True}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_auto_asks_the_processor(monkeypatch, units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    has_bf16 = bool({"avx512_bf16", "amx_bf16"} & set(units))
    assert arithmetic("auto", CPU) == ("bf16" if has_bf16 else "no")
    assert arithmetic("auto", CPU, SMALLEST_FOR_BF16) == ("bf16" if has_bf16 else "no")
    assert arithmetic("auto", CPU, SMALLEST_FOR_BF16 - 1) == "no"
    assert arithmetic("bf16", CPU, 64) == "bf16"
    assert arithmetic("fp32", CPU, 1024) == "no"


def test_a_torch_that_cannot_tell_means_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert arithmetic("auto", CPU) == "no"


def test_never_fp16():
    factor = torch.ones(2, 2)
    for precision, expected in (("no", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (factor @ factor).dtype == expected
