"""The evaluations of a comparison on disk: what a report is made from, and can be made from again.

OUT/base.json, OUT/tuned.json            both models on the split; further tuned models are tuned-2.json, tuned-3.json
OUT/guards/NAME/base.json, tuned.json    the same on the images of a guard
OUT/comparison.json                      paired differences, verdict, gallery, ranking, the dataset's health
OUT/automatic.json                       automatic masks of both models, where they were measured, for each tuned model
Beside each evaluation lies a Parquet file of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from samtune.errors import DataError
from samtune.evaluation.automatic import AutomaticComparison
from samtune.evaluation.comparison import Comparison, compare
from samtune.evaluation.results import Evaluation
from samtune.utils.files import write_json
from samtune.utils.text import one_line

COMPARISON = "comparison.json"
DATA_CURVE = "curve.json"
"""What `samtune curve` writes; a report shows it where it lies in the tuned model's folder."""
AUTOMATIC = "automatic.json"
GUARDS = "guards"
_AUTOMATIC = TypeAdapter(list[AutomaticComparison])


def save_comparisons(
    folder: Path, comparisons: Sequence[Comparison], gallery: list[dict[str, Any]], health: dict[str, Any]
) -> None:
    """Write the evaluations and `comparison.json`.

    Args:
        folder: exists.
        comparisons: with one base, the best first.
        gallery: rows of images.
        health: of the dataset, see `report/health.py`.
    """
    best = comparisons[0]
    best.base.save(folder / "base.json")
    for name, (base, _) in best.sets.items():
        (folder / GUARDS / name).mkdir(parents=True)
        base.save(folder / GUARDS / name / "base.json")
    for number, comparison in enumerate(comparisons):
        comparison.tuned.save(folder / _tuned(number))
        for name, (_, tuned) in comparison.sets.items():
            tuned.save(folder / GUARDS / name / _tuned(number))
    ranking = [
        {
            "model": one.tuned.model,
            "outcome": one.verdict.outcome.value,
            "verdict": str(one.verdict),
            "box": one.box.change.mean,
            "point": one.point.change.mean,
        }
        for one in comparisons
    ]
    write_json(folder / COMPARISON, best.to_json() | {"ranking": ranking, "gallery": gallery, "health": health})
    if best.automatic is not None:
        write_json(folder / AUTOMATIC, [asdict(one.automatic) for one in comparisons if one.automatic])


def load_comparisons(folder: Path) -> tuple[list[Comparison], list[dict[str, Any]], dict[str, Any]]:
    """Comparisons, the best first, the gallery's rows and the dataset's health, as `save_comparisons` wrote them.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        content = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        models, gallery, health = len(content["ranking"]), list(content["gallery"]), dict(content["health"])
        found = _AUTOMATIC.validate_json(text) if (text := _text(folder / AUTOMATIC)) else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError.of(
            expected="a folder that samtune compare wrote",
            found=str(error),
            where=str(folder / COMPARISON),
            do="compare again",
        ) from error
    base = Evaluation.load(folder / "base.json")
    names = sorted(path.name for path in (folder / GUARDS).glob("*")) if (folder / GUARDS).is_dir() else []
    guards = {name: Evaluation.load(folder / GUARDS / name / "base.json") for name in names}
    comparisons = [
        compare(
            base,
            Evaluation.load(folder / _tuned(number)),
            sets={
                name: (first, Evaluation.load(folder / GUARDS / name / _tuned(number)))
                for name, first in guards.items()
            },
            models=models,
        )
        for number in range(models)
    ]
    with_automatic = [replace(one, automatic=these) for one, these in zip(comparisons, found, strict=False)]
    return [*with_automatic, *comparisons[len(found) :]], gallery, health


def data_curve_in(folder: Path) -> Path:
    """The file of a data curve in the folder that `samtune curve` wrote.

    Raises:
        DataError: there is none.
    """
    if not (folder / DATA_CURVE).is_file():
        raise DataError.of(
            expected=f"a folder with {DATA_CURVE}, as samtune curve writes it",
            found="no such file" if folder.is_dir() else "no such folder",
            where=str(folder),
            do="measure the curve first, or let an interrupted one go on: samtune curve DATASET --out FOLDER",
        )
    return folder / DATA_CURVE


def load_finds(folder: Path) -> dict[str, Any] | None:
    """What the tuned model's finder found, as `comparison.json` has it; None where it has none.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        found = json.loads((folder / COMPARISON).read_text(encoding="utf-8")).get("finds")
        return None if found is None else {**found, "rows": dict(found["rows"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError.of(
            expected="figures of a finder that samtune compare wrote",
            found=one_line(error),
            where=str(folder / COMPARISON),
            do="compare again",
        ) from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _tuned(number: int) -> str:
    return f"tuned-{number + 1}.json" if number else "tuned.json"
