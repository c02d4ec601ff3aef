"""The procedural scenes that guard a comparison, drawn once on a machine, with their embeddings beside them.

They lie in the user's cache folder, `$XDG_CACHE_HOME/samtune` or `~/.cache/samtune`; a folder is named by the code that
draws it, so that other code never meets its scenes. Where nothing can be kept they are drawn into a temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import PIL

from samtune.config import CacheConfig
from samtune.data.table import Dataset
from samtune.embeddings.store import lock
from samtune.errors import DataError, StorageError
from samtune.synthetic.guard_scenes import write_guard_scenes

SCENE_EMBEDDINGS = CacheConfig(cache_dtype="fp32", cache_limit="1GB")
"""How the scenes' embeddings are kept: unrounded, so that figures are those of a model that encodes them itself."""
_DRAWN_WITH = (np.__version__, cv2.__version__, PIL.__version__)
_FOLDER = "guard-scenes"


@contextmanager
def guard_scenes(count: int) -> Iterator[Dataset]:
    """A prepared dataset of `count` scenes, those of an earlier comparison where they are still there.

    Raises:
        StorageError: they can be written nowhere.
    """
    kept = _kept(count)
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_guard_scenes(Path(folder) / "scenes", count)


def _kept(count: int) -> Dataset | None:
    """The scenes in the user's cache, drawn where they are not there; None where nothing can be written there."""
    try:
        root = _cache_folder() / _FOLDER
        root.mkdir(parents=True, exist_ok=True)
        folder = root / f"{count}-{_code()}"
        with lock(root, folder.name):  # other processes wait for these scenes instead of drawing them too
            return _whole(folder) or write_guard_scenes(folder, count)
    except (OSError, RuntimeError, NotImplementedError, StorageError):  # read-only, full, without a home, without locks
        return None


def _whole(folder: Path) -> Dataset | None:
    """The scenes in a folder; None where any file of theirs is missing."""
    if not folder.is_dir():
        return None
    try:
        dataset = Dataset.open(folder)
    except DataError:
        return None
    files = [image.image_path for image in dataset.images]
    files += [found.mask_path for image in dataset.images for found in image.objects]
    return dataset if all((folder / file).is_file() for file in files) else None


def _cache_folder() -> Path:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "samtune"


@cache
def _code() -> str:
    """What decides how scenes look: samtune's own code that draws, and the libraries it draws with."""
    digest = hashlib.sha256()
    for file in sorted(resources.files("samtune.synthetic").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    digest.update(" ".join(_DRAWN_WITH).encode())
    return digest.hexdigest()[:16]
