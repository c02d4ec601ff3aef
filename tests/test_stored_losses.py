"""The losses of twenty steps are those that are stored: a refactoring changes no number."""

from __future__ import annotations

import json

import pytest

from tests.stored_losses import FIXTURES, RECIPES, losses

TOLERANCE = 1e-5
"""Relative. On the machine they were stored on, the numbers are equal to the last bit. Other processors multiply
matrices with other instructions and so round differently: with those of 2007 (`ATEN_CPU_CAPABILITY=default
DNNL_MAX_CPU_ISA=SSE41`) no number of the 20 steps moved by more than 4e-7 of its value. A change in what is computed
moves them by a per cent at once."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_twenty_steps_give_the_stored_losses(tmp_path, recipe):
    found, stored = losses(tmp_path, recipe), json.loads((FIXTURES / f"{recipe}.json").read_text())
    assert [step.keys() for step in found] == [step.keys() for step in stored]
    for ours, theirs in zip(found, stored, strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=1e-7), f"step {theirs['step']}"
