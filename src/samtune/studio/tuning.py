"""The loop: what was accepted becomes a dataset, a model is tuned on it, and the page sees whether that helped.

`samtune train` and `samtune compare` run in processes of their own; the switch to the new model is the person's.

    STUDIO/tune/N/dataset, run, comparison     as the commands write them
    STUDIO/tune/N/log.txt                      what they said
    STUDIO/tune/N/verdict.json                 written last: the model is whole
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samtune.errors import SamtuneError, StorageError, UsageError
from samtune.studio.exporting import accepted, next_free, write_dataset
from samtune.studio.splitting import split_images
from samtune.studio.studio import Studio
from samtune.training.tracking.chart import read_metrics
from samtune.types import Split
from samtune.utils.files import storage_errors, write_json

TUNE, VERDICT, LOG = "tune", "verdict.json", "log.txt"
STEPS_PER_OBJECT, FEWEST_STEPS, MOST_STEPS = 10, 150, 1500
"""How long to tune when nobody says: short enough to wait for, and no longer than few objects bear."""
LEARNING_RATE = 2e-4
PROMPTS = ("--prompts.box", "1.0", "--prompts.point", "0.5", "--prompts.correction-clicks", "2")
"""What a person does here: boxes, clicks, and corrections of both."""
NICENESS = 10
"""Priority of the processes that tune: a click goes before them."""
_COMMAND_LINE = "samtune.cli.watched"
"""The command line that ends when this server does, killed or not: nobody would be told how the tuning went."""
EVAL_OBJECTS = 60
MOST_POINTS = 400
"""Points of a curve that are sent."""


@dataclass
class Tuning:
    """One tuning at a time. Safe to use from several threads.

    Attributes:
        studio: whose objects.
    """

    studio: Studio
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _state: dict[str, Any] = field(default_factory=lambda: _idle())
    _folder: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _thread: threading.Thread | None = None
    _is_cancelled: bool = False

    def __post_init__(self) -> None:
        """Take the models that earlier sessions tuned to the end."""
        for folder in sorted(self._root.glob("*/"), key=lambda path: int(path.name) if path.name.isdigit() else -1):
            if (folder / VERDICT).is_file():
                self._add_model(folder)

    @property
    def _root(self) -> Path:
        return self.studio.store.folder / TUNE

    def status(self) -> dict[str, Any]:
        """How far it is, as the page takes it."""
        with self._lock:
            state, folder = dict(self._state), self._folder
        if folder is not None and state["state"] != "idle":
            state |= _progress(folder / "run" / "metrics.jsonl", state["steps"], is_running=state["state"] == "running")
        return state

    def start(self, steps: int | None) -> dict[str, Any]:
        """Begin to tune the model that the studio was started with.

        Raises:
            UsageError: it is being done already.
            DataError: too few images have objects.
            StorageError: the disk refused.
        """
        with self._lock:
            if self._state["state"] == "running":
                raise UsageError.of(
                    expected="one tuning at a time", found="one that runs", do="wait for it, or cancel it"
                )
            images = accepted(self.studio)
            splits = split_images(self.studio, images)
            folder = next_free(self._root)
            with storage_errors(folder):
                folder.mkdir(parents=True)
            dataset = write_dataset(self.studio, images, splits, folder / "dataset", copy=False)
            learnt = sum(len(image.single_objects) for image in dataset.split(Split.TRAIN).images)
            steps = steps or min(MOST_STEPS, max(FEWEST_STEPS, STEPS_PER_OBJECT * learnt))
            self._state = _idle() | {"state": "running", "steps": steps}
            self._folder, self._is_cancelled = folder, False
            against = self.studio.active
            self._thread = threading.Thread(target=self._run, args=(folder, steps, against.key, against.source))
            self._thread.start()
        return self.status()

    def cancel(self) -> dict[str, Any]:
        """End what runs; what was there before is as it was."""
        with self._lock:
            self._is_cancelled = self._state["state"] == "running"
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)
            thread = self._thread
        if thread is not None:
            thread.join()
        return self.status()

    def close(self) -> None:
        """End what runs."""
        self.cancel()

    def _run(self, folder: Path, steps: int, key: str, against: str) -> None:
        """Train, compare, and take the model; in a thread of its own."""
        dataset, run, comparison = (str(folder / name) for name in ("dataset", "run", "comparison"))
        every = str(max(1, steps // 10))
        device, cache = self.studio.models.device, str(self.studio.store.folder / "embeddings")
        train = ["train", dataset, "--model", self.studio.models.start.source, "--out", run, "--steps", str(steps)]
        train += ["--eval-every", every, "--eval-objects", str(EVAL_OBJECTS), "--optimizer.lr", str(LEARNING_RATE)]
        train += ["--cache-dir", cache, "--no-finder", "--quiet", "--device", device, *PROMPTS]
        compare = ["compare", dataset, "--base", against, "--tuned", run, "--out", comparison, "--split", "test"]
        compare += ["--quiet", "--device", device]
        try:
            for command in (train, compare):
                self._call(command, folder / LOG)
                if self._is_cancelled:
                    self._end("cancelled")
                    return
            verdict = _verdict(folder / "comparison" / "comparison.json", key)
            write_json(folder / VERDICT, verdict)
            self._end("done", verdict=verdict, model=self._add_model(folder))
        except SamtuneError as error:
            self._end("failed", error=error.parts())
        except Exception as error:
            mistake = f"a mistake in samtune: {type(error).__name__}: {error}"
            parts = {"expected": "a tuned model", "found": mistake, "where": str(folder), "do": "please report it"}
            self._end("failed", error=parts)
            raise

    def _call(self, command: Sequence[str], log: Path) -> None:
        """Run a command of samtune to its end.

        Raises:
            SamtuneError: it failed; what it said last is what was found.
        """
        with storage_errors(log), log.open("ab") as output:
            with self._lock:
                if self._is_cancelled:
                    return
                self._process = subprocess.Popen(  # noqa: S603 - our own command line
                    [sys.executable, "-m", _COMMAND_LINE, *command], stdout=output, stderr=output, stdin=subprocess.PIPE
                )
            if hasattr(os, "setpriority"):
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
            with self._process as process:  # its input stays open as long as it runs
                code = process.wait()
        with self._lock:
            self._process = None
        if code and not self._is_cancelled:
            raise SamtuneError.of(
                expected=f"samtune {command[0]} to end well",
                found=_last_lines(log) or f"exit code {code}",
                where=str(log),
                do="mend that, and tune again",
            )

    def _end(self, state: str, **more: Any) -> None:
        with self._lock:
            self._state = self._state | {"state": state, **more}

    def _add_model(self, folder: Path) -> str:
        key = f"tune-{folder.name}"
        self.studio.models.add(key, f"tuned {folder.name}", folder / "run")
        return key


def _idle() -> dict[str, Any]:
    return {
        "state": "idle", "step": 0, "steps": 0, "seconds_left": None, "curve": [],
        "verdict": None, "model": None, "error": None,
    }  # fmt: skip


def _progress(metrics: Path, steps: int, *, is_running: bool) -> dict[str, Any]:
    """Step, time left and curve, from what the run has written so far."""
    curve: dict[int, dict[str, Any]] = {}
    seconds: list[float] = []
    for found in read_metrics(metrics):
        point = curve.setdefault(found["step"], {"step": found["step"], "loss": None, "iou": None})
        if "loss" in found:
            point["loss"] = found["loss"]
            seconds.append(found["seconds"])
        else:
            measured = [value for name, value in found.items() if name.startswith("valid/") and value is not None]
            point["iou"] = sum(measured) / len(measured) if measured else None
    points = list(curve.values())
    step = points[-1]["step"] if points else 0
    recent = seconds[-50:]
    left = (steps - step) * sum(recent) / len(recent) if recent and is_running else None
    every = max(1, len(points) // MOST_POINTS)
    shown = [point for place, point in enumerate(points) if place % every == 0 or point["iou"] is not None]
    return {"step": step, "curve": shown, "seconds_left": left}


def _verdict(path: Path, key: str) -> dict[str, Any]:
    """What the comparison on held-out images says, as the page takes it; `against` is the model that was in use."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        box = content["box"]
        change = box["change"]
        has_interval = change["low"] is not None
        return {
            "decision": content["headline"],
            "reasons": content["reasons"],
            "against": key,
            "base": box["base"],
            "tuned": box["tuned"],
            "difference": [change["mean"], change["low"], change["high"]] if has_interval else None,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError.of(expected="a comparison", found=str(error), where=str(path)) from error


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return " ".join(line.strip() for line in lines[-6:])[-500:]
