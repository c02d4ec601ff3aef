"""The public surface: each step of the main job as one function. Command line, notebooks and scripts stand on it.

Functions import what they need when they are called, so that `samtune doctor` starts without torch. Progress goes to
stderr; `quiet=True` silences it. Errors are those of `samtune.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.config import (
    BenchConfig,
    EmbedConfig,
    EvalConfig,
    PredictConfig,
    PrepareConfig,
    PretrainConfig,
    TrainConfig,
)
from samtune.utils.progress import progress, stages, stderr_console

if TYPE_CHECKING:
    from rich.table import Table

    from samtune.benchmark.figures import BenchReport
    from samtune.data.checks.doctor import Audit
    from samtune.data.prepare.prepare import PrepareReport
    from samtune.embeddings.dataset import EmbedReport
    from samtune.embeddings.store import CacheInfo
    from samtune.evaluation.comparison import Comparison
    from samtune.evaluation.protocol import Evaluation
    from samtune.exports.export import ExportReport
    from samtune.inference.files import PredictReport
    from samtune.inference.predictor import Predictor
    from samtune.training.run import Run


def doctor(
    source: Path | str,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    html: Path | None = None,
    quiet: bool = False,
) -> Audit:
    """Check annotations and images without changing anything; see `data.doctor.audit`. `html` also writes a page."""
    from samtune.data.checks.doctor import audit
    from samtune.data.checks.page import render_html

    with progress("checking", quiet=quiet) as advance:
        found = audit(Path(source), source_format, images, progress=advance)
    if html is not None:
        render_html(found, html)
    return found


def prepare(
    source: Path | str, out: Path | str, config: PrepareConfig | None = None, *, quiet: bool = False
) -> PrepareReport:
    """Turn annotations into mask files and a table; see `data.prepare.prepare`."""
    from samtune.data.prepare.prepare import prepare as prepare_source

    with progress("preparing", quiet=quiet) as advance:
        return prepare_source(Path(source), Path(out), config or PrepareConfig(), progress=advance)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training run ended.

    Attributes:
        folder: the run folder, usable wherever a model is asked for.
        step: steps done.
        best_step: step of the weights in `checkpoints/best`; 0 means no step was better than the base model.
        signal: number of the signal that interrupted the run, or None.
    """

    folder: Path
    step: int
    best_step: int
    signal: int | None

    def lines(self) -> list[str]:
        """What to tell the user."""
        if self.signal:
            return [f"interrupted after step {self.step}; go on with: samtune train --resume {self.folder}"]
        best = f"best at step {self.best_step}" if self.best_step else "no step was better than the base model"
        return [f"done: {self.step} steps, {best}", f"run        {self.folder}"]


def train(dataset: Path | str, config: TrainConfig | None = None, *, quiet: bool = False) -> TrainResult:
    """Tune a model on a prepared dataset; see `training.loop.train`."""
    from samtune.training.run import new

    return _train(new(Path(dataset), config or TrainConfig()), quiet)


def resume(folder: Path | str, *, quiet: bool = False) -> TrainResult:
    """Continue an interrupted run where its last checkpoint left it, with the same numbers it would have had."""
    from samtune.training.run import resumed

    return _train(resumed(Path(folder)), quiet)


def _train(run: Run, quiet: bool) -> TrainResult:
    from samtune.training.loop import train as train_run
    from samtune.training.tracking.listeners import file_listeners, progress_listener

    with ExitStack() as stack:
        listeners = stack.enter_context(file_listeners(run.folder))
        listeners.append(stack.enter_context(progress_listener(stderr_console(quiet=quiet))))
        finished = train_run(run, listeners)
    return TrainResult(run.folder.path, finished.step, finished.best_step, finished.signal)


