"""Shared by all tests: a tiny random SAM 2, and the real sets where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: threads of one would only wait for those of the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A user's cache folder for these tests alone."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def real_data(name: str) -> Path:
    """Folder of a real development set; skips the test, by name, where it is not at hand."""
    root = Path(os.environ.get("SAMTUNE_REAL_DATA", REPO.parent / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"real set {name} is not at hand (SAMTUNE_REAL_DATA)")
    return folder


@pytest.fixture
def tiny_model():
    """A random SAM 2 of a few thousand parameters, 64 px input, in eval mode; a fresh one for each test."""
    from tests.tiny import tiny_sam2

    return tiny_sam2(seed=0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The same as a saved model, for tests of what loads one; nobody writes into it."""
    from samtune.model.io.save import save_model
    from tests.tiny import tiny_sam2

    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(tiny_sam2(seed=0), folder)
    return folder
