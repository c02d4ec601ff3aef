"""Reading the files a model comes in: `config.json`, safetensors, official `.pt` files; and what is wrong with them.

Nothing is executed that a file contains: pickles are read with `weights_only`, the rest is safetensors and JSON.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from samtune.errors import ModelError
from samtune.model.io.official_layout import CONFIG_KEY
from samtune.utils.files import LFS_POINTER

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files that make a folder one in Hugging Face layout."""


def read_official(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a `.pt` file under `model` (or at its top), and the configuration samtune's own files carry.

    Raises:
        ModelError: unreadable, truncated, no checkpoint, or a pickle that wants to run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols; what cannot be read raises below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise damaged(path, error) from error
        raise ModelError.of(
            expected="a checkpoint that holds tensors and nothing else",
            found=f"a pickle that asks for {wanted[1]}",
            where=str(path),
            do="nothing in it was executed; get the checkpoint from a source you trust",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise damaged(path, error) from error
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


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a folder in Hugging Face layout.

    Raises:
        ModelError: missing, unreadable, or no JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError.of(
            expected=f"a folder with {CONFIG} and {WEIGHTS}, or a samtune run",
            found=list_folder(folder),
            where=str(folder),
            do="give the folder that holds both files, or the official .pt file itself",
        ) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(config, dict):
        raise ModelError.of(expected="a JSON object", found=type(config).__name__, where=str(path))
    return config


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: unreadable or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


def list_folder(folder: Path) -> str:
    """The first names in a folder, for messages."""
    names = sorted(entry.name for entry in folder.iterdir())[:8]
    return f"a folder with {', '.join(names) or 'nothing'}"


def exists(path: Path) -> bool:
    """Whether there is something at a path; one that may not be looked at counts, so that reading says why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def unreadable(path: Path, reason: object) -> ModelError:
    """The error about a file that cannot be read, for a system error or a reason in words."""
    lines = str(getattr(reason, "strerror", None) or reason).strip().splitlines()
    return ModelError.of(
        expected="a readable, whole checkpoint",
        found=lines[0] if lines else type(reason).__name__,
        where=str(path),
        do="check permissions and that the download or copy was complete",
    )


def damaged(path: Path, error: Exception) -> ModelError:
    """The error about a weight file that its library could not read, more precise than the library's."""
    if isinstance(error, OSError) and error.strerror:
        return unreadable(path, error)
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
        return unreadable(path, "an empty file")
    if head.lstrip().startswith(b"<"):
        return unreadable(path, "a web page, as a download that failed leaves behind")
    if path.suffix == ".safetensors" or head.startswith(b"PK"):
        # Only the first sentence of torch's message is about this file.
        return unreadable(path, f"a file that is cut off or damaged: {str(error).split('. ')[0]}")
    return ModelError.of(
        expected="a checkpoint",
        found="a file of another kind, or a damaged one; nothing in it was executed",
        where=str(path),
        do="give an official .pt file, or a folder in Hugging Face layout",
    )
