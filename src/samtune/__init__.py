"""samtune tunes Segment Anything 2 to a dataset and says honestly whether it helped.

    import samtune

    samtune.prepare("my-export", "dataset")
    run = samtune.train("dataset", samtune.TrainConfig(model="nano", steps=300))
    samtune.compare("dataset", base="nano", tuned=run.folder, out="comparison")

Everything in `__all__` is public. Names are imported when they are first used, so that `import samtune` is quick and
loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.api import (
        BlendResult,
        ModelTable,
        TrainResult,
        bench,
        blend,
        cache_info,
        clear_cache,
        compare,
        curve,
        doctor,
        download_roboflow,
        embed,
        evaluate,
        evaluate_clips,
        evaluate_finder,
        export,
        find,
        fit_grid,
        load_model,
        merge,
        models,
        predict,
        predict_many,
        predict_on_ray,
        prepare,
        pretrain,
        rank_images,
        resume,
        runs,
        sweep,
        track,
        train,
        train_finder,
        write_prompts,
    )
    from samtune.benchmark.figures import BenchReport
    from samtune.config import (
        AutomaticConfig,
        BenchConfig,
        CacheConfig,
        ClipConfig,
        ClipEvalConfig,
        CurveConfig,
        EmbedConfig,
        EvalConfig,
        FindConfig,
        FinderConfig,
        FindEvalConfig,
        LossConfig,
        OptimizerConfig,
        PredictConfig,
        PrepareConfig,
        PretrainConfig,
        PretrainStage,
        PromptPolicy,
        RankConfig,
        ReadingConfig,
        ShardsConfig,
        StudioConfig,
        SweepConfig,
        TrackConfig,
        TrainableConfig,
        TrainConfig,
    )
    from samtune.data.checks.doctor import Audit
    from samtune.data.prepare.prepare import PrepareReport
    from samtune.data.table import Dataset
    from samtune.embeddings.dataset import EmbedReport
    from samtune.embeddings.store import CacheInfo
    from samtune.errors import (
        ConfigError,
        DataError,
        ModelError,
        RemoteError,
        SamtuneError,
        StorageError,
        UsageError,
    )
    from samtune.evaluation.clips.results import ClipEvaluation
    from samtune.evaluation.comparison import Comparison
    from samtune.evaluation.fixed_prompts import PromptSet
    from samtune.evaluation.results import Evaluation
    from samtune.exports.export import ExportReport
    from samtune.finder.evaluation import FindEvaluation
    from samtune.finder.files import FindReport
    from samtune.finder.grid import GridFit
    from samtune.finder.run import FinderReport
    from samtune.inference.files import PredictReport
    from samtune.inference.predictor import EmbeddedImage, Predictor
    from samtune.inference.shards.merge import MergeReport
    from samtune.inference.shards.run import ManyReport
    from samtune.inference.video.files import TrackReport
    from samtune.labelling.curve import DataCurve
    from samtune.labelling.ranking import Ranking
    from samtune.model.io.loaded import LoadedModel
    from samtune.search.report import SweepReport
    from samtune.training.runs import RunTable
    from samtune.training.tracking.events import Event, Listener, Noted, RunFinished, RunStarted, StepDone, Validated
    from samtune.types import Issue, Prediction, Prompt, Severity, Split

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "AutomaticConfig",
    "BenchConfig",
    "BenchReport",
    "BlendResult",
    "CacheConfig",
    "CacheInfo",
    "ClipConfig",
    "ClipEvalConfig",
    "ClipEvaluation",
    "Comparison",
    "ConfigError",
    "CurveConfig",
    "DataCurve",
    "DataError",
    "Dataset",
    "EmbedConfig",
    "EmbedReport",
    "EmbeddedImage",
    "EvalConfig",
    "Evaluation",
    "Event",
    "ExportReport",
    "FindConfig",
    "FindEvalConfig",
    "FindEvaluation",
    "FindReport",
    "FinderConfig",
    "FinderReport",
    "GridFit",
    "Issue",
    "Listener",
    "LoadedModel",
    "LossConfig",
    "ManyReport",
    "MergeReport",
    "ModelError",
    "ModelTable",
    "Noted",
    "OptimizerConfig",
    "PredictConfig",
    "PredictReport",
    "Prediction",
    "Predictor",
    "PrepareConfig",
    "PrepareReport",
    "PretrainConfig",
    "PretrainStage",
    "Prompt",
    "PromptPolicy",
    "PromptSet",
    "RankConfig",
    "Ranking",
    "ReadingConfig",
    "RemoteError",
    "RunFinished",
    "RunStarted",
    "RunTable",
    "SamtuneError",
    "Severity",
    "ShardsConfig",
    "Split",
    "StepDone",
    "StorageError",
    "StudioConfig",
    "SweepConfig",
    "SweepReport",
    "TrackConfig",
    "TrackReport",
    "TrainConfig",
    "TrainResult",
    "TrainableConfig",
    "UsageError",
    "Validated",
    "__version__",
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

_HOMES = {
    "Audit": "data.checks.doctor",
    "BenchReport": "benchmark.figures",
    "CacheInfo": "embeddings.store",
    "ClipEvaluation": "evaluation.clips.results",
    "Comparison": "evaluation.comparison",
    "DataCurve": "labelling.curve",
    "Dataset": "data.table",
    "EmbedReport": "embeddings.dataset",
    "EmbeddedImage": "inference.predictor",
    "Evaluation": "evaluation.results",
    "ExportReport": "exports.export",
    "FindEvaluation": "finder.evaluation",
    "FindReport": "finder.files",
    "GridFit": "finder.grid",
    "FinderReport": "finder.run",
    "LoadedModel": "model.io.loaded",
    "ManyReport": "inference.shards.run",
    "MergeReport": "inference.shards.merge",
    "PredictReport": "inference.files",
    "Predictor": "inference.predictor",
    "PromptSet": "evaluation.fixed_prompts",
    "PrepareReport": "data.prepare.prepare",
    "RunTable": "training.runs",
    "SweepReport": "search.report",
    "TrackReport": "inference.video.files",
    "Ranking": "labelling.ranking",
}
"""Modules of the names that are not in one of `_SHARED`."""

_SHARED = ("api", "config", "errors", "types", "training.tracking.events")
"""Modules with many public names, all quick to import."""


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for home in [_HOMES[name]] if name in _HOMES else _SHARED:
        module = import_module(f"{__name__}.{home}")
        if name in getattr(module, "__all__", vars(module)):
            value = globals()[name] = getattr(module, name)
            return value
    raise AssertionError(f"{name} is in __all__ and in no module")


def __dir__() -> list[str]:
    return sorted(__all__)
