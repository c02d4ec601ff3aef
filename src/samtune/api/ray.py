"""Starting `predict_many` on a Ray cluster: Ray keeps the workers alive, the shards' claims share out the images.

Ray's tasks are enough, and Ray Data is not used: no image and no result travels through Ray.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.api.inference import predict_many
from samtune.config import FindConfig, PredictConfig, ShardsConfig
from samtune.errors import SamtuneError, UsageError

if TYPE_CHECKING:
    from samtune.inference.shards.run import ManyReport


def predict_on_ray(
    images: Path | str,
    model: Path | str,
    out: Path | str,
    config: PredictConfig,
    shards: ShardsConfig | None = None,
    *,
    find: FindConfig | None = None,
    workers: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> ManyReport:
    """`predict_many` in tasks of a Ray cluster, whose machines all see the same folders.

    Connect with `ray.init` first; else Ray starts on this machine alone, without sending statistics of its use. A
    task whose process dies is started again by Ray, and joins the job again.

    Args:
        images, out, config, shards, find: as for `predict_many`; paths as the workers see them.
        model: a name or a path, from which each worker loads its own.
        workers: tasks, each of which loads the model once.
        cpus, gpus: what Ray reserves for each of them.

    Returns:
        The finished job. It has no speed: that is each worker's own.

    Raises:
        UsageError: Ray is not installed, or less than one worker.
        ConfigError, DataError, ModelError, StorageError: as `predict_many`.
    """
    from samtune.inference.shards.run import report_of

    if workers < 1:
        raise UsageError.of(expected="at least one worker", found=f"workers={workers}")
    ray = _ray()
    arguments = {
        "images": Path(images).absolute(), "model": model, "out": Path(out).absolute(), "config": config,
        "shards": shards, "find": find, "quiet": True,
    }  # fmt: skip
    worker = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(_work)
    try:
        ray.get([worker.remote(arguments) for _ in range(workers)])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SamtuneError):
            raise error.cause from error
        raise
    return report_of(Path(out))


def _work(arguments: dict[str, Any]) -> None:
    """A worker's part of the job, which ends when the whole job is done."""
    predict_many(**arguments)


def _ray() -> Any:
    """Ray, connected to the caller's cluster or to one of this machine alone.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise UsageError.of(
            expected="Ray", found=f"it is not installed: {error}", do="pip install 'samtune[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    return ray
