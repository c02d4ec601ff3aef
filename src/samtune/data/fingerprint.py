"""What tells a dataset from a changed one: its table, the sizes of files that it names, and what was to be learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import polars as pl

from samtune.data.prepare.spool import TABLE
from samtune.data.table import Dataset
from samtune.utils.checksums import sha256

MOST_FILES = 1000
"""Images, and as many masks, whose sizes are looked at, spread evenly over the table."""
_MISSING = -1
"""Stands for the size of a file that is not there."""


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """The table's checksum and number of images, the sizes of files, and training images, as JSON values."""
    sizes: dict[str, int] = {}
    for column in ("image_path", "mask_path"):
        names = dataset.table[column].drop_nulls().unique(maintain_order=True)
        for name in _some(names):
            sizes[name] = _size(dataset.root / name)
    training = dataset.table.filter(pl.col("split") == "train")["image_path"].unique(maintain_order=True)
    images = dataset.table.select(pl.col("image_path").n_unique()).item()
    return {"table": sha256(dataset.root / TABLE), "images": images, "sizes": sizes, "training": _some(training)}


def find_change(dataset: Dataset, before: Mapping[str, Any]) -> str:
    """How a dataset differs from the one of a fingerprint, in words; empty where it does not."""
    now = fingerprint(dataset)
    if now["images"] != before.get("images"):
        return f"{now['images']} images where there were {before.get('images')}"
    if now["table"] != before.get("table"):
        return f"another {TABLE}, though with as many images"
    changed = [name for name, size in before.get("sizes", {}).items() if now["sizes"].get(name, size) != size]
    if not changed:
        return ""
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    size, had = now["sizes"][changed[0]], before["sizes"][changed[0]]
    what = "is missing" if size == _MISSING else f"has {size} bytes and had {max(had, 0)}"
    return f"{changed[0]} {what}{more}"


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """A fingerprint that was written as JSON; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _some(names: pl.Series) -> list[str]:
    """At most `MOST_FILES` of them, spread evenly."""
    return names.gather_every(max(1, -(-len(names) // MOST_FILES))).to_list()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return _MISSING
