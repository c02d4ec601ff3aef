"""The search: trials one after the other, each a run that is stopped early where others were better at its length.

Optuna suggests (a tree of Parzen estimators after the first random ones) and prunes (successive halving: rungs at a
ninth, a third and all of a run's steps; source: Li et al. 2018, "Massively parallel hyperparameter tuning"). The trials
are kept in a journal, so that the same command goes on with an interrupted search.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from samtune.config import PromptPolicy, SweepConfig, TrainConfig
from samtune.errors import SamtuneError
from samtune.search.space import choose, first_choice, with_choice
from samtune.training.loop import train
from samtune.training.run import new, removed_if_not_started
from samtune.training.tracking.events import Event, Listener, Validated
from samtune.training.tracking.files import file_listeners
from samtune.training.validation import Validation

LENGTH = 9
"""Validations of a whole run; with a reduction of 3, rungs stand after 1, 3 and 9 of them."""
JOURNAL = "trials.log"
"""Optuna's record of the trials, in the search's folder."""
_RANDOM_FIRST = 6
"""Trials at random before the estimators take over."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial.

    Attributes:
        number: from 0, the settings as given.
        state: `complete`, `pruned`, `failed` or `running`.
        iou: mean IoU of its best weights on the validation split, those of a trial that was not trained to its end as
            far as it came; None where nothing was measured.
        steps: steps it was measured after, with the IoU there.
        seconds: how long it took.
        choice: what it changed.
    """

    number: int
    state: str
    iou: float | None
    steps: tuple[tuple[int, float], ...]
    seconds: float
    choice: dict[str, Any]


class Search:
    """A search in its folder.

    Args:
        dataset: a prepared dataset with a validation split.
        base: settings that the trials start from.
        config: budget and dimensions.
        folder: where the trials are kept.
    """

    def __init__(self, dataset: Path, base: TrainConfig, config: SweepConfig, folder: Path) -> None:
        every = -(-base.steps // LENGTH)
        self._dataset, self._config, self._folder = dataset, config, folder
        self._base = base.model_copy(update={"eval_every": every})
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(n_startup_trials=_RANDOM_FIRST, seed=base.seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )

    def folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self._folder / f"trial-{number}"

    def tried(self) -> list[Tried]:
        """All trials so far."""
        return [_tried(trial, self._base) for trial in self._study.get_trials(deepcopy=False)]

    def run(self, device: str, report: Callable[[Tried], None]) -> int | None:
        """Try until the budget is spent. At least the settings as given are tried to their end.

        Args:
            device: the type of device that trials run on.
            report: told every trial that has ended.

        Returns:
            The number of the signal that asked for an early end, or None.

        Raises:
            SamtuneError: the settings as given cannot be trained.
        """
        self._take_up()
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(first_choice(self._base, self._config.search))
        while self._goes_on():
            trial = self._study.ask()
            choice = choose(trial, self._base, self._config.search, on_cpu=device == "cpu")
            trial.set_user_attr("choice", choice)
            signal = self._try(trial, with_choice(self._base, choice))
            if signal is not None:
                return signal
            report(self.tried()[trial.number])
        return None

    def _take_up(self) -> None:
        """Trials that a killed search left running are tried again from their start."""
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
            shutil.rmtree(self.folder(trial.number), ignore_errors=True)
            if trial.params:
                self._study.enqueue_trial(dict(trial.params))

    def _spent(self) -> float:
        return sum(one.seconds for one in self.tried())

    def _goes_on(self) -> bool:
        ended = [one for one in self.tried() if one.state in ("complete", "pruned")]
        enough = self._config.trials and len(ended) >= self._config.trials
        return not ended or not (enough or self._spent() >= self._config.seconds)

    def _try(self, trial: optuna.Trial, config: TrainConfig) -> int | None:
        """Run a trial; returns the signal that interrupted it."""
        folder, started = self.folder(trial.number), time.monotonic()
        left = self._config.seconds - self._spent() if trial.number else float("inf")
        measured: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Validated) and event.step > 0:
                measured.append(fmean(event.metrics[f"valid/{kind}"] for kind in self._config.kinds))
                trial.report(measured[-1], len(measured))
                whole = event.step == config.steps
                if not whole and trial.number and (trial.should_prune() or time.monotonic() - started > left):
                    raise optuna.TrialPruned

        try:
            config = config.model_copy(update={"out": folder})
            signal, reached = _train(self._dataset, config, self._config.kinds, listen)
        except optuna.TrialPruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that nobody goes on with
            return None
        except SamtuneError:
            self._study.tell(trial, state=TrialState.FAIL)
            if trial.number == 0:
                raise
            return None
        if signal is not None:
            self._study.tell(trial, state=TrialState.FAIL)
            self._study.enqueue_trial(dict(trial.params))
            shutil.rmtree(folder, ignore_errors=True)
            return signal
        self._study.tell(trial, reached)
        return None


def winner(tried: Sequence[Tried]) -> Tried | None:
    """The best of the trials that were trained to their end."""
    ended = [one for one in tried if one.state == "complete"]
    return max(ended, key=lambda one: one.iou or 0.0, default=None)


def _train(
    dataset: Path, config: TrainConfig, kinds: Sequence[str], listener: Listener
) -> tuple[int | None, float | None]:
    """A run whose best weights are chosen by the same prompts in all trials.

    Returns:
        The signal that interrupted it, and the mean IoU of its best weights on the validation split.
    """
    run = new(dataset, config)
    both = PromptPolicy.model_validate(dict.fromkeys(kinds, 1.0))
    run = replace(run, validation=Validation(run.dataset, both, config.eval_objects))
    with removed_if_not_started(run), file_listeners(run.folder, config) as own:
        signal = train(run, [*own, listener]).signal
    return signal, run.state.progress.best_iou


def _tried(trial: optuna.trial.FrozenTrial, base: TrainConfig) -> Tried:
    every = base.eval_every
    steps = tuple((min(count * every, base.steps), value) for count, value in trial.intermediate_values.items())
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")
    reached = max((value for _, value in steps), default=None)
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    choice: Mapping[str, Any] = trial.user_attrs.get("choice", trial.params)
    iou = trial.value if state == "complete" else reached
    return Tried(trial.number, state, iou, steps, seconds, dict(choice))
