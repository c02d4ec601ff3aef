"""What a SAM 2 consists of in transformers' layout: its configuration, and the tensors that make it complete.

A configuration here is the dictionary of `config.json`. `model_type` is `sam2` for the image model alone and
`sam2_video` where the parts that only video needs stand beside it, as on the hub; the image model reads both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from samtune.errors import ModelError

IMAGE, VIDEO = "sam2", "sam2_video"
"""The two values of `model_type`."""
MATRIX, MATRIX_COPY = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
"""One random matrix places pixels and points; transformers keeps it twice, and some files hold only one of them."""
_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
_LISTED = 12


def image_config(config: Mapping[str, Any]) -> Sam2Config:
    """The image model's part of a configuration.

    Raises:
        ModelError: the configuration is not one of SAM 2, or cannot be built.
    """
    kind = config.get("model_type")
    if kind not in (IMAGE, VIDEO):
        raise ModelError.of(
            expected="a SAM 2 model (model_type sam2 or sam2_video)",
            found=f"model_type {kind!r}",
            do="give a SAM 2 or 2.1 checkpoint; `samtune models` lists the known ones",
        )
    extra = {key: value for key, value in config.items() if key.startswith("samtune_")}
    try:
        built = Sam2Config(**{part: _part(config, part) for part in _PARTS}, **extra)
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise ModelError.of(expected="a configuration SAM 2 can be built from", found=str(error)) from error
    size = _image_size(built)
    if not isinstance(size, int) or size < 32 or size % 32:
        raise ModelError.of(expected="a square input whose side 32 divides", found=f"image_size {size}")
    return built


def input_size(model: Sam2Model) -> int:
    """Side of a model's square input in pixels."""
    size = _image_size(model.config)
    assert isinstance(size, int)
    return size


def video_config(config: Mapping[str, Any]) -> Sam2VideoConfig:
    """The whole of a configuration whose `model_type` is `sam2_video`."""
    parts = {part: _part(config, part) for part in _PARTS}
    rest = {key: value for key, value in config.items() if key not in (*_PARTS, "model_type", "architectures")}
    return Sam2VideoConfig(**parts, **rest)


def empty_image_model(config: Mapping[str, Any]) -> Sam2Model:
    """The image model with tensors that have shapes but no storage."""
    with torch.device("meta"):
        return Sam2Model(image_config(config))


def video_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes of the tensors that only video needs; none where the configuration is the image model's."""
    if config.get("model_type") != VIDEO:
        return {}
    with torch.device("meta"):
        whole = Sam2VideoModel(video_config(config)).state_dict()
    image = empty_image_model(config).state_dict()
    return {name: tensor.shape for name, tensor in whole.items() if name not in image}


def complete_matrix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the position matrix in both its places, where one of them was left out."""
    pairs = {MATRIX: MATRIX_COPY, MATRIX_COPY: MATRIX}
    return dict(state) | {a: state[b] for a, b in pairs.items() if a not in state and b in state}


def check_complete(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], where: str) -> None:
    """Hold tensors to what is expected: none missing, none left over, all of the right shape, finite floats.

    Raises:
        ModelError: listing what differs.
    """
    problems = [
        _listing("missing", expected.keys() - found.keys()),
        _listing("unexpected", found.keys() - expected.keys()),
        _listing(
            "of another shape",
            [
                f"{name} {list(found[name].shape)}, not {list(shape)}"
                for name, shape in expected.items()
                if name in found and found[name].shape != shape
            ],
        ),
        _listing(
            "of another type",
            [f"{name} {str(t.dtype).removeprefix('torch.')}" for name, t in found.items() if not _is_float(t)],
        ),
    ]
    if not any(problems):
        # The sum of finite floats is finite in double precision, and takes no memory.
        broken = [name for name, tensor in found.items() if not bool(tensor.sum(dtype=torch.float64).isfinite())]
        problems.append(_listing("with NaN or infinity", broken))
    if any(problems):
        raise ModelError.of(
            expected=f"a complete SAM 2 checkpoint of {len(expected)} floating point tensors",
            found="; ".join(problem for problem in problems if problem),
            where=where,
            do="check that the file is whole and belongs to this model; `samtune models` lists the known ones",
        )


def _image_size(config: Sam2Config) -> object:
    prompt: Any = config.prompt_encoder_config
    return prompt.image_size


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _part(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """One of the three sub-configurations; only the vision part needs its `model_type`."""
    values = dict(config.get(part) or {})
    if part != "vision_config":
        values.pop("model_type", None)
    return values


def _listing(what: str, names: Iterable[str]) -> str:
    """`3 missing (a, b, c)`, shortened; empty when there are none."""
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
    return f"{len(ordered)} {what} ({', '.join(ordered[:_LISTED])}{more})"
