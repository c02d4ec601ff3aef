"""Every setting of samtune: frozen pydantic models that refuse unknown keys, for command line, YAML and Python alike.

A field's description is its help text on the command line, so it states the unit; the default stands beside it. One
file per stage, loaded when one of its names is first asked for: building the models takes a while, and most programs
need few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.config.base import Config
    from samtune.config.bench import BenchConfig
    from samtune.config.embeddings import CacheConfig, EmbedConfig
    from samtune.config.evaluation import ClipEvalConfig, EvalConfig
    from samtune.config.finder import FindConfig, FinderConfig, FindEvalConfig
    from samtune.config.inference import AutomaticConfig, ClipConfig, PredictConfig, ShardsConfig, TrackConfig
    from samtune.config.labelling import CurveConfig, RankConfig
    from samtune.config.prepare import PrepareConfig
    from samtune.config.pretraining import PretrainConfig, PretrainStage
    from samtune.config.prompts import PromptPolicy
    from samtune.config.reading import ReadingConfig
    from samtune.config.studio import StudioConfig
    from samtune.config.sweep import SweepConfig
    from samtune.config.training import LossConfig, OptimizerConfig, TrainableConfig, TrainConfig

__all__ = [
    "AutomaticConfig",
    "BenchConfig",
    "CacheConfig",
    "ClipConfig",
    "ClipEvalConfig",
    "Config",
    "CurveConfig",
    "EmbedConfig",
    "EvalConfig",
    "FindConfig",
    "FindEvalConfig",
    "FinderConfig",
    "LossConfig",
    "OptimizerConfig",
    "PredictConfig",
    "PrepareConfig",
    "PretrainConfig",
    "PretrainStage",
    "PromptPolicy",
    "RankConfig",
    "ReadingConfig",
    "ShardsConfig",
    "StudioConfig",
    "SweepConfig",
    "TrackConfig",
    "TrainConfig",
    "TrainableConfig",
]

_HOMES = {
    "Config": "base",
    "BenchConfig": "bench",
    "CacheConfig": "embeddings",
    "EmbedConfig": "embeddings",
    "ClipEvalConfig": "evaluation",
    "EvalConfig": "evaluation",
    "FindConfig": "finder",
    "FinderConfig": "finder",
    "FindEvalConfig": "finder",
    "AutomaticConfig": "inference",
    "ClipConfig": "inference",
    "PredictConfig": "inference",
    "ShardsConfig": "inference",
    "TrackConfig": "inference",
    "CurveConfig": "labelling",
    "RankConfig": "labelling",
    "PrepareConfig": "prepare",
    "PretrainConfig": "pretraining",
    "PretrainStage": "pretraining",
    "PromptPolicy": "prompts",
    "ReadingConfig": "reading",
    "StudioConfig": "studio",
    "SweepConfig": "sweep",
    "LossConfig": "training",
    "OptimizerConfig": "training",
    "TrainableConfig": "training",
    "TrainConfig": "training",
}


def __getattr__(name: str) -> Any:
    """A model, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
