"""A search from its command to its table, chart and winner; and the winner against the settings as given, held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from samtune.config import EvalConfig, SweepConfig, TrainConfig
from samtune.data.table import Dataset
from samtune.errors import ConfigError
from samtune.evaluation.comparison import compare
from samtune.evaluation.paired import PairedDifference
from samtune.evaluation.protocol import evaluate_all
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.runtime.device import choose_device
from samtune.search.trials import JOURNAL, Search, Tried, winner
from samtune.training.checkpoint import RUNS
from samtune.utils.files import new_file, storage_errors, write_json, write_text
from samtune.utils.output_folders import alone_in, check_output
from samtune.utils.results import Result
from samtune.utils.text import csv_text, text_table

DEFAULT_FOLDER = Path(RUNS) / "sweep"
ABOUT, TABLE, CHART = "sweep.json", "sweep.csv", "sweep.png"
_SHOWN = 12
"""Trials that the terminal shows, the best first."""


@dataclass(frozen=True, slots=True)
class SweepReport(Result):
    """How a search ended.

    Attributes:
        folder: of the search; trials are runs in it.
        trials: all of them.
        winner: the best of those trained to their end; a run to use like any other.
        signal: number of the signal that interrupted the search, or None.
        test: the winner against the settings as given on the test split, by kind of prompt, where there are objects.
    """

    folder: Path
    trials: tuple[Tried, ...]
    winner: Path | None
    signal: int | None = None
    test: dict[str, PairedDifference] | None = None

    def rows(self) -> list[list[str]]:
        """The table of all trials, the best first, its first row the titles."""
        names = list(dict.fromkeys(name for one in self.trials for name in one.choice))
        ranked = sorted(self.trials, key=lambda one: (one.state == "complete", one.iou or 0.0), reverse=True)
        table = [["trial", "state", "valid IoU", "steps", "seconds", *names]]
        for one in ranked:
            last = one.steps[-1][0] if one.steps else 0
            figures = ["" if one.iou is None else f"{one.iou:.4f}", str(last), f"{one.seconds:.0f}"]
            table.append([f"trial-{one.number}", one.state, *figures, *(_text(one.choice.get(n)) for n in names)])
        return table

    def lines(self) -> list[str]:
        """What to tell the user."""
        head, *rows = self.rows()
        more = [f"and {len(rows) - _SHOWN} more, see {self.folder / TABLE}"] if len(rows) > _SHOWN else []
        shown = [*text_table(head, rows[:_SHOWN]), *more]
        if self.signal is not None:
            return [*shown, "interrupted; the same command goes on"]
        given = f"winner     {self.winner}" if self.winner else "no trial was trained to its end"
        test = [f"test split, {kind}: settings as given -> winner {found}" for kind, found in (self.test or {}).items()]
        return [*shown, given, *test]


def sweep(
    dataset: Path, base: TrainConfig, config: SweepConfig, report: Callable[[Tried], None] = lambda tried: None
) -> SweepReport:
    """Search for settings, or go on with a search, until its budget is spent.

    Args:
        dataset: a prepared dataset with a validation split.
        base: settings that the search starts from; its `out` is the search's folder, runs/sweep when it names none.
        config: budget and dimensions.
        report: told every trial that has ended.

    Raises:
        ConfigError: no validation split, --train auto, or the folder holds another search or something else.
        DataError, ModelError, StorageError, SamtuneError: as for training.
    """
    data = Dataset.open(dataset)
    _require_validation(data)
    if base.trainable.train == "auto":
        raise ConfigError.of(
            expected="what the trials learn, since a search tries that itself",
            found="--train auto",
            do="leave it out, or name it, such as --train decoder",
        )
    folder = base.out or DEFAULT_FOLDER
    _take_folder(folder, dataset, base, config)
    with alone_in(folder, "a search"):
        (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)  # Optuna's own, which it leaves behind when it is killed
        search = Search(dataset, base, config, folder)
        signal = search.run(choose_device(base.device).type, report)
        tried = tuple(search.tried())
    best = winner(tried)
    found = SweepReport(folder, tried, search.folder(best.number) if best else None, signal)
    write_text(folder / TABLE, csv_text(found.rows()))
    with new_file(folder / CHART) as temporary:
        sweep_chart(tried).savefig(temporary, format="png", dpi=110)
    if signal is not None or best is None:
        return found
    test = _on_test(data, base, search.folder(0), search.folder(best.number)) if best.number else None
    return SweepReport(folder, tried, found.winner, None, test)


def sweep_chart(tried: tuple[Tried, ...]) -> Figure:
    """Every trial's course on the validation split, and what each reached at its learning rate."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = winner(tried)
    for one in tried:
        if not one.steps:
            continue
        is_best = best is not None and one.number == best.number
        color = "#e69f00" if is_best else "#56b4e9" if one.state == "complete" else "#999999"
        left.plot(*zip(*one.steps, strict=True), color=color, linewidth=2 if is_best else 1, marker="o", markersize=3)
        if "lr" in one.choice:
            right.scatter(one.choice["lr"], one.iou, color=color, s=24)
            right.annotate(str(one.number), (one.choice["lr"], one.iou or 0.0), fontsize=7)
    left.set(xlabel="step", ylabel="validation IoU", title="orange: winner, grey: stopped early")
    right.set(xlabel="learning rate", ylabel="best validation IoU")
    right.set_xscale("log")
    return figure


def _require_validation(data: Dataset) -> None:
    if not any(image.single_objects for image in data.split("valid").images):
        raise ConfigError.of(
            expected="a validation split with objects, by which a search decides",
            found="none",
            where=str(data.root),
            do="prepare the dataset with --split 0.7,0.15,0.15; related images stay together in it",
        )


def _take_folder(folder: Path, dataset: Path, base: TrainConfig, config: SweepConfig) -> None:
    """Make the folder of a search, or make sure that what is in it is the same search."""
    about = _about(dataset, base, config)
    path = folder / ABOUT
    if path.is_file():
        with storage_errors(path):
            before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in about if before.get(name) != about[name]]
        if changed:
            raise ConfigError.of(
                expected="the search that was begun in this folder",
                found=f"another {', '.join(changed)}",
                where=str(folder),
                do="choose another --out, or give what it was begun with",
            )
        return
    check_output(folder)
    write_json(path, about)


def _about(dataset: Path, base: TrainConfig, config: SweepConfig) -> dict[str, Any]:
    settings = base.model_dump(mode="json", exclude={"out", "name", "workers", "device"})
    return {
        "dataset": str(dataset.resolve()),
        "settings": settings,
        "search": list(config.search),
        "measure": config.measure,
    }


def _on_test(data: Dataset, base: TrainConfig, given: Path, best: Path) -> dict[str, PairedDifference] | None:
    """The winner against the settings as given on the test split, which nothing was chosen by."""
    if not any(image.single_objects for image in data.split("test").images):
        return None
    asked = EvalConfig.exact_prompts("test")
    models = [Predictor(load_model(run, device=choose_device(base.device))) for run in (given, best)]
    before, after = evaluate_all(models, data, asked, names=("settings as given", "winner"))
    return dict(compare(before, after).kinds)


def _text(value: Any) -> str:
    return f"{value:.2e}" if isinstance(value, float) else "" if value is None else str(value)
