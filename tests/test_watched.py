"""A command that ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys

from tests.small import make_dataset
from tests.studio_server import wait_for

PARENT = """
import subprocess, sys, time
command = [sys.executable, "-m", "samtune.cli.watched", *sys.argv[1:]]
process = subprocess.Popen(command, stdin=subprocess.PIPE)
print(process.pid, flush=True)
process.wait()
"""


def test_a_training_ends_when_its_parent_is_killed(tmp_path, tiny_folder):
    data, run = make_dataset(tmp_path / "data"), tmp_path / "run"
    command = ["train", str(data.root), "--model", str(tiny_folder), "--out", str(run), "--steps", "1000000", "--quiet"]
    command += ["--device", "cpu", "--no-finder"]
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, stderr=output)
        with parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            wait_for(lambda: (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size)
            parent.kill()
    wait_for(lambda: _has_ended(pid))
    assert "saved" in log.read_text() or (run / "checkpoints/last").is_dir()


def _has_ended(pid: int) -> bool:
    """Whether a process that is not our child is gone, or waits to be collected."""
    ps = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not ps.stdout.strip() or ps.stdout.startswith("Z")
