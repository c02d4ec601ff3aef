"""Kill runs and let disks fail; prints one line of JSON with what came of it, and ends with 1 where anything was lost.

    python -m tests.fire --kills 200 --faults 500

A run is killed with SIGKILL, at a random time, in the middle of a call that writes a checkpoint, or of one that writes
anything to its folder, and resumed: it must end with the same weights, optimizer, moving average, best model and log as
one that nobody disturbed, bit for bit, and have lost at most one interval. A write fault must leave `last` and `best`
readable, as they were or as they were to be. Every trial is a fork of this process, which has imported everything but
computed nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard
from safetensors.torch import load_file

from samtune.config import OptimizerConfig, PromptPolicy, TrainConfig
from samtune.errors import StorageError
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.model.io.tensors import hash_tensors
from samtune.training import loop
from samtune.training.checkpoint import RunFolder, save_last
from samtune.training.run import Run, new, removed_if_not_started, resumed
from samtune.training.tracking.files import file_listeners
from samtune.utils.checksums import find_damage
from tests.fire import disk
from tests.small import make_dataset
from tests.tiny import tiny_sam2

STEPS, EVAL_EVERY, SAVE_EVERY = 12, 6, 3
SHARE_WHILE_SAVING, SHARE_WHILE_WRITING = 0.4, 0.2
"""Of the kills: those in a call that writes below `checkpoints`, and in one that writes anywhere in the run folder."""
SAVING, WRITING, ANY_TIME = "while saving", "while writing", "at a random time"
_FAILED = 70


def config(work: Path, out: Path) -> TrainConfig:
    """A run that takes a second."""
    return TrainConfig(
        model=str(work / "model"),
        out=out,
        steps=STEPS,
        eval_every=EVAL_EVERY,
        save_every=SAVE_EVERY,
        eval_objects=4,
        objects_per_image=2,
        device="cpu",
        precision="fp32",
        cache=False,
        prompts=PromptPolicy(box=0.5, point=0.5, correction_clicks=1, negative=0.2),
        optimizer=OptimizerConfig(lr=1e-3, ema=0.9),
    )


def forked(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Do something in a process of its own; returns its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = _FAILED
        try:
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    if kill_after is not None and signal.sigtimedwait([signal.SIGCHLD], kill_after) is None:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.sigtimedwait([signal.SIGCHLD], 0)
    return code


def train(work: Path, out: Path, where: Path | None = None, kill_at: int = disk.COUNT_ONLY) -> None:
    """Train from the start, killed at a call that writes below `where`, or not; such calls are counted."""
    disk.arm(where or out, disk.KILL, kill_at)
    run = new(work / "data", config(work, out))
    with removed_if_not_started(run):
        _listened(run)
    (out.parent / "calls").write_text(str(disk.calls()))


def go_on(work: Path, out: Path) -> None:
    """Go on with a run, or start it again where nothing of it is there."""
    if not (out / "config.yaml").exists():
        (out.parent / "resumed").write_text("0")
        train(work, out)
        return
    run = resumed(out)
    (out.parent / "resumed").write_text(str(run.state.progress.step))
    _listened(run)


def _listened(run: Run) -> None:
    """Train with the run's own files, but without the chart, which would take longer than the run."""
    with file_listeners(run.folder, run.config, run.state.progress.step) as (*own, _):
        loop.train(run, own)


def outcome(out: Path) -> dict[str, Any]:
    """What a finished run has, as checksums; without times, which differ."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "last": hash_tensors(load_file(out / "checkpoints/last/state.safetensors")),
        "progress": json.loads((out / "checkpoints/last/progress.json").read_text()),
        "best": hash_tensors(load_file(out / "checkpoints/best/model.safetensors")),
        "lines": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
        "results": (out / "results.csv").read_text(),
        "files": sorted(path.name for path in [*out.iterdir(), *(out / "checkpoints").iterdir()]),
    }


def steps_logged(out: Path) -> int:
    """The last step that a run had said something about; a line may be cut off."""
    steps = [0]
    for line in (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []:
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            continue
    return max(steps)


def killed(work: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill runs and resume them; returns what was lost."""
    whole = work / "whole" / "run"
    assert forked(lambda: (train(work, whole), _write_modules(work), None)[-1]) == 0
    written = int((whole.parent / "calls").read_text())
    _import_modules(work)
    started = time.monotonic()
    shutil.rmtree(whole)
    assert forked(lambda: train(work, whole, whole / "checkpoints")) == 0
    seconds, saved, expected = time.monotonic() - started, int((whole.parent / "calls").read_text()), outcome(whole)
    wanted = {SAVING: round(kills * SHARE_WHILE_SAVING), WRITING: round(kills * SHARE_WHILE_WRITING)}
    wanted[ANY_TIME] = kills - sum(wanted.values())
    counts = dict.fromkeys(wanted, 0) | {"kills": 0, "equal": 0, "ended before": 0}
    lost: list[str] = []
    while counts["kills"] < kills and counts["ended before"] <= kills:
        out = work / "killed" / "run"
        kind = next(kind for kind in wanted if counts[kind] < wanted[kind])
        where = out / "checkpoints" if kind == SAVING else out
        at = disk.COUNT_ONLY if kind == ANY_TIME else draw.randint(1, saved if kind == SAVING else written)
        after = draw.uniform(0, 0.9 * seconds) if kind == ANY_TIME else None
        code = forked(lambda out=out, where=where, at=at: train(work, out, where, at), after)
        wrong = _not_as_before(work, out, code, expected)
        counts["ended before"] += code == 0
        if code != 0:
            counts["kills"] += 1
            counts[kind] += 1
            counts["equal"] += not wrong
        lost += [f"{kind} (call {at}, after {after} s, code {code}): {wrong}"] if wrong else []
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        if code != 0 and counts["kills"] % 10 == 0:
            sys.stderr.write(f"{counts['kills']} of {kills} kills: {counts}\n")
    return {**counts, "lost": lost}


