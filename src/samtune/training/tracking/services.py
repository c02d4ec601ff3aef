"""Weights & Biases, MLflow and trackio: the same events as everywhere, the keys from the environment and nowhere else.

Each is an extra (`pip install 'samtune[wandb]'`) and is asked for with `--track`. A run keeps its name there in
`tracking.json`, so that it is continued there when it is resumed. A service that fails while a run goes on is left out
from then on, with a warning: it is not what the run is for.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from samtune.config.training import Tracker
from samtune.errors import ConfigError
from samtune.training.checkpoint import RunFolder
from samtune.training.tracking.events import Event, Listener, StepDone, Validated
from samtune.training.tracking.scalars import scalars
from samtune.utils.files import write_json

PROJECT = "samtune"
"""What runs are kept under, where the environment names no project or experiment."""
Log: TypeAlias = Callable[[Mapping[str, float], int], None]
_log = logging.getLogger(__name__)


def require_trackers(names: tuple[Tracker, ...]) -> None:
    """Refuse trackers whose package or whose key is missing.

    Raises:
        ConfigError: so.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError.of(
                expected=f"the package {name}, for --track {name}",
                found="no such package in this environment",
                do=f"pip install 'samtune[{name}]', or leave --track {name} out",
            )
        variable, meaning = _missing_variable(name)
        if variable:
            raise ConfigError.of(
                expected=f"the environment variable {variable}, {meaning}",
                found="it is not set",
                where=f"--track {name}",
                do=f"export {variable}=..., or leave --track {name} out",
            )


def _missing_variable(name: Tracker) -> tuple[str, str]:
    """The variable that a service needs and the environment lacks, and what it is; empty where nothing is missing."""
    has = os.environ.get
    if name == "wandb" and not has("WANDB_API_KEY") and has("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
        return "WANDB_API_KEY", "your key at Weights & Biases (or WANDB_MODE=offline)"
    if name == "mlflow" and not has("MLFLOW_TRACKING_URI"):
        return "MLFLOW_TRACKING_URI", "where MLflow keeps its runs, a server or a folder (file:///...)"
    if name == "trackio" and has("TRACKIO_SPACE_ID") and not has("HF_TOKEN"):
        return "HF_TOKEN", "your key at Hugging Face, for the space that TRACKIO_SPACE_ID names"
    return "", ""


@contextmanager
def service_listener(name: Tracker, folder: Path, settings: Mapping[str, Any]) -> Iterator[Listener]:
    """A listener that sends a run's numbers to a service.

    Args:
        name: of the service.
        folder: the run's, whose name the run has there.
        settings: the run's, with dotted names.

    Raises:
        ConfigError: the service does not take the run.
    """
    identity = _identity(name, folder)
    try:
        session = _SERVICES[name](folder, identity, settings)
        log = session.__enter__()
    except Exception as error:
        raise ConfigError.of(
            expected=f"{name} to take this run",
            found=" ".join(str(error).split())[:300] or type(error).__name__,
            where=f"--track {name}",
            do="check the key and the network, or leave it out",
        ) from error
    is_well = True

    def listen(event: Event) -> None:
        nonlocal is_well
        if not is_well or not isinstance(event, StepDone | Validated):
            return
        try:
            log(scalars(event), event.step)
        except Exception as error:
            is_well = False
            _log.warning("%s failed and is left out from here on: %s", name, error)

    try:
        yield listen
    finally:
        try:
            session.__exit__(None, None, None)
        except Exception as error:
            _log.warning("%s could not be closed: %s", name, error)


def _identity(name: str, folder: Path) -> str:
    """What the run is called at a service, chosen once; MLflow chooses itself and writes it down."""
    known = _identities(folder)
    if name not in known:
        _remember(folder, name, f"{folder.name}-{uuid.uuid4().hex[:8]}")
    return _identities(folder)[name]


def _identities(folder: Path) -> dict[str, str]:
    path = RunFolder(folder).tracking
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _remember(folder: Path, name: str, identity: str) -> None:
    write_json(RunFolder(folder).tracking, _identities(folder) | {name: identity})


@contextmanager
def _wandb(folder: Path, identity: str, settings: Mapping[str, Any]) -> Iterator[Log]:
    import wandb  # pyright: ignore[reportMissingImports]  (an extra)

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=identity,
        name=folder.name,
        dir=str(folder),
        config=dict(settings),
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        yield lambda values, step: run.log(dict(values), step=step)
    finally:
        run.finish()


@contextmanager
def _mlflow(folder: Path, identity: str, settings: Mapping[str, Any]) -> Iterator[Log]:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]  (an extra)
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

    client, title = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(title)
    experiment = found.experiment_id if found else client.create_experiment(title)
    if identity.startswith(f"{folder.name}-"):  # chosen here, not yet by MLflow
        identity = client.create_run(experiment, run_name=folder.name).info.run_id
        _remember(folder, "mlflow", identity)
        client.log_batch(identity, params=[Param(name, str(value)) for name, value in settings.items()])
    else:
        client.update_run(identity, status="RUNNING")

    def log(values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        client.log_batch(identity, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    try:
        yield log
    finally:
        client.set_terminated(identity)


@contextmanager
def _trackio(folder: Path, identity: str, settings: Mapping[str, Any]) -> Iterator[Log]:
    import trackio  # pyright: ignore[reportMissingImports]  (an extra)

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=identity,
        config=dict(settings),
        resume="allow",
        space_id=os.environ.get("TRACKIO_SPACE_ID"),
        embed=False,
    )
    try:
        yield lambda values, step: run.log(dict(values), step=step)
    finally:
        run.finish()


_SERVICES: dict[str, Callable[[Path, str, Mapping[str, Any]], AbstractContextManager[Log]]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
