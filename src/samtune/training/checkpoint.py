"""A run on disk: its folder, and everything needed to go on after an interruption with the same numbers.

    RUN/config.yaml          the TrainConfig
    RUN/run.json             base model, parameter counts, versions: what this run is
    RUN/metrics.jsonl        one JSON object per step and per validation
    RUN/results.csv          one row per validation
    RUN/checkpoints/last/    to resume: learning weights, optimizer, moving average, progress (safetensors and JSON)
    RUN/checkpoints/best/    to use: the whole model in Hugging Face layout, weights only
    RUN/checkpoints/adapter/ the LoRA adapter of these weights, in peft layout

Learning rate, batches and random draws are functions of seed and step, so `last` needs no more than it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from samtune.config import TrainConfig
from samtune.errors import ModelError
from samtune.model.io.tensors import save_tensors
from samtune.training.optimizer import MovingAverage
from samtune.utils.files import new_folder, recover_folder, storage_errors, write_text
from samtune.utils.output_folders import check_output


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best_step: step of the weights in `checkpoints/best`, 0 for the base model.
        best_iou: their mean IoU on the validation split's fixed prompts; None where there is no validation split.
    """

    step: int = 0
    best_step: int = 0
    best_iou: float | None = None


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
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "checkpoints" / "last"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter of the best weights, in peft layout, where one was trained."""
        return self.path / "checkpoints" / "adapter"

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.path / "checkpoints" / "best"


def new_run(dataset: Path, config: TrainConfig) -> RunFolder:
    """Make the run's folder, numbered when one of its name exists, and write its settings into it."""
    path = config.out or _numbered(Path("runs") / config.name)
    check_output(path, do="choose another --out, or continue that run with --resume")
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    settings = {"dataset": str(dataset), **config.model_dump(mode="json")}
    write_text(folder.config, yaml.safe_dump(settings, sort_keys=False))
    return folder


def save_last(
    folder: RunFolder,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: Progress,
) -> None:
    """Write `checkpoints/last` as a whole or not at all."""
    tensors = {f"weights/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in optimizer.state[parameter].items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.values.items()}
    with new_folder(folder.last) as temporary:
        save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "state.safetensors")
        (temporary / "progress.json").write_text(json.dumps(asdict(progress)) + "\n")


def load_last(
    folder: RunFolder,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> Progress:
    """Bring weights, optimizer and average back to where `checkpoints/last` was saved.

    Raises:
        ModelError: there is no such checkpoint, or it belongs to other settings.
    """
    recover_folder(folder.last)
    try:
        progress = Progress(**json.loads((folder.last / "progress.json").read_text()))
        tensors = load_file(folder.last / "state.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError.of(
            expected="a run with a resumable checkpoint",
            found=str(error),
            where=str(folder.last),
            do="start the run again without --resume",
        ) from error
    saved = {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")}
    if saved != parameters.keys():
        raise ModelError.of(
            expected=f"{len(parameters)} learning parameters, as this run's settings say",
            found=f"{len(saved)} in its checkpoint",
            where=str(folder.last),
            do="resume with the settings the run was started with",
        )
    fused = bool(optimizer.defaults.get("fused"))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weights/{name}"])
            optimizer.state[parameter] = _optimizer_state(tensors, name, parameter.device, fused)
            if average is not None:
                average.values[name].copy_(tensors[f"average/{name}"])
    return progress


def forget_after(folder: RunFolder, step: int) -> None:
    """Drop what the metrics file and the table of results say of steps after `step`: it will be written again."""
    if folder.metrics.exists():
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
        write_text(folder.metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
    if folder.results.exists():
        header, *rows = folder.results.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        write_text(folder.results, "".join(f"{line}\n" for line in [header, *kept]))


def _step_of(line: str) -> float:
    """The step a line of the metrics file is about; a line cut off by a crash is about none."""
    try:
        return json.loads(line)["step"]
    except ValueError:
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
