"""The runs in a folder side by side: what they reached on validation, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.errors import DataError, ModelError
from samtune.training.checkpoint import RUNS, RunFolder, read_about, read_progress, read_settings
from samtune.training.identity import PLACES, flat
from samtune.training.tracking.chart import read_metrics
from samtune.utils.results import Result
from samtune.utils.text import csv_text, text_table

_SHOWN = PLACES | {"steps"}
"""Settings that are in no column of their own: what all runs differ in, and what stands beside the steps done."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run.

    Attributes:
        name: of its folder.
        dataset: folder of its dataset.
        base: name of its base model.
        steps: steps done.
        of_steps: steps it was to do.
        best_step: step of its best weights; 0 is the base model, None where nothing has been measured yet.
        best_share: how far these lie from the base model's towards those of that step; 1 is all the way.
        before: mean IoU of the base model on the validation split, by kind of prompt.
        best: that of the best weights.
        settings: all of them, with dotted names.
    """

    name: str
    dataset: str
    base: str
    steps: int
    of_steps: int
    best_step: int | None
    best_share: float
    before: dict[str, float]
    best: dict[str, float]
    settings: dict[str, Any]

    @property
    def best_at(self) -> str:
        """The step of its best weights, and how far towards it they are where it is not all the way."""
        step = "" if self.best_step is None else str(self.best_step)
        return step if self.best_share == 1 else f"{step}, {self.best_share:.0%}"


@dataclass(frozen=True, slots=True)
class RunTable(Result):
    """Runs side by side.

    Attributes:
        folder: where they are.
        runs: by name; runs of other versions, whose settings cannot be read, are left out.
        unread: names of those.
    """

    folder: Path
    runs: tuple[RunRow, ...]
    unread: tuple[str, ...] = ()

    @property
    def differing(self) -> list[str]:
        """Names of the settings that are not the same in all runs."""
        names = dict.fromkeys(name for run in self.runs for name in run.settings)
        return [
            name
            for name in names
            if name not in _SHOWN and len({repr(run.settings.get(name)) for run in self.runs}) > 1
        ]

    def rows(self) -> list[list[str]]:
        """The table, its first row the titles."""
        kinds = list(dict.fromkeys(kind for run in self.runs for kind in run.best))
        several = len({run.dataset for run in self.runs}) > 1
        titles = ["run", *(["dataset"] if several else []), "steps", "best at"]
        titles += [title for kind in kinds for title in (f"{kind} base", f"{kind} best")] + self.differing
        table = [titles]
        for run in self.runs:
            figures = [_figure(values.get(kind)) for kind in kinds for values in (run.before, run.best)]
            row = [run.name, *([Path(run.dataset).name] if several else []), f"{run.steps}/{run.of_steps}", run.best_at]
            table.append([*row, *figures, *(_setting(run.settings.get(name)) for name in self.differing)])
        return table

    def lines(self) -> list[str]:
        """What to tell the user."""
        note = "IoU on the validation split's fixed prompts, which also chose the best step: compare on the test split"
        left_out = [f"left out, settings of another version: {', '.join(self.unread)}"] if self.unread else []
        head, *rows = self.rows()
        return [*text_table(head, rows), note, *left_out]

    def to_csv(self) -> str:
        """The table as CSV."""
        return csv_text(self.rows())


def list_runs(folder: Path = Path(RUNS)) -> RunTable:
    """The runs in a folder.

    Raises:
        DataError: there is no such folder, or no run in it.
    """
    found = sorted(path.parent for path in folder.glob("*/config.yaml")) if folder.is_dir() else []
    if not found:
        raise DataError.of(
            expected="a folder with runs in it",
            found="no run" if folder.is_dir() else "no such folder",
            where=str(folder),
            do="give the folder that holds the run folders; `samtune train` makes them under runs/",
        )
    rows: list[RunRow] = []
    unread: list[str] = []
    for path in found:
        try:
            rows.append(_row(RunFolder(path)))
        except ModelError:
            unread.append(path.name)
    return RunTable(folder, tuple(rows), tuple(unread))


def _row(folder: RunFolder) -> RunRow:
    dataset, config = read_settings(folder)
    lines = read_metrics(folder.metrics)
    measured = [line for line in lines if "loss" not in line]
    best = max((line for line in measured if line.get("best")), key=lambda line: line["step"], default=None)
    progress = read_progress(folder)
    went_back = progress.best_share < 1  # at the end, to weights that the lines of validations do not know
    return RunRow(
        name=folder.path.name,
        dataset=str(dataset),
        base=str(read_about(folder).get("base", {}).get("name", config.model)),
        steps=max((line["step"] for line in lines), default=0),
        of_steps=config.steps,
        best_step=progress.best_step if went_back else best["step"] if best else None,
        best_share=progress.best_share,
        before=_held_out(measured[0] if measured else {}),
        best=progress.best if went_back else _held_out(best or {}),
        settings=flat(config.model_dump(mode="json")),
    )


def _held_out(line: Mapping[str, Any]) -> dict[str, float]:
    found = {name.removeprefix("valid/"): value for name, value in line.items() if name.startswith("valid/")}
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _setting(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(map(str, value))
    return "" if value is None else str(value)
