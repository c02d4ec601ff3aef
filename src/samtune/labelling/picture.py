"""The picture of a data curve: measured means with intervals, the fitted curve with its band, every run as a dot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from samtune.drawing import BASE, TUNED
from samtune.labelling.growth import band
from samtune.report.charts import hex_color

if TYPE_CHECKING:
    from samtune.labelling.curve import DataCurve

_STYLES = {"box": ("boxes", TUNED, "-"), "point": ("clicks", BASE, "--")}


def draw_curve(curve: DataCurve) -> Figure:
    """Held-out IoU against training images, up to the number that is foretold."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for kind, (name, rgb, line) in _STYLES.items():
        found, measured, color = curve.forecasts[kind], curve.measured[kind], hex_color(rgb)
        at = np.linspace(0, found.images + found.more, 80)
        low, high = band(measured, at.tolist())
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(at, [found.curve.at(number) for number in at], color=color, linestyle=line, label=name)
        for one in curve.points:
            mean = one.ious[kind]
            below, above = (0.0 if end is None else abs(end - mean.mean) for end in (mean.low, mean.high))
            axes.errorbar(one.images, mean.mean, [[below], [above]], color=color, marker="o", markersize=5, capsize=3)
        means = measured.ious.mean(2)
        axes.scatter(measured.images.ravel(), means.ravel(), s=9, color=color, alpha=0.5, linewidths=0)
    axes.axvline(curve.forecasts["box"].images, color="#888888", linewidth=1, linestyle=":")
    axes.set(xlabel="training images (dotted: all there are)", ylabel=f"mean IoU on {curve.split}")
    axes.set_title(f"{curve.dataset}, {curve.model}", fontsize=10)
    axes.legend(frameon=False, loc="best")
    return figure
