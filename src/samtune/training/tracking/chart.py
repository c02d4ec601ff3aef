"""The course of a run as a chart, from its metrics file: `training.png` in its folder, and a part of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.drawing import BASE, TRUTH, TUNED, hex_color
from samtune.training.tracking.events import Event, Listener, RunFinished
from samtune.utils.files import new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samtune.training.checkpoint import RunFolder

_GRAY = "#888888"
_SMOOTH = 0.05
"""Share of the curve that each point of the smoothed loss is a mean of."""


def chart_listener(folder: RunFolder) -> Listener:
    """Draws `training.png` when a run ends or is interrupted."""

    def listen(event: Event) -> None:
        if isinstance(event, RunFinished) and (lines := read_metrics(folder.metrics)):
            with new_file(folder.chart) as temporary:
                training_chart(lines).savefig(temporary, format="png", dpi=110)

    return listen


def training_chart(lines: Sequence[dict[str, Any]]) -> Figure:
    """Loss of every step with its running mean, and IoU on fixed prompts."""
    from matplotlib.figure import Figure  # takes a while to load, and runs and the studio only read metrics here

    steps = [line for line in lines if line.get("loss") is not None]  # null: it was no finite number
    measured = [line for line in lines if "loss" not in line]
    figure = Figure(figsize=(9.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [line["loss"] for line in steps]
    left.plot([line["step"] for line in steps], losses, color=_GRAY, alpha=0.4, linewidth=0.6)
    left.plot([line["step"] for line in steps], _running_mean(losses), color=hex_color(TUNED))
    left.set(xlabel="step", ylabel="loss")
    names = [name for name in measured[0] if "/" in name] if measured else []
    for name, color in zip(names, (TUNED, BASE, TRUTH, (204, 121, 167)), strict=False):
        points = [line[name] for line in measured]
        right.plot(
            [line["step"] for line in measured], points, marker="o", markersize=3, label=name, color=hex_color(color)
        )
    right.set(xlabel="step", ylabel="mean IoU, fixed prompts")
    if names:
        right.legend(frameon=False)
    return figure


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; what a crash has cut off is left out, and no file has no lines."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def _running_mean(values: Sequence[float]) -> list[float]:
    width = max(1, round(len(values) * _SMOOTH))
    means: list[float] = []
    total = 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means
