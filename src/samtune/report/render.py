"""The report as one HTML file, made from the files of a comparison and nothing else.

It opens from disk without a network: styles, charts and images are inside. Names from the data are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from samtune import __version__
from samtune.drawing import BASE, FALSE, MISSED, TRUTH, TUNED, hex_color
from samtune.errors import DataError
from samtune.evaluation.comparison import Comparison
from samtune.evaluation.results import BOUNDARIES, HAUSDORFF, TARGETS, ClicksNeeded, kind_title
from samtune.report.charts import (
    blend_chart,
    calibration_chart,
    clicks_chart,
    data_curve_chart,
    jitter_chart,
    scatter_chart,
    shares_chart,
    to_svg,
)
from samtune.report.folder import load_comparisons, load_finds
from samtune.training.tracking.chart import read_metrics, training_chart
from samtune.utils.files import write_json, write_text
from samtune.utils.text import one_line

REPORT = "report.html"
FIGURES = "report.json"
MOST_BYTES = 10_000_000
"""Size that a report stays below."""
_COLORS = {"truth": TRUTH, "base": BASE, "tuned": TUNED, "missed": MISSED, "false": FALSE}


def write_report(
    folder: Path, *, curve: Path | None = None, blend: Path | None = None, data_curve: Path | None = None
) -> Path:
    """Write `report.html` and `report.json` into the folder of a comparison.

    Args:
        folder: with the evaluations, `comparison.json` and the images it names; see `report/folder.py`.
        curve: a run's `metrics.jsonl`, for the training curve.
        blend: `blend.json` of a blended model, for the curve of blends.
        data_curve: `curve.json` of the dataset, for IoU against training images.

    Returns:
        The report's path.

    Raises:
        DataError: a file is missing or damaged.
        StorageError: the disk refused.
    """
    comparisons, gallery, health = load_comparisons(folder)
    comparison, finds = comparisons[0], load_finds(folder)
    loader = PackageLoader("samtune.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = (loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.jinja").render(
        comparison=comparison,
        ranking=comparisons,
        kinds={kind_title(kind): found for kind, found in comparison.kinds.items()},
        outcome=comparison.verdict.outcome.value.replace(" ", "-"),
        warnings=[text for text in comparison.warnings if text not in comparison.verdict.reasons],
        clicks_needed=_clicks_needed(comparison),
        edges={
            f"{kind_title(kind)}, {BOUNDARIES[name]}": one
            for kind, found in comparison.boundaries.items()
            for name, one in found.items()
        },
        distances={
            kind_title(kind): [model.boundaries(kind)[HAUSDORFF].mean for model in (comparison.base, comparison.tuned)]
            for kind in comparison.boundaries
        },
        charts=_charts(comparison, blend),
        training=_training(curve),
        data_curve=_data_curve(data_curve),
        health=health,
        gallery=[_embedded(row, folder) for row in gallery if row["images"]],
        filters=_filters(gallery),
        settings=_settings(comparison),
        reach=_reach(comparison),
        finds=finds,
        colors={name: hex_color(color) for name, color in _COLORS.items()},
        style=Markup(style),  # noqa: S704  (a file of this package)
        script=Markup(script),  # noqa: S704  (a file of this package)
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    write_text(folder / REPORT, page)
    write_json(folder / FIGURES, {**_figures(comparison), "finds": finds})
    return folder / REPORT


def _figures(comparison: Comparison) -> dict[str, Any]:
    """What the page shows, for programs: `comparison.json` without the gallery, and calibration, clicks, settings."""
    return {
        **comparison.to_json(),
        "calibration": {
            name: {kind: asdict(model.calibration(kind)) for kind in model.kinds}
            for name, model in (("base", comparison.base), ("tuned", comparison.tuned))
        },
        "clicks_needed": [
            {"target": before.target, "base": asdict(before), "tuned": asdict(after)}
            for before, after in _clicks_needed(comparison)
        ],
        "settings": _settings(comparison),
    }


def _clicks_needed(comparison: Comparison) -> list[tuple[ClicksNeeded, ClicksNeeded]]:
    """Clicks to each target, base and tuned; empty where no corrections were simulated."""
    pairs = [(comparison.base.clicks_needed(at), comparison.tuned.clicks_needed(at)) for at in TARGETS]
    return [(before, after) for before, after in pairs if before is not None and after is not None]


def _charts(comparison: Comparison, blend: Path | None) -> list[dict[str, Any]]:
    """The charts with their captions, as far as there are figures for them."""
    found: list[tuple[str, Figure | None, str]] = [
        ("scatter", scatter_chart(comparison), "One dot per object, exact boxes. Above the line, tuning helped."),
        (
            "shares",
            shares_chart(comparison),
            "Exact boxes: the higher a curve, the better; a model is worth something above the gray ones.",
        ),
        (
            "clicks",
            clicks_chart(comparison),
            "A simulated annotator clicks where the mask is most wrong. The bands are 95 % intervals.",
        ),
        ("jitter", jitter_chart(comparison), "Boxes drawn less exactly; at 0 they are exact."),
        (
            "calibration",
            calibration_chart(comparison),
            "Boxes and clicks. On the line the predicted IoU is right; larger dots stand for more masks.",
        ),
    ]
    if blend is not None and blend.is_file():
        content = json.loads(blend.read_text(encoding="utf-8"))
        caption = "This model is a blend (dotted line) of base and tuned weights, measured on the validation split."
        found.append(
            ("blend", blend_chart(content["points"], content["alpha"]) if content["points"] else None, caption)
        )
    return [
        {"svg": to_svg(figure, name), "caption": caption, "wide": False}
        for name, figure, caption in found
        if figure is not None
    ]


def _filters(gallery: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """What the gallery can be filtered by."""
    images = [image for row in gallery if row["kind"] == "objects" for image in row["images"]]
    return {name: sorted({image[name] for image in images}) for name in ("category", "size")}


def _settings(comparison: Comparison) -> dict[str, str]:
    """Everything that decides the figures, for people."""
    base, tuned = comparison.base, comparison.tuned
    return {
        "samtune": __version__,
        "base model": f"{base.model}, sha256 of its weights {base.weights}",
        "tuned model": f"{tuned.model}, sha256 of its weights {tuned.weights}",
        "dataset": base.dataset,
        **{name.replace("_", " "): str(value) for name, value in base.config.model_dump(mode="json").items()},
        "guards": ", ".join(comparison.sets) or "none",
        "tuned models compared": str(comparison.models),
    }


def _training(curve: Path | None) -> Markup | None:
    """The training curve, where there is a metrics file."""
    if curve is None or not curve.is_file():
        return None
    return to_svg(training_chart(read_metrics(curve)), "training")


def _data_curve(file: Path | None) -> dict[str, Any] | None:
    """IoU against training images and what more of them would bring, where that was measured.

    Raises:
        DataError: the file is not as `samtune curve` writes it.
    """
    if file is None or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        figure, forecasts = to_svg(data_curve_chart(content), "data"), content["forecasts"]
        names = {"box": "boxes", "point": "clicks"}
        return {"svg": figure, "forecasts": {names[kind]: forecasts[kind] for kind in names}, "from": content}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError.of(
            expected="a data curve that samtune curve wrote",
            found=one_line(error),
            where=str(file),
            do="measure it again",
        ) from error


def _embedded(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row of the gallery with its images as data addresses."""

    def address(file: str) -> str:
        data = base64.b64encode((folder / file).read_bytes()).decode("ascii")
        return f"data:image/jpeg;base64,{data}"

    images = [
        image | {"views": {name: address(file) for name, file in image["views"].items()}}
        if "views" in image
        else image | {"source": address(image["file"])}
        for image in row["images"]
    ]
    return {"title": row["title"], "kind": row["kind"], "images": images}


def _reach(comparison: Comparison) -> float:
    """The largest bound of any interval shown, so that all are drawn to one scale."""
    edges = [one for found in comparison.boundaries.values() for one in found.values()]
    shown = [*comparison.kinds.values(), *edges, *comparison.categories.values(), *comparison.sizes.values()]
    changes = [found.change for found in (*shown, *comparison.guards)]
    bounds = [abs(value) for one in changes for value in (one.low, one.mean, one.high) if value is not None]
    return max(0.02, min(1.0, max(bounds)))
