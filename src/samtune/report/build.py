"""Two models compared on a dataset, as a folder with figures, images and report.

OUT/base.json, OUT/tuned.json   every object's figures (docs/evaluation.md)
OUT/comparison.json             the paired differences and the verdict
OUT/gallery/                    panels of the best, worst and most changed objects; masks found without a prompt
OUT/report.html                 all of it in one file
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from samtune.config import EvalConfig
from samtune.data.table import Dataset
from samtune.evaluation.comparison import Comparison, compare
from samtune.evaluation.protocol import evaluate_all
from samtune.inference.predictor import Predictor
from samtune.report.gallery import GALLERY, Advance, draw_gallery
from samtune.report.render import write_report
from samtune.utils.files import new_folder, write_json
from samtune.utils.output_folders import check_output

COMPARISON = "comparison.json"


def build_report(
    dataset: Dataset,
    base: Predictor,
    tuned: Predictor,
    out: Path,
    config: EvalConfig,
    *,
    names: tuple[str, str],
    curve: Path | None = None,
    progress: Advance = lambda what, done, total: None,
) -> Comparison:
    """Evaluate both models on the same prompts, compare them, draw the gallery, write the report.

    Args:
        dataset: whole; the split is chosen by `config`.
        base, tuned: the models.
        out: folder to write, as a whole or not at all; an earlier comparison there is replaced.
        config: what to measure.
        names: what to call the two models.
        curve: `metrics.jsonl` of the run, for its training curve.
        progress: called with what is being done, images done and their total.

    Raises:
        ConfigError: `out` holds something that is no comparison.
        DataError: the split has no objects, or an image cannot be read.
        StorageError: the disk refused.
    """
    check_output(out, mark=COMPARISON, earlier="an earlier comparison")
    measuring = _named(progress, "measuring both")
    comparison = compare(*evaluate_all((base, tuned), dataset, config, names=names, progress=measuring))
    with new_folder(out) as folder:
        comparison.base.save(folder / "base.json")
        comparison.tuned.save(folder / "tuned.json")
        gallery = draw_gallery(dataset, (base, tuned), comparison, folder / GALLERY, progress)
        write_json(folder / COMPARISON, comparison.to_json() | {"gallery": gallery})
        write_report(folder, curve=curve)
    return comparison


def _named(progress: Advance, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
