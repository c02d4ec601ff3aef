"""The public functions: each step of the main job is one. Command line, notebooks and scripts are built on them.

`import samtune` gives all of them. They import what they need when they are called, so that `samtune.doctor` needs no
torch. Progress goes to stderr; `quiet=True` silences it. Errors are those of `samtune.errors`. Results are frozen
values with `lines()` for a terminal, `to_json()` for programs and HTML for notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

from samtune.config import (
    BenchConfig,
    EmbedConfig,
    EvalConfig,
    FindConfig,
    FinderConfig,
    FindEvalConfig,
    PredictConfig,
    PrepareConfig,
    PretrainConfig,
    TrainConfig,
)
from samtune.errors import ConfigError
from samtune.utils.progress import progress, stages, stderr_console
from samtune.utils.results import Result
from samtune.utils.text import html_table, text_table

if TYPE_CHECKING:
    from samtune.benchmark.figures import BenchReport
    from samtune.data.checks.doctor import Audit
    from samtune.data.prepare.prepare import PrepareReport
    from samtune.embeddings.dataset import EmbedReport
    from samtune.embeddings.store import CacheInfo
    from samtune.evaluation.blend import BlendPoint
    from samtune.evaluation.comparison import Comparison
    from samtune.evaluation.fixed_prompts import PromptSet
    from samtune.evaluation.results import Evaluation
    from samtune.exports.export import ExportReport
    from samtune.finder.evaluation import FindEvaluation
    from samtune.finder.files import FindReport
    from samtune.finder.run import FinderReport
    from samtune.inference.files import PredictReport
    from samtune.inference.predictor import Predictor
    from samtune.model.catalogue import KnownModel
    from samtune.model.io.loaded import LoadedModel
    from samtune.training.run import Run
    from samtune.training.tracking.events import Listener

    Model: TypeAlias = str | Path | LoadedModel | Predictor
    """A model by name or path, or a loaded one, which stays on the device it is on."""

GUARD_SCENES = 16
"""Procedural scenes that every comparison also looks at."""


def doctor(
    source: Path | str,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    crowd: str = "auto",
    mask_pattern: str = "",
    html: Path | None = None,
    quiet: bool = False,
) -> Audit:
    """Check annotations and images without changing anything.

    Args:
        source: folder, annotation file, or zip of an export; it is only read.
        source_format: `auto`, or the name of a format.
        images: image folder, when the annotation file stands elsewhere.
        crowd: what COCO's iscrowd marks: `objects`, `regions` of many, or `auto`.
        mask_pattern: how masks are named, `{stem}` for the image's name; empty tells by their names.
        html: also write a page with images of the findings here.
        quiet: show no progress.

    Raises:
        DataError: the source as a whole cannot be read; the message names file, field and line.
    """
    from samtune.data.checks.doctor import audit
    from samtune.data.checks.page import render_html
    from samtune.data.readers import ReadOptions

    with progress("checking", quiet=quiet) as advance:
        options = ReadOptions(crowd, mask_pattern)
        found = audit(Path(source), source_format, images, options=options, progress=advance)
    if html is not None:
        render_html(found, html)
    return found


def prepare(
    source: Path | str, out: Path | str, config: PrepareConfig | None = None, *, quiet: bool = False
) -> PrepareReport:
    """Turn annotations into a dataset: one mask file per object, and a table that links images and masks.

    Args:
        source: folder, annotation file, or zip of an export.
        out: dataset folder; an earlier dataset there is replaced, anything else is refused.
        config: how.
        quiet: show no progress.

    Raises:
        DataError: the source cannot be read, holds no usable object, or more broken objects than allowed.
        ConfigError: `out` holds something else.
        StorageError: the disk refused; nothing is left behind.
    """
    from samtune.data.prepare.prepare import prepare as prepare_source

    with progress("preparing", quiet=quiet) as advance:
        return prepare_source(Path(source), Path(out), config or PrepareConfig(), progress=advance)


FINDER_SHARE = 0.15
"""Share of the training's time up to which a finder is made without being asked for."""
_NO_FINDER_BELOW_SECONDS = 60.0
"""Of a run as short as this nobody expects more than the run."""


