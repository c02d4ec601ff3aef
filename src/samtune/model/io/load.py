"""`load_model`: a SAM 2 from a name, a hub repository, a folder, an official checkpoint or a run.

The result is always a `LoadedModel`: transformers' `Sam2Model`, complete and frozen, with the weights that only video
needs beside it.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.errors import ModelError
from samtune.model.architecture import IMAGE, VIDEO, check_complete, complete_matrix, empty_image_model, video_shapes
from samtune.model.catalogue import NANO, NANO_FOLDER, architecture_name, hub_name, suggest
from samtune.model.io.files import (
    CONFIG,
    WEIGHTS,
    exists,
    list_folder,
    read_config,
    read_official,
    read_safetensors,
    unreadable,
)
from samtune.model.io.hub import INDEX, SHARDS, download_model
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.official_layout import to_transformers
from samtune.utils.checksums import find_damage
from samtune.utils.files import recover_folder

_PICKLE = "pytorch_model.bin"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}


def load_model(
    name: str | Path | LoadedModel, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load a model by name or from a file or folder.

    Args:
        name: a loaded model, which is returned as it is where device and dtype agree, else as a copy; `nano`; a known
            name (`sam2.1-tiny`, `sam2.1-hiera-tiny`, `facebook/sam2.1-hiera-tiny`, ...) or another hub repository; a
            folder in Hugging Face layout; an official checkpoint (`.pt`, recognised from its
            tensors); a samtune run (its best weights) or its `checkpoints/best`.
        device: where the image model goes; video weights stay on the CPU.
        dtype: the image model's; video weights stay in the file's.

    Returns:
        The model, complete.

    Raises:
        ModelError: no such model, a file that cannot be read or is another model's, tensors missing or left over, or a
            hub that cannot be reached.
    """
    if isinstance(name, LoadedModel):
        return _on_device(name, torch.device(device), dtype)
    try:
        return _load(str(name), device, dtype)
    except OSError as error:  # whatever the system refuses on the way, such as a folder without permission
        raise unreadable(Path(error.filename or name), error) from error


def _on_device(loaded: LoadedModel, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A loaded model on `device` in `dtype`; the original stays as it is."""
    model: Any = loaded.model
    same_device = model.device.type == device.type and device.index in (None, model.device.index)
    if same_device and model.dtype == dtype:
        return loaded
    return replace(loaded, model=deepcopy(model).to(device=device, dtype=dtype))


def _load(text: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    """Find out what a `--model` value means."""
    if text == NANO:
        if not (NANO_FOLDER / CONFIG).is_file():
            raise ModelError.of(
                expected="the small model inside the package",
                found="a package without it",
                where=str(NANO_FOLDER),
                do="reinstall samtune, or give another --model",
            )
        return _from_folder(NANO_FOLDER, text, "samtune/nano", device, dtype)
    path = Path(text).expanduser()
    hub = hub_name(text)
    if hub is None and exists(path):
        return _from_path(path, text, device, dtype)
    if hub is None and (not _REPOSITORY.fullmatch(text) or path.suffix.lower() in _FILES):
        raise ModelError.of(
            expected="the name of a model, or a file or folder with one",
            found=f"no file, folder or known name {text!r}",
            do=suggest(text) or "`samtune models` lists the known names",
        )
    return _from_folder(download_model(hub or text, text), text, f"hub:{hub or text}", device, dtype)


def _from_path(path: Path, name: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    if path.is_file():
        return _from_file(path, name, device, dtype)
    if (path / "run.json").is_file():
        return _from_run(path, name, device, dtype)
    if not path.is_dir():
        raise unreadable(path, OSError("neither a file nor a folder"))
    run = path.parent.parent
    if path.parent.name == "checkpoints" and (run / "run.json").is_file():
        recover_folder(path)
        if not (path / CONFIG).is_file():
            raise ModelError.of(
                expected="the weights of a run",
                found="a checkpoint that only resumes the run",
                where=str(path),
                do=f"give the run itself, {run}, or {run / 'checkpoints' / 'best'}",
            )
        return _from_folder(path, name, str(path), device, dtype)
    return _from_folder(path, name, str(path), device, dtype)


def _from_run(run: Path, name: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    best = run / "checkpoints" / "best"
    recover_folder(best)
    if not (best / CONFIG).is_file():
        raise ModelError.of(
            expected="a run with its best weights",
            found="a run that has not saved any yet",
            where=str(best),
            do="let the run reach its first validation, or continue it with `samtune train --resume`",
        )
    return _from_folder(best, name, str(best), device, dtype)


def _from_file(path: Path, name: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    """An official checkpoint; in safetensors too, which some people convert them to."""
    if path.suffix == ".safetensors":
        state, config = read_safetensors(path), None
    else:
        state, config = read_official(path)
    config, tensors = to_transformers(state, config, str(path))
    return _assemble(config, tensors, name, str(path), device, dtype)


def _from_folder(folder: Path, name: str, source: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    config = read_config(folder)
    if damage := find_damage(folder):
        raise unreadable(folder, damage)
    if (folder / WEIGHTS).is_file():
        tensors = read_safetensors(folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        tensors = {}
        for shard in sorted(folder.glob(SHARDS)):
            tensors |= read_safetensors(shard)
    else:
        pickled = (folder / _PICKLE).is_file()
        raise ModelError.of(
            expected=f"a folder with {WEIGHTS}",
            found=f"{_PICKLE}, a pickle" if pickled else list_folder(folder),
            where=str(folder),
            do="load it with transformers and save it again with save_pretrained"
            if pickled
            else f"put {WEIGHTS} there, or give the official .pt file itself",
        )
    return _assemble(config, complete_matrix(tensors), name, source, device, dtype)


def _assemble(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    name: str,
    source: str,
    device: str | torch.device,
    dtype: torch.dtype,
) -> LoadedModel:
    """Check the tensors against the configuration and put them into the model."""
    if config.get("model_type") == VIDEO and not any(key.startswith("memory_") for key in tensors):
        config = config | {"model_type": IMAGE}
    model = empty_image_model(config)
    image = {key: tensor.shape for key, tensor in model.state_dict().items()}
    video = video_shapes(config)
    check_complete(image | video, tensors, source)
    with torch.device("cpu"):
        state = {key: tensors[key].to(device=device, dtype=dtype) for key in image}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    family = NANO if name == NANO else str(config.get("samtune_family") or architecture_name(config) or "custom")
    return LoadedModel(
        model=model,
        name=name,
        source=source,
        family=family,
        base=str(config.get("samtune_base") or _public(name)),
        config=config,
        video_state={key: tensors[key] for key in video},
    )


def _public(name: str) -> str:
    """A name that says nothing of the machine it was given on: of a path, the last part."""
    path = Path(name)
    return name if hub_name(name) or not exists(path) else path.resolve().name