def evaluate(
    dataset: Path | str,
    model: Path | str,
    config: EvalConfig | None = None,
    *,
    out: Path | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Measure a model on a split; see `evaluation.evaluate`. `out` also writes every object's figures as JSON."""
    from samtune.data.table import Dataset
    from samtune.evaluation.protocol import evaluate as measure

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    with progress("measuring", quiet=quiet) as advance:
        found = measure(predictor(model, device=config.device), data, config, progress=advance)
    if out is not None:
        found.save(out)
    return found


def compare(
    dataset: Path | str,
    base: Path | str,
    tuned: Path | str,
    out: Path | str,
    config: EvalConfig | None = None,
    *,
    quiet: bool = False,
) -> Comparison:
    """Measure two models on the same prompts and write figures, images and `report.html`; see `report.build`."""
    from samtune.data.table import Dataset
    from samtune.report.build import build_report

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    first, second = (predictor(model, device=config.device) for model in (base, tuned))
    with stages(quiet=quiet) as advance:
        return build_report(
            data,
            first,
            second,
            Path(out),
            config,
            names=(str(base), str(tuned)),
            curve=Path(tuned) / "metrics.jsonl",
            progress=advance,
        )


def predict(
    images: Path | str, model: Path | str, out: Path | str, config: PredictConfig, *, quiet: bool = False
) -> PredictReport:
    """Segment picture files; see `inference.predict_files`."""
    from samtune.inference.files import predict_files

    asked = predictor(model, device=config.device)
    with progress("predicting", quiet=quiet) as advance:
        return predict_files(Path(images), asked, Path(out), config, progress=advance)


def export(
    model: Path | str,
    out: Path | str,
    format: Literal["official", "hf", "adapter"] = "official",
    *,
    comparison: Path | None = None,
) -> ExportReport:
    """Write a model in another tool's layout, load it again and compare its masks; see `export.export`."""
    from samtune.exports.export import export as write

    return write(model, Path(out), format, comparison=comparison)


def embed(dataset: Path | str, config: EmbedConfig | None = None, *, quiet: bool = False) -> EmbedReport:
    """Compute the image embeddings of a dataset ahead of training; see `model.dataset_embeddings`."""
    from samtune.embeddings.dataset import embed_dataset

    with progress("embedding", quiet=quiet) as advance:
        return embed_dataset(Path(dataset), config or EmbedConfig(), progress=advance)


def cache_info(folder: Path | str) -> CacheInfo:
    """What an embedding cache holds; `folder` is the cache or the dataset it stands in."""
    from samtune.embeddings import store

    return store.cache_info(_cache_folder(Path(folder)))


def clear_cache(folder: Path | str) -> CacheInfo:
    """Remove all image embeddings of a cache; returns what was there."""
    from samtune.embeddings import store

    return store.clear_cache(_cache_folder(Path(folder)))


def _cache_folder(folder: Path) -> Path:
    inside = folder / "embeddings"
    return inside if inside.is_dir() else folder


def bench(config: BenchConfig | None = None, *, quiet: bool = False) -> BenchReport:
    """Measure how fast this machine tunes a model, and foretell how long a run will take; see `bench.measure`."""
    from samtune.benchmark.measure import bench as measure

    with stages(quiet=quiet) as advance:
        return measure(config or BenchConfig(), advance)


def models_table() -> Table:
    """The models known by name, as a table for the terminal; see `model.catalogue`."""
    from rich.table import Table

    from samtune.model.catalogue import catalogue

    table = Table(title="GFLOPs: of the encoder per image, of the decoder per box")
    for head in ("model", "parameters", "input", "encoder", "decoder", "licence"):
        table.add_column(head, no_wrap=True)
    for row in catalogue():
        figures = (f"{row.cost.parameters / 1e6:.1f} M", f"{row.image_size} px", f"{row.cost.encoder_gflops:.1f}")
        table.add_row(row.name, *figures, f"{row.cost.decoder_gflops:.2f}", row.licence)
    return table


def pretrain(config: PretrainConfig) -> Path:
    """Train the small model from scratch on procedural scenes, or go on where it stopped; see docs/nano.md."""
    from samtune.nano.pretraining import pretrain as run

    console = stderr_console()

    def report(line: Mapping[str, float]) -> None:
        console.print("  ".join(f"{name} {value:g}" for name, value in line.items()), highlight=False)

    return run(config, report)


def download_roboflow(
    project: str, out: Path | str, *, export_format: str = "coco-segmentation", quiet: bool = False
) -> Path:
    """Download an export from Roboflow with the key in ROBOFLOW_API_KEY, or from an address; see `data.roboflow`."""
    from samtune.data import roboflow

    with progress("downloading", quiet=quiet) as advance:
        if project.startswith(("https://", "http://")):
            return roboflow.from_url(project, Path(out), progress=advance)
        return roboflow.download(project, Path(out), export_format=export_format, progress=advance)


def predictor(model: Path | str, *, device: str = "auto") -> Predictor:
    """A model ready to answer prompts; see `inference.predictor`."""
    from samtune.inference.predictor import Predictor
    from samtune.model.io.load import load_model
    from samtune.runtime.device import choose_device, configure_process

    chosen = choose_device(device)
    configure_process(chosen)
    return Predictor(load_model(model, device=chosen))
