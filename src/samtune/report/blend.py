"""Blends measured on a dataset and on the images of guards, procedural scenes among them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from samtune.config import EvalConfig
from samtune.data.table import Dataset
from samtune.evaluation.blend import BlendPoint, beyond, sweep
from samtune.model.io.loaded import LoadedModel
from samtune.report.build import ON_GUARDS, SCENES, guards_by_name
from samtune.report.gallery import Advance
from samtune.report.guard_scenes import guard_scenes


def measure_blends(
    base: LoadedModel,
    tuned: LoadedModel,
    dataset: Path,
    config: EvalConfig,
    guards: Sequence[Path],
    scenes: int,
    *,
    progress: Advance,
) -> list[BlendPoint]:
    """Measure blends with boxes and clicks: eleven a tenth apart, and three where damage begins.

    Args:
        base, tuned: models of one architecture.
        dataset: folder of a prepared dataset; the split is chosen by `config`.
        config: split and prompts; only boxes, clicks and background clicks are used.
        guards: folders of datasets of other images.
        scenes: procedural scenes as one more guard; 0 leaves them out.
        progress: called with what is being done, images done and their total.

    Raises:
        ConfigError: two guards have one name.
        ModelError: the models are of different architectures.
        DataError: the split or a guard has no objects, or an image cannot be read.
    """
    sets = guards_by_name([Dataset.open(guard) for guard in guards])
    settings = config.model_copy(update=ON_GUARDS | {"background_clicks": config.background_clicks})
    with ExitStack() as drawn:
        if scenes:
            sets[SCENES] = drawn.enter_context(guard_scenes(scenes))
        measured = partial(sweep, base, tuned, Dataset.open(dataset), settings, guards=sets, progress=progress)
        points = measured()
        further = beyond(points)
        if further:
            points += measured(alphas=(0.0, *further))[1:]
        return sorted(points, key=lambda point: point.alpha)
