"""Writing a model in Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Sam2Model

from samtune.model.architecture import VIDEO, input_size
from samtune.model.io.files import CONFIG, WEIGHTS
from samtune.model.io.loaded import LoadedModel
from samtune.model.io.tensors import save_tensors
from samtune.model.preprocess import processor_config
from samtune.utils.files import new_folder


def save_model(model: LoadedModel | Sam2Model, folder: Path, *, family: str = "custom", base: str = "") -> None:
    """Write a model in Hugging Face layout, as a whole or not at all.

    The folder holds `model.safetensors` (video weights included, where there are any), `config.json` and the
    processor's JSON; transformers' `Sam2Model`, `Sam2Processor` and, with video weights, `Sam2VideoModel` read it.

    Args:
        model: what to write; of a plain `Sam2Model` there are no video weights.
        folder: replaced when it exists.
        family: family of a plain `Sam2Model`.
        base: model that a plain `Sam2Model` was tuned from.

    Raises:
        StorageError: it cannot be written; what stood there before still stands.
    """
    with new_folder(folder) as temporary:
        write_model(model, temporary, family=family, base=base)


def write_model(model: LoadedModel | Sam2Model, folder: Path, *, family: str = "custom", base: str = "") -> None:
    """Write the files of a model into a folder that is there; see `save_model`.

    Raises:
        OSError: the disk refused.
    """
    if isinstance(model, LoadedModel):
        state, config = model.model.state_dict() | model.video_state, dict(model.config)
        family, base, size = model.family, model.base, model.image_size
    else:
        state, config, size = model.state_dict(), model.config.to_dict(), input_size(model)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    described = config | {
        "architectures": ["Sam2VideoModel" if config["model_type"] == VIDEO else "Sam2Model"],
        "dtype": _dtype_name(tensors),
        "samtune_family": family,
        "samtune_base": base,
    }
    save_tensors(tensors, folder / WEIGHTS)
    _write_json(folder / CONFIG, described)
    _write_json(folder / "preprocessor_config.json", processor_config(size))


def _dtype_name(tensors: Mapping[str, Tensor]) -> str:
    return str(next(iter(tensors.values())).dtype).removeprefix("torch.")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