@dataclass(frozen=True, slots=True)
class TrainResult(Result):
    """How a training run ended.

    Attributes:
        folder: the run folder, usable wherever a model is asked for.
        step: steps done.
        best_step: step of the weights in `checkpoints/best`; 0 means no step was better than the base model.
        signal: number of the signal that interrupted the run, or None.
        finder: what came of the finder, where one was made.
        note: why there is no finder, where it was left out by itself.
    """

    folder: Path
    step: int
    best_step: int
    signal: int | None
    finder: FinderReport | None = None
    note: str = ""

    def lines(self) -> list[str]:
        """What to tell the user."""
        if self.signal:
            return [f"interrupted after step {self.step}; continue with: samtune train --resume {self.folder}"]
        best = f"best at step {self.best_step}" if self.best_step else "no step was better than the base model"
        made = self.finder.lines() if self.finder else [f"finder     {self.note}"] if self.note else []
        return [f"done: {self.step} steps, {best}", f"run        {self.folder}", *made]


def train(
    dataset: Path | str,
    config: TrainConfig | None = None,
    *,
    listeners: Sequence[Listener] = (),
    finder: bool | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Tune a model on a prepared dataset; the same numbers each time for the same settings and machine.

    Under `torchrun` or `accelerate launch` every process calls this; see docs/cluster.md.

    Args:
        dataset: folder that `prepare` wrote.
        config: model, length, what learns.
        listeners: called with every event of the run (`RunStarted`, `StepDone`, `Validated`, `RunFinished`), in the
            main process only, after the run's own files are written.
        finder: whether to make a finder after training, see docs/finder.md; None makes one where that takes less than
            `FINDER_SHARE` of the training's time.
        quiet: show no progress.

    Raises:
        DataError: the dataset cannot be read or has nothing to train on.
        ModelError: the model cannot be loaded.
        ConfigError: settings that do not fit the model, or a run folder that is taken.
        StorageError: the disk refused.
        SamtuneError: the loss is not finite for several steps in a row, or another process has ended.
    """
    from samtune.training.run import new, removed_if_not_started

    run = new(Path(dataset), config or TrainConfig())
    with removed_if_not_started(run):
        return _train(run, listeners, finder, quiet)


def resume(
    folder: Path | str, *, listeners: Sequence[Listener] = (), finder: bool | None = None, quiet: bool = False
) -> TrainResult:
    """Continue an interrupted run at its last checkpoint, with the same numbers it would have had.

    Args, errors: those of `train`; `folder` is the run folder.
    """
    from samtune.training.run import resumed

    return _train(resumed(Path(folder)), listeners, finder, quiet)


def _train(run: Run, listeners: Sequence[Listener], finder: bool | None, quiet: bool) -> TrainResult:
    from samtune.training.loop import train as train_run
    from samtune.training.tracking.console import progress_listener
    from samtune.training.tracking.files import file_listeners

    started = monotonic()
    with ExitStack() as stack:
        if run.processes.is_main:
            own = stack.enter_context(file_listeners(run.folder, run.state.progress.step))
            console = stack.enter_context(progress_listener(stderr_console(quiet=quiet)))
            listeners = [*own, console, *listeners]
        finished = train_run(run, listeners)
    report, note = None, ""
    if finished.signal is None and finder is not False and run.processes.is_main:
        report, note = _finder_after(run, monotonic() - started, wanted=bool(finder), quiet=quiet)
    return TrainResult(run.folder.path, finished.step, finished.best_step, finished.signal, report, note)


def _finder_after(run: Run, seconds: float, *, wanted: bool, quiet: bool) -> tuple[FinderReport | None, str]:
    """A finder for a run that has just ended, or why there is none."""
    from samtune.finder.run import expected_seconds

    path = run.folder.path
    config = FinderConfig(seed=run.config.seed, device=run.config.device)
    if not wanted:
        if run.embeddings.cache is None or seconds < _NO_FINDER_BELOW_SECONDS:
            return None, ""
        expected = expected_seconds(run.embeddings, config)
        if expected > FINDER_SHARE * seconds:
            return (
                None,
                f"left out, it would take about {expected:.0f} s more; make one with: samtune find-train {path}",
            )
    return train_finder(path, config, quiet=quiet), ""


def evaluate(
    dataset: Path | str,
    model: Model,
    config: EvalConfig | None = None,
    *,
    out: Path | str | None = None,
    prompts: Path | str | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Measure a model on a split: IoU and Dice for boxes and single clicks, beside what trivial guesses score.

    Args:
        dataset: folder that `prepare` wrote.
        model: a name, a path, or a loaded model.
        config: split, prompts, device.
        out: JSON file to write the figures of every object to; a Parquet file of the same name is written beside it.
        prompts: file of prompts to ask with, as `samtune write-prompts` writes it; made from the dataset if left out.
        quiet: show no progress.

    Raises:
        DataError: the split has no objects, an image or mask cannot be read, or the prompts are about other objects.
        ModelError: the model cannot be loaded.
    """
    from samtune.data.table import Dataset
    from samtune.evaluation.fixed_prompts import PromptSet
    from samtune.evaluation.protocol import evaluate as measure
    from samtune.runtime.distributed import join_processes

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    asked = None if prompts is None else PromptSet.load(Path(prompts))
    with progress("measuring", quiet=quiet) as advance:
        predictor = _predictor(model, config.device)
        processes = join_processes(predictor.device)
        found = measure(predictor, data, config, prompts=asked, processes=processes, progress=advance)
    if out is not None and processes.is_main:
        found.save(Path(out))
    return found


def compare(
    dataset: Path | str,
    base: Model,
    tuned: Model | Sequence[Model],
    out: Path | str,
    config: EvalConfig | None = None,
    *,
    guards: Sequence[Path | str] = (),
    guard_scenes: int = GUARD_SCENES,
    quiet: bool = False,
) -> Comparison:
    """Measure models on the same prompts, say whether to use the tuned one, and write figures and `report.html`.

    Args:
        dataset: folder that `prepare` wrote.
        base: the model to compare with: a name, a path, or a loaded model.
        tuned: the run or model in question, likewise; or several, which are ranked. The verdicts are corrected for
            their number.
        out: folder to write; an earlier comparison there is replaced, anything else is refused.
        config: split, prompts, device.
        guards: further datasets, of images unlike these, on which the tuned model should be as good as the base.
        guard_scenes: procedural scenes that are one more such guard; 0 leaves them out.
        quiet: show no progress.

    Returns:
        The comparison of the tuned model, or of the best of several, with the base.

    Raises:
        ConfigError: `out` holds something that is no comparison.
        DataError: the split has no objects, or an image or mask cannot be read.
        ModelError: a model cannot be loaded.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.report.build import build_report

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    others = [Dataset.open(Path(guard)) for guard in guards]
    candidates = list(tuned) if isinstance(tuned, Sequence) and not isinstance(tuned, str) else [tuned]
    models = [base, *candidates]
    loaded = [_predictor(model, config.device) for model in models]
    with stages(quiet=quiet) as advance:
        return build_report(
            data,
            loaded[0],
            loaded[1:],
            Path(out),
            config,
            names=[_name(model, predictor) for model, predictor in zip(models, loaded, strict=True)],
            guards=others,
            guard_scenes=guard_scenes,
            curves=[Path(one) / "metrics.jsonl" if isinstance(one, str | Path) else None for one in candidates],
            progress=advance,
        )[0]


@dataclass(frozen=True, slots=True)
class BlendResult(Result):
    """What `blend` wrote.

    Attributes:
        out: the model folder, usable wherever a model is asked for.
        alpha: 0 is the base model, 1 the tuned one.
        points: the blends that were measured; empty where alpha was given.
    """

    out: Path
    alpha: float
    points: tuple[BlendPoint, ...]

    def lines(self) -> list[str]:
        """What to tell the user."""
        rows = [
            (f"{one.alpha:g}", *(f"{gain:+.3f}" for gain in one.gains.values()), ", ".join(one.damaged) or "-")
            for one in self.points
        ]
        table = text_table(("alpha", "boxes", "clicks", "damaged"), rows) if rows else []
        taken = f"alpha {self.alpha:g}"
        if rows and not self.alpha:
            taken += ", the base model: no blend gains without damage"
        return [*table, f"blend      {taken}", f"model      {self.out}"]


def blend(
    base: Model,
    tuned: Model,
    out: Path | str,
    alpha: float | Literal["auto"] = "auto",
    *,
    dataset: Path | str | None = None,
    config: EvalConfig | None = None,
    guards: Sequence[Path | str] = (),
    guard_scenes: int = GUARD_SCENES,
    quiet: bool = False,
) -> BlendResult:
    """Write a model between two: the tuned model's gain without what it damaged, as far as both can be had.

    Args:
        base: the model that `tuned` was tuned from: a name, a path, or a loaded model.
        tuned: likewise; a loaded one has the weights of the blend afterwards.
        out: model folder to write; an earlier blend there is replaced, anything else is refused.
        alpha: 0 is the base model, 1 the tuned one; `auto` measures eleven of them on the validation split.
        dataset: what `auto` measures on; the run's own dataset if left out.
        config: split, prompts, device.
        guards: further datasets, of images unlike these, on which the blend should be as good as the base.
        guard_scenes: procedural scenes that are one more such guard; 0 leaves them out.
        quiet: show no progress.

    Raises:
        ConfigError: `alpha` out of range, no dataset to measure on, or `out` holds something that is no blend.
        ModelError: a model cannot be loaded, or they are of different architectures.
        DataError: the split or a guard has no objects, or an image cannot be read.
        StorageError: the disk refused.
    """
    from samtune.evaluation.blend import BLEND, best_of, write_blend
    from samtune.report.blend import measure_blends
    from samtune.utils.output_folders import check_output

    if alpha != "auto" and not 0 <= alpha <= 1:
        raise ConfigError.of(expected="auto, or a number from 0 to 1", found=str(alpha), where="--alpha")
    check_output(Path(out), mark=BLEND, earlier="an earlier blend")
    data = _dataset_for_blend(tuned, dataset) if alpha == "auto" else None
    config = config or EvalConfig(split="valid")
    first, second = (_predictor(model, config.device).loaded for model in (base, tuned))
    points: list[BlendPoint] = []
    if data is not None:
        with stages(quiet=quiet) as advance:
            others = [Path(guard) for guard in guards]
            points = measure_blends(first, second, data, config, others, guard_scenes, progress=advance)
    chosen = best_of(points).alpha if points else float(alpha)
    write_blend(first, second, chosen, points, Path(out))
    return BlendResult(Path(out), chosen, tuple(points))


def _dataset_for_blend(tuned: Model, dataset: Path | str | None) -> Path:
    """The dataset that was given, or that a run was tuned on."""
    from samtune.training.checkpoint import RunFolder, read_settings

    if dataset is not None:
        return Path(dataset)
    if isinstance(tuned, str | Path) and (Path(tuned) / "run.json").is_file():
        return read_settings(RunFolder(Path(tuned)))[0]
    raise ConfigError.of(
        expected="a dataset to measure blends on, because the tuned model is no run that names one",
        found="none",
        do="give --dataset DATASET, or --alpha a number",
    )


def write_prompts(
    dataset: Path | str, out: Path | str, config: EvalConfig | None = None, *, quiet: bool = False
) -> PromptSet:
    """Write the prompts of an evaluation to a JSON file that any model, and other tools, can be asked with.

    Args:
        dataset: folder that `prepare` wrote.
        out: file to write; docs/evaluation.md has its schema.
        config: split and prompts.
        quiet: show no progress.

    Raises:
        DataError: the split has no objects, or a mask cannot be read.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.evaluation.fixed_prompts import make_prompts

    with progress("making prompts", quiet=quiet) as advance:
        made = make_prompts(Dataset.open(Path(dataset)), config or EvalConfig(), progress=advance)
    made.save(Path(out))
    return made


def predict(
    images: Path | str, model: Model, out: Path | str, config: PredictConfig, *, quiet: bool = False
) -> PredictReport:
    """Segment image files: COCO results, one PNG mask per object, one overlay per image.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        model: a name, a path, or a loaded model.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: the prompts.
        quiet: show no progress.

    Raises:
        ConfigError: no prompts, or `out` holds something else.
        DataError: no images, one that cannot be decoded, boxes about images that are not there or outside of them.
        ModelError: the model cannot be loaded.
        StorageError: the disk refused.
    """
    from samtune.inference.files import predict_files

    config.require_prompts()
    predictor = _predictor(model, config.device)
    with progress("predicting", quiet=quiet) as advance:
        return predict_files(Path(images), predictor, Path(out), config, progress=advance)


def export(
    model: Model,
    out: Path | str,
    format: Literal["official", "hf", "adapter", "onnx"] = "official",
    *,
    comparison: Path | None = None,
    layout: Literal["anylabeling", "transformersjs", "rectlabel"] | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    opset: int = 18,
) -> ExportReport:
    """Write a model in another tool's layout, load the result again and compare its masks.

    Args:
        model: a run or any other model by name or path, or a loaded model; an adapter needs a run.
        out: a folder that does not exist or is empty; for `official` also a `.pt` file that does not exist.
        format: `official` loads in the sam2 package, `hf` in transformers, `adapter` in peft, `onnx` in the tool of its
            layout.
        comparison: folder that `compare` wrote; its verdict goes into the model card.
        layout: of `onnx`: which tool the files are for, X-AnyLabeling, transformers.js or RectLabel and labelme.
        precision: of the arithmetic inside `onnx` files.
        opset: of `onnx` files, 18 or later.

    Raises:
        ConfigError: something stands where the export would.
        ModelError: the model cannot be loaded, or has no counterpart in this format.
        StorageError: the disk refused.
        SamtuneError: the export, loaded again, answers differently; nothing is kept.
    """
    from samtune.exports.export import export as write
    from samtune.inference.predictor import Predictor

    return write(
        model.loaded if isinstance(model, Predictor) else model,
        Path(out),
        format,
        comparison=comparison,
        layout=layout,
        precision=precision,
        opset=opset,
    )


def train_finder(run: Path | str, config: FinderConfig | None = None, *, quiet: bool = False) -> FinderReport:
    """Teach a finished run to find its dataset's objects by itself, and to name them; see docs/finder.md.

    Args:
        run: folder of a run; the finder is written into it, in place of an earlier one.
        config: how; nothing about the run is changed.
        quiet: show no progress.

    Raises:
        DataError: the run's dataset cannot be read, or its training split has no object.
        ModelError: the folder is no run.
        StorageError: the disk refused.
    """
    from samtune.finder.run import add_finder
    from samtune.training.run import open_embeddings

    config, folder = config or FinderConfig(), Path(run)
    predictor = _predictor(folder, config.device)
    with stages(quiet=quiet) as advance:
        return add_finder(folder, predictor, open_embeddings(folder, predictor.loaded), config, progress=advance)


def find(
    images: Path | str,
    model: Path | str,
    out: Path | str,
    config: FindConfig | None = None,
    *,
    device: str = "auto",
    chunk: int = 32,
    quiet: bool = False,
) -> FindReport:
    """Find and name everything in images without prompts: COCO results, counts, one PNG mask per object, overlays.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        model: a run with a finder.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: which finds to keep.
        device: where to compute.
        chunk: prompts per decoder call.
        quiet: show no progress.

    Raises:
        ConfigError: no threshold gives the wanted precision or recall, or `out` holds something else.
        DataError: no images, or one that cannot be decoded.
        ModelError: the run has no finder, or one of another encoder.
        StorageError: the disk refused.
    """
    from samtune.finder.files import find_in_files
    from samtune.finder.storage import load_finder

    finder = load_finder(Path(model))
    predictor = _predictor(model, device)
    finder.head.to(predictor.device)
    with progress("finding", quiet=quiet) as advance:
        return find_in_files(
            Path(images), predictor, finder, Path(out), config or FindConfig(), chunk=chunk, progress=advance
        )


def evaluate_finder(
    dataset: Path | str,
    model: Path | str,
    config: FindEvalConfig | None = None,
    *,
    base: Model | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
) -> FindEvaluation:
    """Measure a run's finder on a split: mask AP beside a grid of clicks, the base model and the true boxes.

    Args:
        dataset: folder that `prepare` wrote.
        model: a run with a finder.
        config: split, threshold, device.
        base: the model before tuning; left out, the one the run was tuned from, where that can be found.
        out: folder to write the figures, the objects as COCO and the finds as COCO results to.
        quiet: show no progress.

    Raises:
        ConfigError: no threshold gives the wanted precision or recall, or `out` holds something else.
        DataError: the split has no objects, or none of the finder's classes.
        ModelError: the run has no finder, or one of another encoder.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.finder.evaluation import FIGURES, evaluate_finder
    from samtune.finder.storage import load_finder
    from samtune.utils.output_folders import check_output

    config = config or FindEvalConfig()
    finder = load_finder(Path(model))
    if out is not None:
        check_output(Path(out), mark=FIGURES, earlier="an earlier evaluation of a finder")
    tuned = _predictor(model, config.device)
    finder.head.to(tuned.device)
    before = _base_of(tuned, config.device) if base is None else _predictor(base, config.device)
    with progress("finding", quiet=quiet) as advance:
        found = evaluate_finder(Dataset.open(Path(dataset)), tuned, before, finder, config, progress=advance)
    if out is not None:
        found.save(Path(out))
    return found


def embed(dataset: Path | str, config: EmbedConfig | None = None, *, quiet: bool = False) -> EmbedReport:
    """Compute the image embeddings of a dataset ahead of training; what is in the cache is not computed again."""
    from samtune.embeddings.dataset import embed_dataset

    with progress("embedding", quiet=quiet) as advance:
        return embed_dataset(Path(dataset), config or EmbedConfig(), progress=advance)


def cache_info(folder: Path | str) -> CacheInfo:
    """What an embedding cache holds; `folder` is the cache, or the dataset whose cache it is."""
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
    """Measure how fast this machine tunes a model, and estimate how long a run will take."""
    from samtune.benchmark.measure import bench as measure

    with stages(quiet=quiet) as advance:
        return measure(config or BenchConfig(), advance)


@dataclass(frozen=True, slots=True)
class ModelTable(Result):
    """The models known by name."""

    models: tuple[KnownModel, ...]

    def lines(self) -> list[str]:
        """What to tell the user."""
        return [*text_table(*self._table()), "GFLOPs: of the encoder per image, of the decoder per box"]

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        head = ("model", "parameters", "input", "encoder GFLOPs", "decoder GFLOPs", "licence")
        rows = [
            (
                known.name,
                f"{known.cost.parameters / 1e6:.1f} M",
                f"{known.image_size} px",
                f"{known.cost.encoder_gflops:.1f}",
                f"{known.cost.decoder_gflops:.2f}",
                known.licence,
            )
            for known in self.models
        ]
        return head, rows


def models() -> ModelTable:
    """The models known by name, the one in the package first."""
    from samtune.model.catalogue import catalogue

    return ModelTable(tuple(catalogue()))


def pretrain(config: PretrainConfig, *, quiet: bool = False) -> Path:
    """Train the small model from scratch on procedural scenes, or continue where it stopped; see docs/nano.md.

    Returns:
        Folder of the weights.
    """
    from samtune.nano.pretraining import pretrain as run

    console = stderr_console(quiet=quiet)

    def report(line: Mapping[str, float]) -> None:
        console.print("  ".join(f"{name} {value:g}" for name, value in line.items()), highlight=False)

    return run(config, report)


def download_roboflow(
    project: str, out: Path | str, *, export_format: str = "coco-segmentation", quiet: bool = False
) -> Path:
    """Download an export from Roboflow.

    Args:
        project: WORKSPACE/PROJECT/VERSION, for which the key is read from ROBOFLOW_API_KEY; or the https address of
            an export's zip.
        out: folder to write.
        export_format: Roboflow's name of the format.
        quiet: show no progress.

    Returns:
        The folder with the export.

    Raises:
        ConfigError: no key, or no such kind of project name.
        RemoteError: the service did not answer as it should.
        DataError: the archive is broken or hostile.
    """
    from samtune.data import roboflow

    with progress("downloading", quiet=quiet) as advance:
        if project.startswith(("https://", "http://")):
            return roboflow.from_url(project, Path(out), progress=advance)
        return roboflow.download(project, Path(out), export_format=export_format, progress=advance)


def load_model(model: Path | str, *, device: str = "auto") -> LoadedModel:
    """Load a model once, to give it to several functions or to a `Predictor`.

    Args:
        model: `nano`, a hub name, a checkpoint file, a Hugging Face folder or a run.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ModelError: no such model, or a file that cannot be read or is another model's.
    """
    from samtune.model.io.load import load_model as load
    from samtune.runtime.device import choose_device, configure_process

    chosen = choose_device(device)
    configure_process(chosen)
    return load(model, device=chosen)


def _predictor(model: Model, device: str) -> Predictor:
    """A model ready for prompts; one given by name is loaded to `device`."""
    from samtune.inference.predictor import Predictor
    from samtune.model.io.loaded import LoadedModel

    if isinstance(model, Predictor):
        return model
    return Predictor(model if isinstance(model, LoadedModel) else load_model(model, device=device))


def _base_of(tuned: Predictor, device: str) -> Predictor | None:
    """The model that another was tuned from, by its name; None where it is not to be had any more."""
    from samtune.errors import ModelError

    try:
        return _predictor(tuned.loaded.base, device)
    except ModelError:
        return None


def _name(model: Model, predictor: Predictor) -> str:
    return str(model) if isinstance(model, str | Path) else predictor.loaded.name
