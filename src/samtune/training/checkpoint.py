"""A run on disk: its folder, and everything needed to go on after an interruption with the same numbers.

    RUN/config.yaml          the TrainConfig
    RUN/run.json             base model, parameter counts, settings, versions: what this run is
    RUN/dataset.json         what tells its dataset from a changed one
    RUN/metrics.jsonl        one JSON object per step and per validation
    RUN/results.csv          one row per validation
    RUN/training.png         its loss and validations as a chart, drawn when it ends
    RUN/tracking.json        what the run is called at services that track it
    RUN/checkpoints/last/    to resume: learning weights, optimizer, moving average, progress (safetensors and JSON)
    RUN/checkpoints/previous/ the one before, for when `last` is damaged
    RUN/checkpoints/best/    to use: the whole model in Hugging Face layout, weights only
    RUN/checkpoints/adapter/ the LoRA adapter of these weights, in peft layout

Every checkpoint is written beside its place, brought to the disk and moved there, and lists the checksums of its files.
Learning rate, batches and random draws are functions of the seed and the step, so `last` needs no more than it holds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from samtune.config import TrainConfig
from samtune.errors import ModelError
from samtune.model.catalogue import NANO, hub_name
from samtune.model.io.tensors import save_tensors
from samtune.training.state import Progress, TrainingState
from samtune.utils.checksums import find_damage, write_checksums
from samtune.utils.files import (
    new_folder,
    recover_folder,
    remove_unfinished,
    storage_errors,
    unfinished,
    write_json,
    write_text,
)
from samtune.utils.output_folders import check_output

RUNS = "runs"
"""Folder for the runs that were given none."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of the things in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's settings, YAML."""
        return self.path / "config.yaml"

    @property
    def about(self) -> Path:
        """What this run is, JSON."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """One row per validation."""
        return self.path / "results.csv"

    @property
    def chart(self) -> Path:
        """Loss and validations, PNG."""
        return self.path / "training.png"

    @property
    def tracking(self) -> Path:
        """What the run is called at services that track it, JSON."""
        return self.path / "tracking.json"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "checkpoints" / "last"

    @property
    def previous(self) -> Path:
        """The checkpoint before `last`."""
        return self.path / "checkpoints" / "previous"

    @property
    def dataset(self) -> Path:
        """What tells the run's dataset from a changed one, JSON."""
        return self.path / "dataset.json"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter of the best weights, in peft layout, where one was trained."""
        return self.path / "checkpoints" / "adapter"

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.path / "checkpoints" / "best"


def choose_folder(config: TrainConfig) -> Path:
    """Where a new run will write: `out`, or `runs/NAME`, numbered when one of this name exists.

    Raises:
        ConfigError: `out` holds something.
    """
    path = config.out or _numbered(Path(RUNS) / config.name)
    _remove_unfinished_start(RunFolder(path))
    check_output(path, do="choose another --out, or continue that run with --resume")
    return path


def make_folder(
    folder: RunFolder, dataset: Path, config: TrainConfig, about: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> None:
    """Make a run's folder: `run.json`, the dataset's fingerprint, and the settings, which make it one that resumes.

    Paths in the settings hold wherever it is resumed from.
    """
    with storage_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    model = Path(config.model).expanduser()
    paths: dict[str, Path | None] = {"dataset": dataset, "cache_dir": config.cache_dir}
    if config.model != NANO and hub_name(config.model) is None and model.exists():
        paths["model"] = model
    absolute = {name: str(path.resolve()) for name, path in paths.items() if path is not None}
    settings = {"dataset": "", **config.model_dump(mode="json"), **absolute}
    write_json(folder.about, {**about, "settings": config.model_dump(mode="json")})
    write_json(folder.dataset, fingerprint)
    write_text(folder.config, yaml.safe_dump(settings, sort_keys=False))


def _remove_unfinished_start(folder: RunFolder) -> None:
    """Remove what a start left that was killed before the run's settings were written: nothing of a run is in it.

    A folder in which there is anything else is left as it is.
    """
    if not folder.path.is_dir() or folder.config.exists():
        return
    with storage_errors(folder.path):
        files = [folder.about, folder.dataset]
        ours = {*files, *(path for file in (*files, folder.config) for path in unfinished(file))}
        found = set(folder.path.iterdir())
        if found and found <= ours:
            for path in found:
                path.unlink()


def remove_folder(folder: RunFolder) -> None:
    """Remove the folder of a run that could not start, and the `runs` folder where it was the only one in it."""
    shutil.rmtree(folder.path, ignore_errors=True)
    if folder.path.parent.name == RUNS and not any(folder.path.parent.iterdir()):
        folder.path.parent.rmdir()


def read_settings(folder: RunFolder) -> tuple[Path, TrainConfig]:
    """The dataset's folder and the settings that a run was started with.

    Raises:
        ModelError: the folder is no run.
    """
    try:
        settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        return Path(settings.pop("dataset")), TrainConfig(**settings)
    except (OSError, yaml.YAMLError, ValidationError, AttributeError, KeyError, TypeError) as error:
        missing = "a folder without it" if folder.path.is_dir() else "no such folder"
        raise ModelError.of(
            expected="a run folder with its config.yaml",
            found=missing if isinstance(error, FileNotFoundError | NotADirectoryError) else str(error).splitlines()[0],
            where=str(folder.config),
            do="give the folder that `samtune train` made",
        ) from error


def read_about(folder: RunFolder) -> dict[str, Any]:
    """What `run.json` says, see the first lines of this file; nothing where it cannot be read."""
    try:
        found = json.loads(folder.about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def has_checkpoint(folder: RunFolder) -> bool:
    """Whether there is anything to resume from, whole or damaged."""
    recover_folder(folder.last)
    return folder.last.exists() or folder.previous.exists()


def save_last(folder: RunFolder, state: TrainingState) -> None:
    """Write `checkpoints/last` as a whole or not at all; what stood there becomes `checkpoints/previous`."""
    tensors = {f"weights/{name}": parameter.detach() for name, parameter in state.parameters.items()}
    for name, parameter in state.parameters.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in state.optimizer.state[parameter].items()}
    if state.average is not None:
        tensors |= {f"average/{name}": value for name, value in state.average.values.items()}
    with new_folder(folder.last, keep=folder.previous) as temporary:
        save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "state.safetensors")
        (temporary / "progress.json").write_text(json.dumps(asdict(state.progress)) + "\n")
        write_checksums(temporary)


def load_last(folder: RunFolder, state: TrainingState) -> str:
    """Bring weights, optimizer, average and progress back to where `checkpoints/last` was saved, or the one before.

    Returns:
        Why it is the one before, in words; empty where it is the last.

    Raises:
        ModelError: there is no such checkpoint, both are damaged, or it belongs to other settings.
    """
    recover_folder(folder.last)
    reasons: list[str] = []
    for path in (folder.last, folder.previous):
        try:
            progress, tensors = _read_checkpoint(path)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        _restore(state, progress, tensors, path)
        return f"{folder.last} cannot be read: {reasons[0]}; going on from {path.name}" if reasons else ""
    raise ModelError.of(
        expected="a run with a resumable checkpoint",
        found="; ".join(reasons),
        where=f"{folder.last} and {folder.previous}",
        do="start the run again without --resume",
    )


def read_progress(folder: RunFolder) -> Progress:
    """How far a run was when it last saved; at its start where that cannot be read."""
    try:
        return _progress(folder.last)
    except (OSError, ValueError, TypeError):
        return Progress()


def _progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / "progress.json").read_text()))


def _read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """What a checkpoint holds, when its files are what was written.

    Raises:
        OSError, ValueError, TypeError, SafetensorError: they are not.
    """
    if damage := find_damage(path):
        raise ValueError(damage)
    return _progress(path), load_file(path / "state.safetensors")


def _restore(state: TrainingState, progress: Progress, tensors: Mapping[str, Tensor], path: Path) -> None:
    saved = {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")}
    if saved != state.parameters.keys():
        raise ModelError.of(
            expected=f"{len(state.parameters)} learning parameters, as this run's settings say",
            found=f"{len(saved)} in its checkpoint",
            where=str(path),
            do="resume with the settings the run was started with",
        )
    fused = bool(state.optimizer.defaults.get("fused"))
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[f"weights/{name}"])
            found = _optimizer_state(tensors, name, parameter.device, fused)
            if found:  # before the first step there is none, and none is how the optimizer knows
                state.optimizer.state[parameter] = found
            if state.average is not None:
                state.average.values[name].copy_(tensors[f"average/{name}"])
    state.progress = progress


def tidy(folder: RunFolder, step: int) -> None:
    """Bring a run folder to where its checkpoint of `step` was saved: logs cut, half-written things removed."""
    folders = (folder.last, folder.previous, folder.best, folder.adapter)
    files = (folder.config, folder.about, folder.dataset, folder.metrics, folder.results, folder.chart, folder.tracking)
    for place in folders:
        recover_folder(place)
    for place in (*folders, *files):
        remove_unfinished(place)
    cut_logs(folder, step)


def has_steps(folder: RunFolder) -> bool:
    """Whether the metrics file knows of a step that was made."""
    try:
        return any(1 <= _step_of(line) < float("inf") for line in folder.metrics.read_text("utf-8").splitlines())
    except OSError:
        return False


def cut_logs(folder: RunFolder, step: int) -> None:
    """Drop what the metrics file and the table of results say of steps after `step`: it will be written again.

    Before the first step has been made the base model's validation is written again too.

    Lines that a crash has cut off are dropped too.
    """
    step = step or -1
    if folder.metrics.exists():
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
        write_text(folder.metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
    if folder.results.exists():
        lines = folder.results.read_text(encoding="utf-8").splitlines(keepends=True)
        header, *rows = [line for line in lines if line.endswith("\n")] or [""]
        kept = [row for row in rows if row.split(",")[0].isdecimal() and int(row.split(",")[0]) <= step]
        if header:
            write_text(folder.results, "".join([header, *kept]))
        else:
            folder.results.unlink()


def _step_of(line: str) -> float:
    """The step a line of the metrics file is about; infinite for a line that a crash has cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _optimizer_state(tensors: Mapping[str, Tensor], name: str, device: torch.device, fused: bool) -> dict[str, Tensor]:
    """One parameter's part of the saved state. Its step count is on the device only where the optimizer is fused."""
    prefix = f"optimizer/{name}/"
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {key: value.to(device) if key != "step" or fused else value for key, value in found.items()}


def _numbered(path: Path) -> Path:
    """`path`, or `path` with the next number behind it when that exists: `tune`, `tune-2`, `tune-3`."""
    if not path.exists():
        return path
    taken = [
        int(match.group(1))
        for sibling in path.parent.iterdir()
        if (match := re.fullmatch(re.escape(path.name) + r"-(\d+)", sibling.name))
    ]
    return path.with_name(f"{path.name}-{max(taken, default=1) + 1}")
