"""Training, and the embeddings it keeps: train, resume, pretrain, embed, the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

from samtune.api.finding import train_finder
from samtune.config import EmbedConfig, FinderConfig, PretrainConfig, SweepConfig, TrainConfig
from samtune.errors import ConfigError
from samtune.utils.output_folders import alone_in
from samtune.utils.progress import progress, stderr_console
from samtune.utils.results import Result
from samtune.utils.text import counted

if TYPE_CHECKING:
    from samtune.embeddings.dataset import EmbedReport
    from samtune.embeddings.store import CacheInfo
    from samtune.finder.run import FinderReport
    from samtune.search.report import SweepReport
    from samtune.search.trials import Tried
    from samtune.training.run import Run
    from samtune.training.runs import RunTable
    from samtune.training.tracking.events import Listener


FINDER_SHARE = 0.15
"""Share of the training's time up to which a finder is made without being asked for."""


_AUTO = "auto"
"""What learns where held-out objects decide it."""
_NO_FINDER_BELOW_SECONDS = 60.0
"""Of a run as short as this nobody expects more than the run."""
_NOTHING_GAINED = "the decoder alone gained nothing; try the image encoder too: --train auto"
"""What a run of the decoder advises that has ended with the base model's weights."""
_SMALL_ENCODER = "this model's image encoder is small: --train all gains more, in about three times the time"
"""What another run of the decoder advises, of a model whose features are often not good enough."""


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
        stopped_early: why the run ended before its last step by itself, in words; empty where it did not.
        advice: what should learn, and the held-out figures that say so.
        best_share: how far the best weights lie from the base model's towards those of their step; 1 is all the way.
    """

    folder: Path
    step: int
    best_step: int
    signal: int | None
    finder: FinderReport | None = None
    note: str = ""
    stopped_early: str = ""
    advice: tuple[str, ...] = ()
    best_share: float = 1.0

    def lines(self) -> list[str]:
        """What to tell the user."""
        if self.signal:
            return [f"interrupted after step {self.step}; continue with: samtune train --resume {self.folder}"]
        best = f"best at step {self.best_step}" if self.best_step else "no step was better than the base model"
        if self.best_share < 1:
            best += f", {self.best_share:.0%} of the way from the base model, so that no kind of prompt is lost"
        made = self.finder.lines() if self.finder else [f"finder     {self.note}"] if self.note else []
        advised = [f"advice     {line}" for line in self.advice]
        return [
            f"done: {counted(self.step, 'step')}, {best}{self.stopped_early and ', '}{self.stopped_early}",
            f"run        {self.folder}",
            *made,
            *advised,
        ]


def train(
    dataset: Path | str,
    config: TrainConfig | None = None,
    *,
    listeners: Sequence[Listener] = (),
    finder: bool | FinderConfig | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Tune a model on a prepared dataset; the same numbers each time for the same settings and machine.

    Under `torchrun` or `accelerate launch` every process calls this; see docs/cluster.md.

    Args:
        dataset: folder that `prepare` wrote.
        config: model, length, what learns.
        listeners: called with every event of the run (`RunStarted`, `StepDone`, `Validated`, `RunFinished`), in the
            main process only, after the run's own files are written.
        finder: whether, or how, to make a finder after training, see docs/finder.md; None makes one where that takes
            less than `FINDER_SHARE` of the training's time.
        quiet: show no progress.

    Raises:
        DataError: the dataset cannot be read or has nothing to train on.
        ModelError: the model cannot be loaded.
        ConfigError: settings that do not fit the model, or a run folder that is taken.
        StorageError: the disk refused.
        SamtuneError: the loss is not finite for several steps in a row, or another process has ended.
    """
    config = config or TrainConfig()
    if config.trainable.train == _AUTO:
        return _train_automatically(Path(dataset), config, listeners, finder, quiet)
    return _train_new(Path(dataset), config, listeners, finder, quiet)


