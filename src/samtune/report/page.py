"""The report: one HTML file with everything in it, made from the files of a comparison and nothing else.

It opens from disk without a network: styles, charts and pictures are inside. Names from the data are escaped.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from samtune.drawing import BASE, TRUTH, TUNED
from samtune.evaluation.comparison import Comparison, compare
from samtune.evaluation.protocol import Evaluation
from samtune.utils.files import write_text

REPORT = "report.html"
_GRAY = "#888888"
_MANY = 3000
"""From this many objects on, dots are drawn as pixels: the file stays small."""
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
        DataError: a file is missing or damaged.
        StorageError: the disk refused.
    """
    comparison = compare(Evaluation.load(folder / "base.json"), Evaluation.load(folder / "tuned.json"))
    gallery = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["pictures"]
    environment = Environment(
        loader=PackageLoader("samtune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        comparison=comparison,
        gallery=[_embedded(row, folder) for row in gallery if row["pictures"]],
        reach=_reach(comparison),
        scatter=_svg(_scatter(comparison), "scatter"),
        shares=_svg(_shares(comparison), "shares"),
        training=_svg(_training(_lines(curve)), "training") if curve is not None and curve.is_file() else None,
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
    return {"title": row["title"], "kind": row["kind"], "pictures": pictures}


def _scatter(comparison: Comparison) -> Figure:
    """Base against tuned IoU, one dot per object: above the diagonal, tuning helped."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1)
    before, after = comparison.base.values("box"), comparison.tuned.values("box")
    many = len(before) > _MANY
    axes.scatter(before, after, s=14, alpha=0.15 if many else 0.6, color=_hex(TUNED), linewidths=0, rasterized=many)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the base model", ylabel="IoU of the tuned model", aspect="equal")
    return figure


def _shares(comparison: Comparison) -> Figure:
    """Share of objects whose box IoU is at least x, for both models and both trivial guesses: higher is better."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    objects = comparison.tuned.objects
    rows: list[tuple[str, list[float], str, str]] = [
        ("tuned", comparison.tuned.values("box"), _hex(TUNED), "-"),
        ("base", comparison.base.values("box"), _hex(BASE), "-"),
        ("ellipse", [one.ellipse for one in objects], _GRAY, "--"),
        ("filled box", [one.filled_box for one in objects], _GRAY, ":"),
    ]
    for name, values, color, line in rows:
        at, share = [0.0, *sorted(values), 1.0], [1.0, *(1 - n / len(values) for n in range(len(values))), 0.0]
        axes.step(at, share, where="pre", label=name, color=color, linestyle=line, linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="IoU", ylabel="share of objects with at least this IoU")
    axes.legend(frameon=False, loc="lower left")
    return figure


def _reach(comparison: Comparison) -> float:
    """The largest bound of any interval shown, so that all are drawn to one scale."""
    shown = [comparison.box, comparison.point, *comparison.categories.values()]
    changes = [found.change for found in (*shown, *comparison.guards)]
    bounds = [abs(value) for one in changes for value in (one.low, one.mean, one.high) if value is not None]
    return max(0.02, min(1.0, max(bounds)))


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


def _svg(figure: Figure, name: str) -> Markup:
    """A figure as SVG to stand in the page: ids of its own, and text in the page's colour."""
    buffer = io.StringIO()
    style: dict[Any, Any] = {"svg.hashsalt": "samtune", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :].replace("#000000", "currentColor")
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    return Markup(drawing)  # noqa: S704  (drawn above from numbers and fixed labels)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a crash is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
