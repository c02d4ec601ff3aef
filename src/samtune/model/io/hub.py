"""Fetching a model from the Hugging Face hub or its local cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from samtune.errors import ModelError
from samtune.model.catalogue import hub_name, suggest
from samtune.model.io.files import CONFIG, WEIGHTS
from samtune.utils.files import is_full, storage_error

INDEX, SHARDS = "model.safetensors.index.json", "model-*-of-*.safetensors"
"""Names of the files of a model whose weights are in several files."""
_HUB_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, ImportError)
"""What the hub's client raises: its own errors, those of its HTTP library (which one, depends on its version), and
ImportError where a proxy needs a package."""


def download_model(repository: str, name: str) -> Path:
    """The repository's files in the local hub cache, fetched where they are not there yet."""
    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS, INDEX, SHARDS]))
    except _HUB_ERRORS as error:
        if isinstance(error, OSError) and is_full(error):
            raise storage_error(error, Path(constants.HF_HUB_CACHE)) from error
        known = hub_name(name) is not None
        raise ModelError.of(
            expected=f"{'' if known else 'a file, a folder, or '}{repository} from the Hugging Face hub or its cache",
            found=("" if known else "no such file or folder, and ") + _hub_reason(error),
            where=name,
            do=(f"{suggest(name)} " if not known and suggest(name) else "")
            + "without a network: --model nano, a folder in Hugging Face layout, an official .pt file, or a cache that "
            "holds the model (HF_HOME) with HF_HUB_OFFLINE=1; a private model needs HF_TOKEN",
        ) from error


def _hub_reason(error: BaseException) -> str:
    """Why the hub gave nothing. Its client raises about the cache first; the cause is behind that."""
    cause = error.__cause__ or error
    if isinstance(cause, OfflineModeIsEnabled):
        return "nothing in the cache, while HF_HUB_OFFLINE forbids to ask the hub"
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return f"a hub that has no such model, or does not show it without a token ({status})"
    reason = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"a hub that cannot be reached ({reason[0]})"