def resume(
    folder: Path | str,
    *,
    listeners: Sequence[Listener] = (),
    finder: bool | FinderConfig | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Continue an interrupted run at its last checkpoint, with the same numbers it would have had.

    Args, errors: those of `train`; `folder` is the run folder.
    """
    from samtune.training.run import resumed

    with _alone_in_run(Path(folder)):
        return _train(resumed(Path(folder)), listeners, finder, quiet)


def _train_new(
    dataset: Path,
    config: TrainConfig,
    listeners: Sequence[Listener],
    finder: bool | FinderConfig | None,
    quiet: bool,
) -> TrainResult:
    from samtune.training.run import new, removed_if_not_started

    run = new(dataset, config)
    with removed_if_not_started(run), _alone_in_run(run.folder.path):
        return _train(run, listeners, finder, quiet)


@contextmanager
def _alone_in_run(folder: Path) -> Iterator[None]:
    """Keeps other commands out of a run folder while the processes that share this one work in it."""
    from samtune.runtime.distributed import join_processes

    with ExitStack() as stack:
        join_processes().on_main(lambda: stack.enter_context(alone_in(folder, "a run")))
        yield


def _train_automatically(
    dataset: Path,
    config: TrainConfig,
    listeners: Sequence[Listener],
    finder: bool | FinderConfig | None,
    quiet: bool,
) -> TrainResult:
    """The decoder first; then, where it gains nothing, when asked to, or in a small model, what else may learn.

    The better is kept. Runs that were not kept stay beside it, with what learned in their names. A finder is
    made only when asked for.
    """
    from samtune.runtime.distributed import join_processes
    from samtune.training import choice
    from samtune.training.choice import FIRST, Trial

    choice.require_validation(dataset)
    if config.out is not None:
        choice.require_room(config.out)

    def settings(train: str, out: Path | None) -> TrainConfig:
        what = config.trainable.model_copy(update={"train": train, "try_encoder": False})
        return config.model_copy(update={"trainable": what, "out": out})

    result = _train_new(dataset, settings(FIRST, config.out), listeners, False, quiet)
    if result.signal is not None:
        return result
    folder, results, others = result.folder, {FIRST: result}, list[Trial]()
    first, candidates = choice.after_decoder(dataset, config, folder)
    for train in candidates:
        beside = choice.beside(folder, train)
        results[train] = _train_new(dataset, settings(train, beside), listeners, False, quiet)
        if results[train].signal is not None:
            return results[train]
        others.append(choice.compared(dataset, config, folder, beside, train))
    kept, processes = choice.winner(others), join_processes()
    if kept is not None:
        processes.on_main(lambda: choice.swap(folder, kept.folder))
    lines = tuple(choice.advice(first, others))
    result = replace(results[kept.train if kept else FIRST], folder=folder, advice=lines)
    if not finder or not processes.is_main:
        return result
    made = train_finder(folder, finder if isinstance(finder, FinderConfig) else None, quiet=quiet)
    return replace(result, finder=made)


def _train(run: Run, listeners: Sequence[Listener], finder: bool | FinderConfig | None, quiet: bool) -> TrainResult:
    from samtune.training.loop import train as train_run
    from samtune.training.tracking.console import progress_listener
    from samtune.training.tracking.files import file_listeners

    started = monotonic()
    with ExitStack() as stack:
        if run.processes.is_main:
            own = stack.enter_context(file_listeners(run.folder, run.config, run.state.progress.step))
            console = stack.enter_context(progress_listener(stderr_console(quiet=quiet)))
            listeners = [*own, console, *listeners]
        finished = train_run(run, listeners)
    report, note = None, ""
    if finished.signal is None and finder is not False and run.processes.is_main:
        report, note = _finder_after(run, monotonic() - started, finder or None, quiet)
    validations = counted(run.config.patience, "validation")
    waited = f"{validations} without a better one" if finished.is_out_of_patience else ""
    return TrainResult(
        folder=run.folder.path,
        step=finished.step,
        best_step=finished.best_step,
        signal=finished.signal,
        finder=report,
        note=note,
        stopped_early=waited,
        advice=() if finished.signal is not None else _advice(run, gained=finished.best_step > 0),
        best_share=finished.best_share,
    )


def _advice(run: Run, *, gained: bool) -> tuple[str, ...]:
    """What else may learn, after a run of the decoder alone."""
    from samtune.model.trainable import has_small_encoder

    if run.config.trainable.train != "decoder":
        return ()
    if not gained:
        return (_NOTHING_GAINED,)
    return (_SMALL_ENCODER,) if has_small_encoder(run.model) else ()


def _finder_after(
    run: Run, seconds: float, wanted: Literal[True] | FinderConfig | None, quiet: bool
) -> tuple[FinderReport | None, str]:
    """A finder for a run that has just ended, or why there is none."""
    from samtune.finder.run import expected_seconds

    path = run.folder.path
    config = (
        wanted if isinstance(wanted, FinderConfig) else FinderConfig(seed=run.config.seed, device=run.config.device)
    )
    if wanted is None:
        if seconds < _NO_FINDER_BELOW_SECONDS:
            return None, ""
        if run.embeddings.cache is None:
            return None, f"left out, its images must be encoded anew for it; make one with: samtune find-train {path}"
        expected = expected_seconds(run.embeddings, config)
        if expected > FINDER_SHARE * seconds:
            return None, f"left out, it would take about {expected:.0f} s; make one with: samtune find-train {path}"
    return train_finder(path, config, quiet=quiet), ""


def sweep(
    dataset: Path | str, config: TrainConfig | None = None, search: SweepConfig | None = None, *, quiet: bool = False
) -> SweepReport:
    """Search for settings within a budget of time; each trial is a run, and the best of them is the winner.

    Args:
        dataset: folder that `prepare` wrote, with a validation split.
        config: settings that the search starts from.
        search: budget, what is searched, and the folder; a search that was interrupted there goes on.
        quiet: show no progress.

    Raises:
        ConfigError: Optuna is missing, there is no validation split, or the folder holds another search.
        SamtuneError: as for `train`.
    """
    if find_spec("optuna") is None:
        raise ConfigError.of(
            expected="the package optuna, for a search",
            found="no such package in this environment",
            do="pip install 'samtune[sweep]'",
        )
    from samtune.search.report import sweep as run

    console = stderr_console(quiet=quiet)

    def report(tried: Tried) -> None:
        iou = "" if tried.iou is None else f", validation IoU {tried.iou:.4f}"
        console.print(f"trial {tried.number}: {tried.state} after {tried.seconds:.0f} s{iou}", highlight=False)

    return run(Path(dataset), config or TrainConfig(), search or SweepConfig(), report)


def runs(folder: Path | str = "runs") -> RunTable:
    """The runs in a folder side by side: what they reached on validation, and the settings in which they differ."""
    from samtune.training.runs import list_runs

    return list_runs(Path(folder))


def pretrain(config: PretrainConfig, *, quiet: bool = False) -> Path:
    """Train the small model on procedural scenes and real images, or continue where it stopped; see docs/nano.md.

    Returns:
        Folder of the weights.
    """
    from samtune.nano.pretraining import pretrain as run

    console = stderr_console(quiet=quiet)

    def report(line: Mapping[str, float]) -> None:
        console.print("  ".join(f"{name} {value:g}" for name, value in line.items()), highlight=False)

    return run(config, report)


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
