"""Every way a SAM 2 comes in: a name, a hub repository, a folder, an official checkpoint, a run; and how it is saved.

Whatever the way, the result is one `LoadedModel`: transformers' `Sam2Model`, complete and frozen, with the weights that
only video needs beside it. Nothing is executed that a file brings along: pickles are read with `weights_only`, the rest
is safetensors and JSON.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam2Model

from samtune.errors import ModelError
from samtune.model.architecture import (
    IMAGE,
    VIDEO,
    check_complete,
    complete_matrix,
    empty_image_model,
    input_size,
    video_shapes,
)
from samtune.model.catalogue import BACKBONES, NANO, NANO_FOLDER, Backbone, hub_name, suggest
from samtune.model.io.official_layout import CONFIG_KEY, to_transformers
from samtune.model.io.tensors import save_tensors
from samtune.model.preprocess import processor_config
from samtune.utils.files import LFS_POINTER, is_full, new_folder, recover_folder, storage_error

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files that make a folder one in Hugging Face layout."""
_INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
_PICKLE = "pytorch_model.bin"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}
_HUB_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, ImportError)
"""What the hub's client raises: its own errors, those of its HTTP library (which one, depends on its version), and
ImportError where a proxy needs a package."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to use.

    Attributes:
        model: in eval mode, every parameter frozen.
        name: what it was asked for by.
        source: where its weights were read from: a path, or `hub:REPOSITORY`.
        family: `sam2.1-hiera-tiny` and the like, `nano`, or `custom`; a tuned model keeps the family of its base.
        base: name of the model it was tuned from; its own name where it was not tuned.
        config: the configuration as in `config.json`, video parts included.
        video_state: weights only video needs, in transformers' names, untouched; empty where there are none.
    """

    model: Sam2Model
    name: str
    source: str
    family: str
    base: str
    config: dict[str, Any] = field(repr=False)
    video_state: dict[str, Tensor] = field(repr=False)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return input_size(self.model)

    @property
    def mask_size(self) -> int:
        """Side of low-res masks in pixels, a quarter of `image_size`."""
        return self.image_size // 4

    def fingerprint(self) -> str:
        """sha256 over names, types, shapes and bytes of the image model's weights, hexadecimal."""
        return fingerprint(self.model.state_dict())


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors, whatever their order and device, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_model(
    name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load a model by name or from a file or folder.

    Args:
        name: `nano`; a known name (`sam2.1-tiny`, `sam2.1-hiera-tiny`, `facebook/sam2.1-hiera-tiny`, ...) or another
            hub repository; a folder in Hugging Face layout; an official checkpoint (`.pt`, recognised from its
            tensors); a samtune run (its best weights) or its `checkpoints/best`.
        device: where the image model goes; video weights stay on the CPU.
        dtype: the image model's; video weights stay in the file's.

    Returns:
        The model, complete.

    Raises:
        ModelError: no such model, a file that cannot be read or is another model's, tensors missing or left over, or a
            hub that cannot be reached.
    """
    try:
        return _load(str(name), device, dtype)
    except OSError as error:  # whatever the system refuses on the way, such as a folder without permission
        raise _unreadable(Path(error.filename or name), error) from error


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


def read_official(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a `.pt` file under `model` (or at its top), and the configuration samtune's own files carry.

    Raises:
        ModelError: unreadable, truncated, no checkpoint, or a pickle that wants to run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles' dialects; what cannot be read is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise _damaged(path, error) from error
        raise ModelError.of(
            expected="a checkpoint that holds tensors and nothing else",
            found=f"a pickle that asks for {wanted[1]}",
            where=str(path),
            do="nothing in it was executed; get the checkpoint from a source you trust",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(path, error) from error
    config = content.get(CONFIG_KEY) if isinstance(content, dict) else None
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelError.of(
            expected="a checkpoint with tensors under 'model'",
            found=f"{type(content).__name__}"
            + (f" with keys {sorted(map(str, content))[:6]}" if isinstance(content, dict) else ""),
            where=str(path),
            do="save it as {'model': state_dict}",
        )
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors, config if isinstance(config, dict) else None


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
    if hub is None and _exists(path):
        return _from_path(path, text, device, dtype)
    if hub is None and (not _REPOSITORY.fullmatch(text) or path.suffix.lower() in _FILES):
        raise ModelError.of(
            expected="the name of a model, or a file or folder with one",
            found=f"no file, folder or known name {text!r}",
            do=suggest(text) or "`samtune models` lists the known names",
        )
    return _from_folder(_download(hub or text, text), text, f"hub:{hub or text}", device, dtype)


def _from_path(path: Path, name: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    if path.is_file():
        return _from_file(path, name, device, dtype)
    if (path / "run.json").is_file():
        return _from_run(path, name, device, dtype)
    if not path.is_dir():
        raise _unreadable(path, OSError("neither a file nor a folder"))
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
        state, config = _read_safetensors(path), None
    else:
        state, config = read_official(path)
    config, tensors = to_transformers(state, config, str(path))
    return _assemble(config, tensors, name, str(path), device, dtype)


def _from_folder(folder: Path, name: str, source: str, device: str | torch.device, dtype: torch.dtype) -> LoadedModel:
    config = _read_config(folder)
    if (folder / WEIGHTS).is_file():
        tensors = _read_safetensors(folder / WEIGHTS)
    elif (folder / _INDEX).is_file():
        tensors = {}
        for shard in sorted(folder.glob(_SHARDS)):
            tensors |= _read_safetensors(shard)
    else:
        pickled = (folder / _PICKLE).is_file()
        raise ModelError.of(
            expected=f"a folder with {WEIGHTS}",
            found=f"{_PICKLE}, a pickle" if pickled else _content(folder),
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
    family = NANO if name == NANO else str(config.get("samtune_family") or architecture(config) or "custom")
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
    return name if hub_name(name) or not _exists(path) else path.resolve().name


def architecture(config: Mapping[str, Any]) -> str | None:
    """The official model whose architecture this is, such as `sam2.1-hiera-tiny`, or None.

    Without video parts 2.0 and 2.1 are alike, and count as 2.1.
    """
    vision = config["vision_config"]
    backbone = vision["backbone_config"]
    for size, known in BACKBONES.items():
        if _same_backbone(backbone, known) and config["prompt_encoder_config"].get("image_size", 1024) == 1024:
            older = config.get("enable_occlusion_spatial_embedding") is False
            return f"{'sam2' if older else 'sam2.1'}-hiera-{size}"
    return None


def _same_backbone(config: Mapping[str, Any], known: Backbone) -> bool:
    wanted = known.vision_config()["backbone_config"]
    return all(config.get(key) == value for key, value in wanted.items() if key != "model_type")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError.of(
            expected=f"a folder with {CONFIG} and {WEIGHTS}, or a samtune run",
            found=_content(folder),
            where=str(folder),
            do="give the folder that holds both files, or the official .pt file itself",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(config, dict):
        raise ModelError.of(expected="a JSON object", found=type(config).__name__, where=str(path))
    return config


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _content(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())[:8]
    return f"a folder with {', '.join(names) or 'nothing'}"


def _exists(path: Path) -> bool:
    """Whether something stands there; a place that cannot even be looked at counts, so that reading says why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _unreadable(path: Path, reason: object) -> ModelError:
    said = str(getattr(reason, "strerror", None) or reason).strip().splitlines()
    return ModelError.of(
        expected="a readable, whole checkpoint",
        found=said[0] if said else type(reason).__name__,
        where=str(path),
        do="check permissions and that the download or copy was complete",
    )


def _damaged(path: Path, error: Exception) -> ModelError:
    """About a weight file that its library gave up on, in words that say more than the library's."""
    if isinstance(error, OSError) and error.strerror:
        return _unreadable(path, error)
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(LFS_POINTER):
        return ModelError.of(
            expected="a checkpoint",
            found="a Git LFS pointer, not the file itself",
            where=str(path),
            do="run `git lfs pull` where it was cloned",
        )
    if not head:
        return _unreadable(path, "an empty file")
    if head.lstrip().startswith(b"<"):
        return _unreadable(path, "a web page, as a download that failed leaves behind")
    if path.suffix == ".safetensors" or head.startswith(b"PK"):
        # Of torch's story only the first sentence is about this file.
        return _unreadable(path, f"a file that is cut off or damaged: {str(error).split('. ')[0]}")
    return ModelError.of(
        expected="a checkpoint",
        found="a file of another kind, or a damaged one; nothing in it was executed",
        where=str(path),
        do="give an official .pt file, or a folder in Hugging Face layout",
    )


def _download(repository: str, name: str) -> Path:
    """The repository's files in the local hub cache, fetched where they are not there yet."""
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS, _INDEX, _SHARDS]))
    except _HUB_ERRORS as error:
        if isinstance(error, OSError) and is_full(error):
            raise storage_error(error, Path(constants.HF_HUB_CACHE)) from error
        known = hub_name(name) is not None
        raise ModelError.of(
            expected=f"{'' if known else 'a file, a folder, or '}{repository} from the Hugging Face hub or its cache",
            found=("" if known else "no such file or folder, and ") + _hub_said(error),
            where=name,
            do=(f"{suggest(name)} " if not known and suggest(name) else "")
            + "without a network: --model nano, a folder in Hugging Face layout, an official .pt file, or a cache that "
            "holds the model (HF_HOME) with HF_HUB_OFFLINE=1; a private model needs HF_TOKEN",
        ) from error


def _hub_said(error: BaseException) -> str:
    """Why the hub gave nothing; its client tells of the cache first and of the cause behind it."""
    cause = error.__cause__ or error
    if isinstance(cause, OfflineModeIsEnabled):
        return "nothing in the cache, while HF_HUB_OFFLINE forbids to ask the hub"
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return f"a hub that has no such model, or does not show it without a token ({status})"
    reason = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"a hub that cannot be reached ({reason[0]})"


def _dtype_name(tensors: Mapping[str, Tensor]) -> str:
    return str(next(iter(tensors.values())).dtype).removeprefix("torch.")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
