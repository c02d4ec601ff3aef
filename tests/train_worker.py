"""One of several processes that train together, for `test_distributed.py`: `python -m tests.train_worker JOBS.json`.

The file holds a list of jobs, done one after the other. Each trains a new run or resumes one, and writes what the main
process saw beside `result`: losses as JSON, weights as safetensors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from samtune.config import TrainConfig
from samtune.errors import SamtuneError
from samtune.training.loop import train
from samtune.training.run import Run, new, resumed
from samtune.training.tracking.events import Event, StepDone, Validated


def do(job: dict) -> None:
    """Train as the job says.

    Keys: `dataset` and `config`, or `resume`; `result`; `stop_at`, a validation at which SIGTERM arrives; `kill_at`, a
    validation at which process 1 is killed, whose number is in the file `pid`.
    """
    is_resumed = "resume" in job
    run = resumed(Path(job["resume"])) if is_resumed else new(Path(job["dataset"]), TrainConfig(**job["config"]))
    losses: list[float] = []

    def listen(event: Event) -> None:
        match event:
            case StepDone():
                losses.append(event.loss)
            case Validated():
                losses.append(event.metrics["valid/box"])
                if event.step == job.get("stop_at"):
                    os.kill(os.getpid(), signal.SIGTERM)
                if event.step == job.get("kill_at"):
                    os.kill(int(Path(job["pid"]).read_text()), signal.SIGKILL)

    train(run, [listen])
    write(run, losses, job["result"])


def write(run: Run, losses: list[float], result: str) -> None:
    """What the main process has, for the test."""
    if run.processes.is_main:
        Path(f"{result}.json").write_text(json.dumps(losses))
        state = {name: tensor.detach().contiguous() for name, tensor in run.parameters.items()}
        save_file(state, f"{result}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for job in jobs:
        if "pid" in job and os.environ["RANK"] == "1":
            Path(job["pid"]).write_text(str(os.getpid()))
        try:
            do(job)
        except (SamtuneError, SystemExit) as error:
            if "error" in job:  # one is expected
                Path(f"{job['error']}-{os.environ['RANK']}").write_text(f"{type(error).__name__} {error}")
                continue
            if isinstance(error, SystemExit):
                raise
            sys.stderr.write(f"{error}\n")
            sys.exit(error.exit_code)
