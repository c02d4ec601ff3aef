"""The report's charts: matplotlib figures as SVG that takes the page's colours, drawn from a comparison's figures."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samtune.drawing import BASE, TUNED, hex_color
from samtune.evaluation.comparison import Comparison
from samtune.evaluation.fixed_prompts import JITTER
from samtune.evaluation.metrics import calibration
from samtune.evaluation.results import Evaluation

_GRAY = "#888888"
_MANY = 3000
"""From this many objects on, dots are drawn as pixels: the file stays small."""


def scatter_chart(comparison: Comparison) -> Figure:
    """Base against tuned IoU, one dot per object: above the diagonal, tuning helped."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1)
    before, after = comparison.base.values("box"), comparison.tuned.values("box")
    many = len(before) > _MANY
    axes.scatter(
        before, after, s=14, alpha=0.15 if many else 0.6, color=hex_color(TUNED), linewidths=0, rasterized=many
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the base model", ylabel="IoU of the tuned model", aspect="equal")
    return figure


def shares_chart(comparison: Comparison) -> Figure:
    """Share of objects whose box IoU is at least x, for both models and both trivial guesses: higher is better."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    objects = comparison.tuned.objects
    rows: list[tuple[str, list[float], str, str]] = [
        ("tuned", comparison.tuned.values("box"), hex_color(TUNED), "-"),
        ("base", comparison.base.values("box"), hex_color(BASE), "-"),
        ("ellipse", [one.ellipse for one in objects], _GRAY, "--"),
        ("filled box", [one.filled_box for one in objects], _GRAY, ":"),
    ]
    for name, values, color, line in rows:
        at, share = [0.0, *sorted(values), 1.0], [1.0, *(1 - n / len(values) for n in range(len(values))), 0.0]
        axes.step(at, share, where="pre", label=name, color=color, linestyle=line, linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="IoU", ylabel="share of objects with at least this IoU")
    axes.legend(frameon=False, loc="lower left")
    return figure


def clicks_chart(comparison: Comparison) -> Figure | None:
    """IoU after each click of the simulated annotator with 95 % intervals; None where none was simulated."""
    if not comparison.clicks:
        return None
    figure, axes = _axes()
    for name, model, color, line in _models(comparison):
        found = model.after_clicks()
        at = list(range(1, len(found) + 1))
        _banded(axes, at, [one.mean for one in found], [(one.low, one.high) for one in found], name, color, line)
    axes.set(xlabel="clicks", ylabel="mean IoU", xticks=list(range(1, len(comparison.clicks) + 1)))
    axes.legend(frameon=False, loc="lower right")
    return figure


def jitter_chart(comparison: Comparison) -> Figure | None:
    """IoU against how far the box's edges move; None where no jittered boxes were measured."""
    kinds = ["box", *(kind for kind in comparison.base.kinds if kind.startswith(JITTER))]
    if len(kinds) < 2:
        return None
    at = [0.0, *(float(kind.removeprefix(JITTER)) for kind in kinds[1:])]
    figure, axes = _axes()
    for name, model, color, line in _models(comparison):
        found = [model.summary(kind) for kind in kinds]
        _banded(axes, at, [one.mean for one in found], [(one.low, one.high) for one in found], name, color, line)
    axes.set(xlabel="box edges move by up to this share of the side", ylabel="mean IoU", xticks=at)
    axes.legend(frameon=False, loc="lower left")
    return figure


def calibration_chart(comparison: Comparison) -> Figure:
    """Reliability: mean IoU of the masks in each tenth of the predicted IoU, boxes and clicks together."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=_GRAY, linewidth=1)
    for name, model, color, line in _models(comparison):
        predicted = [*model.values("box", "predicted_iou"), *model.values("point", "predicted_iou")]
        found = calibration(predicted, [*model.values("box"), *model.values("point")])
        assert found is not None
        places = [one.predicted for one in found.bins]
        axes.plot(places, [one.reached for one in found.bins], color=color, linestyle=line, linewidth=1.2)
        sizes = [8 + 60 * one.count / len(predicted) for one in found.bins]
        axes.scatter(places, [one.reached for one in found.bins], s=sizes, color=color, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted IoU", ylabel="IoU reached", aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return figure


def blend_chart(points: Sequence[Mapping[str, Any]], alpha: float) -> Figure:
    """Gain and largest loss of the blends between base (0) and tuned model (1)."""
    figure, axes = _axes()
    at = [point["alpha"] for point in points]
    axes.axhline(0, color=_GRAY, linewidth=1)
    axes.axvline(alpha, color=_GRAY, linewidth=1, linestyle=":")
    for name, color, line in (("box", hex_color(TUNED), "-"), ("point", hex_color(BASE), "--")):
        label = {"box": "boxes", "point": "clicks"}[name]
        axes.plot(at, [point["gains"][name] for point in points], color=color, linestyle=line, marker="o", label=label)
    worst = [min(point["guards"].values(), default=0.0) for point in points]
    axes.plot(at, worst, color=_GRAY, linestyle="-.", label="worst guard")
    axes.set(xlabel="alpha (0 base, 1 tuned)", ylabel="difference to the base model")
    axes.legend(frameon=False)
    return figure


def data_curve_chart(content: Mapping[str, Any]) -> Figure:
    """Held-out IoU against training images: measured means with intervals, every run, the fitted curve with its band.

    Args:
        content: of `curve.json`, as in docs/evaluation.md.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for kind, label, rgb, line in (("box", "boxes", TUNED, "-"), ("point", "clicks", BASE, "--")):
        ahead, color = content["forecasts"][kind], hex_color(rgb)
        fit = ahead["band"]
        axes.fill_between(fit["images"], fit["low"], fit["high"], color=color, alpha=0.15, linewidth=0)
        axes.plot(fit["images"], fit["fitted"], color=color, linestyle=line, label=label)
        for point in content["points"]:
            found, runs = point["ious"][kind], point["seeds"][kind]
            bounds = [[0.0 if found[end] is None else abs(found[end] - found["mean"])] for end in ("low", "high")]
            axes.errorbar(point["images"], found["mean"], bounds, color=color, marker="o", markersize=5, capsize=3)
            axes.scatter([point["images"]] * len(runs), runs, s=9, color=_GRAY, linewidths=0, zorder=3)
    axes.axvline(content["forecasts"]["box"]["images"], color=_GRAY, linewidth=1, linestyle=":")
    axes.set(xlabel="training images (dotted line: all there are)", ylabel=f"mean IoU on {content['split']}")
    axes.legend(frameon=False, loc="best")
    return figure


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    return figure, figure.add_subplot()


def _models(comparison: Comparison) -> tuple[tuple[str, Evaluation, str, str], ...]:
    """Name, evaluation, colour and line of both models."""
    return ("base", comparison.base, hex_color(BASE), "--"), ("tuned", comparison.tuned, hex_color(TUNED), "-")


def _banded(
    axes: Axes,
    at: Sequence[float],
    means: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
    name: str,
    color: str,
    line: str,
) -> None:
    """A line with its interval as a band, where there is one."""
    axes.plot(at, means, color=color, linestyle=line, marker="o", markersize=4, label=name)
    lows, highs = [low for low, _ in bounds if low is not None], [high for _, high in bounds if high is not None]
    if len(lows) == len(highs) == len(at):
        axes.fill_between(at, lows, highs, color=color, alpha=0.15, linewidth=0)


def to_svg(figure: Figure, name: str) -> Markup:
    """A figure as SVG inside a page: ids of its own, and text in the page's colour."""
    buffer = io.StringIO()
    style: dict[Any, Any] = {"svg.hashsalt": "samtune", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :].replace("#000000", "currentColor")
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    return Markup(drawing)  # noqa: S704  (drawn above from numbers and fixed labels)
