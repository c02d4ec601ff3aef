"""Beside the main job: bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.config import BenchConfig
from samtune.utils.progress import stages

if TYPE_CHECKING:
    from samtune.benchmark.figures import BenchReport


def bench(config: BenchConfig | None = None, *, quiet: bool = False) -> BenchReport:
    """Measure how fast this machine tunes a model, and estimate how long a run will take."""
    from samtune.benchmark.measure import bench as measure

    with stages(quiet=quiet) as advance:
        return measure(config or BenchConfig(), advance)