def _not_as_before(work: Path, out: Path, code: int, expected: dict[str, Any]) -> list[str]:
    """Go on with a run that has ended with `code`; what then differs from a run that nobody disturbed."""
    before = steps_logged(out)
    if code in (0, -signal.SIGKILL):
        code = forked(lambda: go_on(work, out))
    found = outcome(out) if code == 0 else {}
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if code == 0 and (at := int((out.parent / "resumed").read_text())) < before - SAVE_EVERY:
        wrong.append(f"more than an interval, {before} to {at}")
    return wrong


def _write_modules(work: Path) -> None:
    (work / "modules").write_text("\n".join(sys.modules))


def _import_modules(work: Path) -> None:
    """Import what a run imports on its way, so that every fork has it already."""
    for name in (work / "modules").read_text().splitlines():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def faulted(work: Path, faults: int, seed: int) -> None:
    """Let the disk fail while checkpoints are written; writes what was lost into `faults.json`."""
    draw, out = random.Random(seed), work / "faults" / "run"
    run = new(work / "data", config(work, out))
    loop.train(run)
    save_last(run.folder, run.state)
    run.save_best()
    number_of = {save: _calls(run, save) for save in (save_last_of, Run.save_best)}
    counts = dict.fromkeys([*disk.FAULTS, "said", "withstood"], 0)
    lost: list[str] = []
    for number in range(faults):
        save = draw.choice(list(number_of))
        name, what = draw.choice(list(disk.FAULTS.items()))
        call, stays = draw.randint(1, number_of[save]), draw.random() < 0.5
        before = readable(run.folder)
        with torch.no_grad():
            for parameter in run.parameters.values():
                parameter.add_(1e-3)
        disk.arm(run.folder.path, what, call, stays=stays)
        try:
            save(run)
            counts["withstood"] += 1
        except StorageError:
            counts["said"] += 1
        finally:
            disk.disarm()
        counts[name] += 1
        after, wanted = readable(run.folder), intended(run)
        wrong = [kind for kind in after if after[kind] not in (before[kind], wanted[kind])]
        lost += (
            [f"fault {number} ({save.__name__}, {name}, call {call} of {number_of[save]}): {wrong}"] if wrong else []
        )
    (work / "faults.json").write_text(json.dumps({"faults": faults, **counts, "lost": lost}))


def save_last_of(run: Run) -> None:
    """`save_last`, of a run."""
    save_last(run.folder, run.state)


def _calls(run: Run, save: Callable[[Run], None]) -> int:
    disk.arm(run.folder.path, disk.KILL, disk.COUNT_ONLY)
    save(run)
    return disk.calls()


def readable(folder: RunFolder) -> dict[str, str]:
    """The weights that a reader finds in `last` and `best`, as checksums; empty where it finds none."""
    again = resumed(folder.path)
    weights = {name: parameter.detach() for name, parameter in again.parameters.items()}
    best = load_model(folder.path)
    whole = not find_damage(folder.best)
    return {"last": hash_tensors(weights), "best": hash_tensors(best.model.state_dict()) if whole else ""}


def intended(run: Run) -> dict[str, str]:
    """The same of what was to be written."""
    weights = {name: parameter.detach() for name, parameter in run.parameters.items()}
    return {"last": hash_tensors(weights), "best": hash_tensors(run.model.state_dict())}


def main() -> int:
    """Everything, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
            environment = os.environ | {"LD_PRELOAD": str(disk.build(work)), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "tests.fire", *sys.argv[1:]]
            return os.spawnve(os.P_WAIT, sys.executable, command, environment)
        torch.set_num_threads(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        for place in ("whole", "killed", "faults"):
            (work / place).mkdir()
        assert (
            forked(lambda: (make_dataset(work / "data"), save_model(tiny_sam2(seed=0), work / "model"), None)[-1]) == 0
        )
        report = killed(work, given.kills, random.Random(given.seed))
        assert forked(lambda: faulted(work, given.faults, given.seed)) == 0
        faults = json.loads((work / "faults.json").read_text())
    print(json.dumps({"kills": report, "faults": faults}))
    return int(bool(report["lost"] or faults["lost"]))


if __name__ == "__main__":
    sys.exit(main())
