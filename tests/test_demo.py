"""The demo from end to end, with a few steps of each training."""

from __future__ import annotations

import json
import re

import pytest

from samtune.demo import demo


@pytest.mark.slow
def test_the_demo_ends_with_what_it_finds_and_the_report_shows_it(tmp_path):
    found = demo(tmp_path / "demo", steps=5, quiet=True)
    figures = json.loads((found.paths["comparison"] / "comparison.json").read_text())["finds"]
    last = found.lines()[-1]
    assert re.fullmatch(
        rf"found {figures['right']} of {figures['objects']} objects without any prompt, with \d+ .+", last
    )
    assert f"found {figures['right']} of {figures['objects']} objects</b>" in found.paths["report"].read_text()
    assert list(figures["rows"]) == ["finder + base", "finder + tuned", "true boxes + tuned"]
