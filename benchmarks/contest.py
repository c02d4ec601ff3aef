"""How contestants take turns: each is a process that loads once, waits for orders on stdin and answers on stdout.

Processes keep the packages apart (the official one needs stand-ins that transformers must not see) and their memory
too; waiting costs nothing. Orders and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

HERE = Path(__file__).resolve().parent
DEVICE = os.environ.get("SAMTUNE_BENCH_DEVICE", "cpu")
"""Where a contestant computes, `cpu` or `cuda`: set by who started it."""


class Contestant:
    """A running contestant, seen from the process that gives the orders. Use as a context.

    Args:
        script: file beside this one.
        arguments: for it.
        log: file that takes what it prints.
        threads: it may use; 0 leaves the choice to PyTorch.
        device: where it computes, `cpu` or `cuda`.
    """

    def __init__(self, script: str, *arguments: object, log: Path, threads: int = 0, device: str = "cpu") -> None:
        self.name = " ".join([script, *map(str, arguments)])
        self._log = log
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "SAMTUNE_BENCH_DEVICE": device}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / script), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self._is_ready = False

    def wait(self) -> None:
        """Wait until it has loaded. Several that were started together load at the same time."""
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def ask(self, order: str, **values: object) -> Any:
        """Give an order and wait for its answer."""
        self.wait()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, values]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it; it ends when nobody can give orders any more."""
        with self._process:  # closes the pipes and waits
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; the end of {self._log}:\n{self._log.read_text()[-2000:]}")
        return json.loads(line)


def serve(orders: Mapping[str, Callable[..., Any]]) -> None:
    """The other end: carry out orders until there are no more. What libraries print goes to stderr."""
    answers = _own_stdout()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        order, values = json.loads(line)
        print(json.dumps(orders[order](**values)), file=answers, flush=True)


def step_orders(step: Callable[[], object]) -> dict[str, Callable[..., Any]]:
    """The orders every contestant knows that makes plain steps: seconds of some of them, operations of one."""
    return {"steps": lambda count: timed(step, count), "flops": lambda: flops(step)}


def timed(work: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` times."""
    found: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - started)
    return found


def wait() -> None:
    """Wait until a GPU has finished its work."""
    if DEVICE == "cuda":
        import torch

        torch.cuda.synchronize()


def flops(work: Callable[[], object]) -> float:
    """Floating point operations of matrix products and convolutions, a multiply-add as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def memory_peak(work: Callable[[], object]) -> dict[str, int]:
    """Resident memory of this process in bytes: before some work, and at its highest while it runs; the GPU's, on one.

    On Linux the high-water mark is set back before the work, so that an earlier, higher one (of loading, or inherited
    from the process that started this one) does not count. Elsewhere it is `ru_maxrss`, which cannot be set back.
    """
    if DEVICE == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return {"before": before, "peak": torch.cuda.max_memory_allocated()}
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        work()
        return {"before": before, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}

    def read(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024

    before = read("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return {"before": before, "peak": read("VmHWM")}


def _own_stdout() -> TextIO:
    """The real stdout, for answers alone; `print` and native code write to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
