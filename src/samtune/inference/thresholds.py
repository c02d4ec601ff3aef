"""The thresholds of the grid of clicks that `samtune fit-grid` chose for a run: a small file in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from samtune.config import AutomaticConfig
from samtune.config.base import Config, Fraction
from samtune.errors import ModelError
from samtune.model.io.loaded import LoadedModel
from samtune.utils.files import write_json

GRID_FILE = "grid.json"


class GridThresholds(Config):
    """What was chosen, and on what."""

    format: int = Field(default=1, ge=1, le=1)
    min_iou_score: Fraction
    min_stability: Fraction
    precision: Fraction
    recall: Fraction
    chosen_on: str = Field(max_length=500)


def write_thresholds(run: Path, found: GridThresholds) -> None:
    """Keep thresholds in a run's folder, in place of earlier ones.

    Raises:
        StorageError: the disk refused.
    """
    write_json(run / GRID_FILE, found.model_dump())


def read_thresholds(loaded: LoadedModel) -> GridThresholds | None:
    """The thresholds chosen for a model's run; None where it is no run's, or none were chosen.

    Raises:
        ModelError: the file is damaged.
    """
    file = Path(loaded.source).parent.parent / GRID_FILE
    if loaded.source.startswith("hub:") or not file.is_file():
        return None
    try:
        return GridThresholds.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError.of(
            expected="thresholds that samtune fit-grid wrote",
            found=str(error).splitlines()[0],
            where=str(file),
            do="choose them again: samtune fit-grid RUN",
        ) from error


def with_thresholds(config: AutomaticConfig, loaded: LoadedModel) -> AutomaticConfig:
    """Settings whose thresholds, where they were left out, are those chosen for the model's run."""
    found = read_thresholds(loaded) if None in (config.min_iou_score, config.min_stability) else None
    if found is None:
        return config
    chosen = {name: getattr(found, name) for name in ("min_iou_score", "min_stability")}
    return config.model_copy(update={name: value for name, value in chosen.items() if getattr(config, name) is None})
