"""The report: one HTML file with everything in it, made from the files of a comparison and nothing else.

It opens from disk without a network: styles, charts and pictures are inside. Names from the data are escaped.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from samtune.evaluation.compare import Comparison, compare
from samtune.evaluation.evaluate import Evaluation
from samtune.evaluation.pictures import BASE, TRUTH, TUNED
from samtune.files import write_text

REPORT = "report.html"
_GRAY = "#888888"
_SMOOTH = 0.05
"""Share of the curve that each point of the smoothed loss is a mean of."""


def write_report(folder: Path, *, curve: Path | None = None) -> Path:
    """Write `report.html` into the folder of a comparison.

    Args:
        folder: with `base.json`, `tuned.json`, `comparison.json` and the pictures these name.
        curve: a run's `metrics.jsonl`, for the training curve.

    Returns:
        The report's path.

    Raises:
        ModelError: a file is missing or damaged.
        StorageError: the disk refused.
    """
    comparison = compare(Evaluation.load(folder / "base.json"), Evaluation.load(folder / "tuned.json"))
    gallery = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["pictures"]
    environment = Environment(
        loader=PackageLoader("samtune.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        comparison=comparison,
        state="better" if comparison.box.is_better else "worse" if comparison.box.is_worse else "unclear",
        gallery=[_embedded(row, folder) for row in gallery if row["pictures"]],
        scatter=_svg(_scatter(comparison)),
        training=_svg(_training(_lines(curve))) if curve is not None and curve.is_file() else None,
        colors={name: _hex(color) for name, color in (("truth", TRUTH), ("base", BASE), ("tuned", TUNED))},
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def _embedded(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row of the gallery with its pictures as data addresses."""
    pictures: list[dict[str, str]] = []
    for picture in row["pictures"]:
        data = base64.b64encode((folder / picture["file"]).read_bytes()).decode("ascii")
        pictures.append({"caption": picture["caption"], "source": f"data:image/jpeg;base64,{data}"})
    return {"title": row["title"], "pictures": pictures}


def _scatter(comparison: Comparison) -> Figure:
    """Base against tuned IoU, one dot per object: above the diagonal, tuning helped."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1)
    axes.scatter(
        comparison.base.values("box"), comparison.tuned.values("box"), s=14, alpha=0.6, color=_hex(TUNED), linewidths=0
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the base model", ylabel="IoU of the tuned model", aspect="equal")
    return figure


def _training(lines: Sequence[dict[str, Any]]) -> Figure:
    """Loss of every step with its running mean, and IoU on fixed prompts."""
    steps = [line for line in lines if "loss" in line]
    measured = [line for line in lines if "loss" not in line]
    figure = Figure(figsize=(9.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [line["loss"] for line in steps]
    left.plot([line["step"] for line in steps], losses, color=_GRAY, alpha=0.4, linewidth=0.6)
    left.plot([line["step"] for line in steps], _running_mean(losses), color=_hex(TUNED))
    left.set(xlabel="step", ylabel="loss")
    names = [name for name in measured[0] if "/" in name] if measured else []
    for name, color in zip(names, (TUNED, BASE, TRUTH, (204, 121, 167)), strict=False):
        points = [line[name] for line in measured]
        right.plot([line["step"] for line in measured], points, marker="o", markersize=3, label=name, color=_hex(color))
    right.set(xlabel="step", ylabel="mean IoU, fixed prompts")
    if names:
        right.legend(frameon=False)
    return figure


def _running_mean(values: Sequence[float]) -> list[float]:
    width = max(1, round(len(values) * _SMOOTH))
    means: list[float] = []
    total = 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means


def _svg(figure: Figure) -> Markup:
    """A figure as SVG to stand in the page; its text follows the page's colour."""
    buffer = io.StringIO()
    style = {"svg.hashsalt": "samtune", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :].replace("#000000", "currentColor")
    return Markup(drawing)  # noqa: S704  (drawn above from numbers and fixed labels)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
