"""The public functions: each step of the main job is one. Command line, notebooks and scripts are built on them.

`import samtune` gives all of them. They import what they need when they are called, so that `samtune.doctor` needs no
torch. Progress goes to stderr; `quiet=True` silences it. Errors are those of `samtune.errors`. Results are frozen
values with `lines()` for a terminal, `to_json()` for programs and HTML for notebooks. One file per group of functions,
as in `cli/`.
"""

from samtune.api.data import doctor, download_roboflow, prepare
from samtune.api.evaluation import GUARD_SCENES, BlendResult, blend, compare, evaluate, evaluate_clips, write_prompts
from samtune.api.finding import evaluate_finder, find, fit_grid, train_finder
from samtune.api.inference import export, merge, predict, predict_many, track
from samtune.api.labelling import curve, rank_images
from samtune.api.loading import ModelTable, load_model, models
from samtune.api.ray import predict_on_ray
from samtune.api.tools import bench
from samtune.api.training import (
    FINDER_SHARE,
    TrainResult,
    cache_info,
    clear_cache,
    embed,
    pretrain,
    resume,
    runs,
    sweep,
    train,
)

__all__ = [
    "FINDER_SHARE",
    "GUARD_SCENES",
    "BlendResult",
    "ModelTable",
    "TrainResult",
    "bench",
    "blend",
    "cache_info",
    "clear_cache",
    "compare",
    "curve",
    "doctor",
    "download_roboflow",
    "embed",
    "evaluate",
    "evaluate_clips",
    "evaluate_finder",
    "export",
    "find",
    "fit_grid",
    "load_model",
    "merge",
    "models",
    "predict",
    "predict_many",
    "predict_on_ray",
    "prepare",
    "pretrain",
    "rank_images",
    "resume",
    "runs",
    "sweep",
    "track",
    "train",
    "train_finder",
    "write_prompts",
]
