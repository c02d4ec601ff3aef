"""The training loop. It reads from top to bottom: validate the base model, step, validate, keep the best, save, stop.

Weights that are worse than the base model for a kind of prompt they were trained on are never the best. Where the last
ones are, weights between the base model's and theirs are measured at the end.

Everything it has to say goes out as events; see `tracking/` for the listeners.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from samtune.errors import SamtuneError
from samtune.training.batches import loader
from samtune.training.checkpoint import save_last
from samtune.training.cuda_graphs import learner, part_learner
from samtune.training.memory import WithinMemory, fit_to_memory
from samtune.training.optimizer import lr_factor, set_learning_rate
from samtune.training.readings import STEPS_BETWEEN_READINGS, Readings
from samtune.training.run import Run
from samtune.training.samples import draw_validation
from samtune.training.signals import stop_on_signal
from samtune.training.tracking.events import Event, Listener, Noted, RunFinished, RunStarted, Validated
from samtune.training.update import Update

SHARES = (0.8, 0.6, 0.4, 0.2)
"""How far from the base model towards the last weights, where these lose a kind of prompt."""


def train(run: Run, listeners: Sequence[Listener] = ()) -> RunFinished:
    """Train until the last step, or until SIGINT or SIGTERM asks to stop; either way `checkpoints/last` is whole.

    Args:
        run: a new run, or one being resumed (see `run.py`).
        listeners: called with every event, in the main process.

    Returns:
        How it ended.

    Raises:
        SamtuneError: the loss is not finite for several steps in a row, or another process has ended.
    """
    config, state = run.config, run.state
    started = time.monotonic()

    def emit(event: Event) -> None:
        if run.processes.is_main:
            for listener in listeners:
                listener(event)

    notes = (*run.notes, fit_to_memory(run))
    emit(RunStarted(run.folder.path, config.steps, state.progress.step, notes))
    with stop_on_signal() as stop:
        if state.progress.step == 0:
            _validate(run, emit)
            _save(run)
        learn = WithinMemory(run, learner(run), part_learner(run), lambda text: emit(Noted(state.progress.step, text)))
        update, readings = Update(run), Readings(run, emit)
        pin = run.device.type == "cuda"
        end = state.progress.step if run.is_out_of_patience else config.steps
        for batch in loader(run.batches, state.progress.step, end, config.workers, pin=pin):
            lr = set_learning_rate(state.optimizer, lr_factor(batch.step, config.steps, config.optimizer))
            figures = update(batch.step, learn(batch))
            state.progress = replace(state.progress, step=batch.step + 1)
            readings.add(state.progress.step, lr, figures)

            validates, saves = run.validates_now, run.saves_now
            reads = validates or saves or state.progress.step % STEPS_BETWEEN_READINGS == 0
            stopping = stop.reached(run.processes, reads=reads)
            if reads or stopping:
                readings.read()
            if validates:
                _validate(run, emit)
            stopping = stopping or (validates and run.is_out_of_patience)
            if saves or stopping:
                _save(run)
            if stopping:
                break
        if state.progress.lost and (state.progress.step == config.steps or run.is_out_of_patience):
            _go_back(run, emit)
            _save(run)
    progress = state.progress
    seconds = time.monotonic() - started
    finished = RunFinished(
        progress.step, progress.best_step, seconds, stop.signal, run.is_out_of_patience, progress.best_share
    )
    emit(finished)
    return finished


def _validate(run: Run, emit: Callable[[Event], None]) -> None:
    """Measure on the fixed prompts; the best weights so far go to `checkpoints/best`."""
    state = run.state
    _require_finite_weights(run)
    with state.averaged_weights():
        metrics = run.measure()
        if state.progress.step == 0:
            state.progress = replace(state.progress, base=run.validation.of_kinds(metrics))
        state.progress = replace(state.progress, lost=run.validation.lost(metrics, state.progress.base))
        is_best = _keep_if_best(run, metrics, state.progress.lost)
        images = draw_validation(run) if run.processes.is_main else {}
    emit(Validated(state.progress.step, metrics, is_best, run.validation.objects, images, tuple(state.progress.lost)))


def _keep_if_best(run: Run, metrics: Mapping[str, float], lost: Sequence[str], share: float = 1.0) -> bool:
    """Write the weights as they are now to `checkpoints/best`, where they lose nothing and none was better before."""
    progress, iou = run.state.progress, run.validation.criterion(metrics)
    if iou is not None and progress.best_iou is not None and (lost or iou <= progress.best_iou):
        return False
    figures = run.validation.of_kinds(metrics)
    run.state.progress = replace(progress, best_step=progress.step, best_iou=iou, best_share=share, best=figures)
    run.processes.on_main(run.save_best)
    return True


def _go_back(run: Run, emit: Callable[[Event], None]) -> None:
    """Measure weights between the base model's and the last ones, which lose a kind of prompt; keep the best.

    What is damaged comes back before what was gained is gone (Wortsman et al. 2022, see `evaluation/blend.py`).
    """
    state = run.state
    lost = " and ".join(state.progress.lost)
    emit(Noted(state.progress.step, f"the last weights lose against the base model with {lost} prompts: going back"))
    with state.averaged_weights(), state.towards_start() as go:
        for share in SHARES:
            go(share)
            metrics = run.measure()
            found = run.validation.lost(metrics, state.progress.base)
            is_best = _keep_if_best(run, metrics, found, share)
            emit(Noted(state.progress.step, _share_line(share, run.validation.of_kinds(metrics), found, is_best)))
    state.progress = replace(state.progress, lost=())


def _share_line(share: float, figures: Mapping[str, float], lost: Sequence[str], is_best: bool) -> str:
    values = "  ".join(f"valid/{kind} IoU {value:.3f}" for kind, value in figures.items())
    mark = "  best so far" if is_best else f"  loses {' and '.join(lost)}" if lost else ""
    return f"{share:.0%} of the way from the base model: {values}{mark}"


def _save(run: Run) -> None:
    _require_finite_weights(run)
    run.processes.on_main(lambda: save_last(run.folder, run.state))


def _require_finite_weights(run: Run) -> None:
    """Weights that are no numbers are neither measured nor saved: what was saved before is still good."""
    if not run.state.is_finite():
        error = SamtuneError.of(
            expected="weights that are finite numbers",
            found=f"others after step {run.state.progress.step}",
            do=f"train again with a smaller --optimizer.lr; what was good until then is in {run.folder.last}",
        )
        raise run.processes.failure(error)
