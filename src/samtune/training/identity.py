"""A run goes on as what it was started as, and is judged on images it has not learned from.

Another dataset, other settings, another base model are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune.config import TrainConfig
from samtune.data.fingerprint import find_change, read_fingerprint
from samtune.data.prepare.spool import TABLE
from samtune.data.table import Dataset
from samtune.errors import DataError, ModelError
from samtune.runtime.distributed import Processes
from samtune.training.checkpoint import RunFolder, read_about, read_settings
from samtune.utils.checksums import sha256

PLACES = {"out", "name", "cache_dir", "cache_limit", "workers", "track"}
"""Settings that say where a run is, in which all runs differ."""
MAY_CHANGE = PLACES | {"model", "device", "batch"}
"""Settings that say where and how a run works, not what it learns. Of `model` the weights must be the same."""


def require_dataset(folder: RunFolder, dataset: Path) -> None:
    """Refuse a dataset that is no longer there, or is not what it was.

    Raises:
        DataError: so.
    """
    if not dataset.is_dir():
        raise DataError.of(
            expected="the dataset this run was started with",
            found="no such folder",
            where=str(dataset),
            do=f"put it back, or write its new place after `dataset:` in {folder.config}",
        )
    before = read_fingerprint(folder.dataset)
    change = find_change(Dataset.open(dataset), before) if before else ""
    if change:
        raise DataError.of(
            expected="the dataset this run was started with, unchanged",
            found=change,
            where=str(dataset),
            do=f"put it back as it was, or start a new run from what was learned: --model {folder.path}",
        )


def require_held_out(run: Path, dataset: Dataset, split: str) -> None:
    """Refuse to judge a run on images that it was tuned on, as where its dataset was split anew since.

    Of a run's training images at most a thousand are known. The training split may be looked at: a verdict says so.

    Args:
        run: a run's folder; of any other model nothing is known, and it passes.
        dataset: to judge on.
        split: of it.

    Raises:
        DataError: so.
    """
    folder = RunFolder(run)
    before = read_fingerprint(folder.dataset) or {}
    if split == "train" or not before.get("training") or before.get("table") == sha256(dataset.root / TABLE):
        return
    root = read_settings(folder)[0]
    learned = {(root / name).resolve() for name in before["training"]}
    both = sorted({(dataset.root / one.image_path).resolve() for one in dataset.split(split).images} & learned)
    if both:
        raise DataError.of(
            expected=f"images in the {split} split that {run} was not tuned on",
            found=f"{len(both)} that it learned from, such as {both[0].name}; "
            "the dataset was split in another way then",
            where=str(dataset.root),
            do="tune again on the dataset as it is now, or compare on the dataset as it was",
        )


def require_same_settings(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse settings that someone has changed in `config.yaml`: the steps done were made with others.

    Raises:
        ModelError: so.
    """
    before, now = flat(read_about(folder).get("settings", {})), flat(config.model_dump(mode="json"))
    changed = [name for name in before if name in now and now[name] != before[name]]
    changed = [name for name in changed if name.split(".")[0] not in MAY_CHANGE]
    if changed:
        raise ModelError.of(
            expected=", ".join(f"{name}: {before[name]}" for name in changed) + ", as this run was started with",
            found=", ".join(f"{name}: {now[name]}" for name in changed),
            where=str(folder.config),
            do=f"change it back, or start a new run from what was learned: --model {folder.path}",
        )


def require_same_base(folder: RunFolder, weights: str) -> None:
    """Refuse a base model whose weights, of which this is the checksum, are not those the run was started from.

    Raises:
        ModelError: so.
    """
    base = read_about(folder).get("base", {})
    if base.get("weights", weights) != weights:
        raise ModelError.of(
            expected="the base model this run was started with",
            found="other weights under its name",
            where=str(base.get("source", "")),
            do=f"put it back, or write its new place after `model:` in {folder.config}",
        )


def require_same_processes(folder: RunFolder, processes: Processes) -> None:
    """Refuse another number of processes: it means other steps, and a learning rate that was not meant for them.

    Raises:
        ModelError: so.
    """
    started = read_about(folder).get("processes", 1)
    if started != processes.count:
        start = f"torchrun --nproc-per-node {started} -m samtune" if started > 1 else "samtune"
        raise ModelError.of(
            expected=f"{started} process{'es' if started > 1 else ''}, as this run was started with",
            found=str(processes.count),
            where=str(folder.path),
            do=f"{start} train --resume {folder.path}",
        )


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found
