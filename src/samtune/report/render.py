"""The report as one HTML file, made from the files of a comparison and nothing else.

It opens from disk without a network: styles, charts and images are inside. Names from the data are escaped.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from samtune.drawing import BASE, TRUTH, TUNED
from samtune.evaluation.comparison import Comparison
from samtune.evaluation.results import kind_title
from samtune.report.charts import hex_color, read_metrics, scatter_chart, shares_chart, to_svg, training_chart
from samtune.report.folder import load_comparisons
from samtune.utils.files import write_text

REPORT = "report.html"


def write_report(folder: Path, *, curve: Path | None = None) -> Path:
    """Write `report.html` into the folder of a comparison.

    Args:
        folder: with `base.json`, `tuned.json`, `comparison.json` and the images these name.
        curve: a run's `metrics.jsonl`, for the training curve.

    Returns:
        The report's path.

    Raises:
        DataError: a file is missing or damaged.
        StorageError: the disk refused.
    """
    comparisons, gallery = load_comparisons(folder)
    comparison = comparisons[0]
    environment = Environment(
        loader=PackageLoader("samtune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        comparison=comparison,
        ranking=comparisons,
        kind_title=kind_title,
        outcome=comparison.verdict.outcome.value.replace(" ", "-"),
        gallery=[_embedded(row, folder) for row in gallery if row["images"]],
        reach=_reach(comparison),
        scatter=to_svg(scatter_chart(comparison), "scatter"),
        shares=to_svg(shares_chart(comparison), "shares"),
        training=_training(curve),
        colors={name: hex_color(color) for name, color in (("truth", TRUTH), ("base", BASE), ("tuned", TUNED))},
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def _training(curve: Path | None) -> Markup | None:
    """The training curve, where there is a metrics file."""
    if curve is None or not curve.is_file():
        return None
    return to_svg(training_chart(read_metrics(curve)), "training")


def _embedded(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row of the gallery with its images as data addresses."""
    images: list[dict[str, str]] = []
    for image in row["images"]:
        data = base64.b64encode((folder / image["file"]).read_bytes()).decode("ascii")
        images.append({"caption": image["caption"], "source": f"data:image/jpeg;base64,{data}"})
    return {"title": row["title"], "kind": row["kind"], "images": images}


def _reach(comparison: Comparison) -> float:
    """The largest bound of any interval shown, so that all are drawn to one scale."""
    shown = [comparison.box, comparison.point, *comparison.categories.values()]
    changes = [found.change for found in (*shown, *comparison.guards)]
    bounds = [abs(value) for one in changes for value in (one.low, one.mean, one.high) if value is not None]
    return max(0.02, min(1.0, max(bounds)))
