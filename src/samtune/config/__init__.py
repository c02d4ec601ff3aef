"""Every setting of samtune: frozen pydantic models that refuse unknown keys, for command line, YAML and Python alike.

A field's description is its help text on the command line, so it states the unit; the default stands beside it. One
file per stage.
"""

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
