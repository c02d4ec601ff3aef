"""How images are read for a prediction: as the options say, or as those that the model was tuned on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from samtune.config.inference import FixedPromptsConfig
from samtune.data.reading import ABOUT, PLAIN, Reading, read_reading, reading_of
from samtune.errors import DataError


def reading_for(model: Path | None, config: FixedPromptsConfig) -> Reading:
    """Bands, page and stretch of the images to predict on.

    Args:
        model: the run, where the model is one: its dataset's way of reading is used, if that is still there.
        config: options, which count before anything else; `like` names a dataset.

    Raises:
        DataError: `like` is no prepared dataset, or what it says cannot be understood.
    """
    asked = replace(reading_of(config), in_tiles=False)
    if config.like is not None:
        if not (config.like / ABOUT).is_file():
            raise DataError.of(expected="a prepared dataset", found="none", where=str(config.like))
        return read_reading(config.like)
    if asked != PLAIN or model is None:
        return asked
    dataset = dataset_of(model)
    return PLAIN if dataset is None else read_reading(dataset)


def dataset_of(run: Path) -> Path | None:
    """The dataset that a run was trained on; None where it is no run, or the dataset has gone."""
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        dataset = Path(settings["dataset"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return dataset if (dataset / ABOUT).is_file() else None
