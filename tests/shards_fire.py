"""Workers killed at random while they share many images: every image once, none lost, memory flat.

    python -m tests.shards_fire --images 100000 --kills 20

Draws small images with one box each and works through a manifest of them by `samtune.predict_many` in several
processes, with a random model of 64 px input; they are forked from one that has loaded it. Ends one of them with
SIGKILL at a random time, starts another in its place, and so on. In the end the merged results are compared with what
the manifest asks. Printed: images a second, the share of the model's time, and how the memory of the workers grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image

import samtune
from samtune.inference.shards.merge import merge
from samtune.model.io.save import save_model
from tests.tiny import tiny_sam2

SIDE, PER_FOLDER = 64, 1000
DONE = "all done"
"""The last line of a worker that came to its end."""


@dataclass
class Worker:
    """A process that works on the job; `memory` is what it held, in MiB, each time it was looked at."""

    pid: int
    log: Path
    killed: bool = False
    memory: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Note the memory it holds."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            held = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        except (OSError, StopIteration):
            return
        self.memory.append(int(held.split()[1]) / 1024)

    def is_alive(self) -> bool:
        """Whether the process exists."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Nursery:
    """A process that has loaded everything and forks workers, so that starting one again takes no time."""

    def __init__(self, folder: Path, shard_images: int) -> None:
        self._folder = folder
        command = [sys.executable, "-m", "tests.shards_fire", "--nursery", str(folder), str(shard_images)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        here = Path(__file__).resolve().parents[1]
        path = os.pathsep.join([str(Path(samtune.__file__).parents[1]), str(here)])
        self.process = subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": path}, cwd=here, **pipes)

    def worker(self) -> Worker:
        """One more worker."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log = self._folder / f"{time.monotonic_ns()}.log"
        self.process.stdin.write(f"{log}\n")
        self.process.stdin.flush()
        return Worker(int(self.process.stdout.readline()), log)

    def end(self) -> None:
        """End the process; its workers are ended by others."""
        self.process.communicate()


def nurse(folder: Path, shard_images: int) -> None:
    """What a nursery runs: for each line of stdin, a file to log to, forks a worker and prints its number."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has died is gone at once
    torch.set_num_threads(1)
    os.chdir(folder)
    predictor = samtune.Predictor(samtune.load_model("model"))
    shards = samtune.ShardsConfig(shard_images=shard_images, threads=1)
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        with Path(line.strip()).open("w") as log:
            try:
                report = samtune.predict_many(
                    "manifest.parquet", predictor, "job", samtune.PredictConfig(boxes=Path("boxes.parquet")), shards,
                    quiet=True,
                )  # fmt: skip
                log.write("\n".join([*report.lines(), DONE]))
            except BaseException:
                log.write(traceback.format_exc())
        os._exit(0)


def draw(folder: Path, count: int, seed: int = 0) -> None:
    """`count` images of a bright rectangle, its box, a manifest and a model."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(30, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    paths, rows = [], []
    for number in range(count):
        x0, y0, width, height = (int(value) for value in (*rng.integers(2, 30, 2), *rng.integers(8, 30, 2)))
        pixels = noise.copy()
        pixels[y0 : y0 + height, x0 : x0 + width] = rng.integers(120, 255, 3)
        path = f"images/{number // PER_FOLDER:03}/{number:06}.png"
        if number % PER_FOLDER == 0:
            (folder / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / path, compress_level=1)
        paths.append(path)
        rows.append((path, float(x0), float(y0), float(x0 + width), float(y0 + height), 1))
    pl.DataFrame({"path": paths}).write_parquet(folder / "manifest.parquet")
    columns = ["file_name", "x_min", "y_min", "x_max", "y_max", "class_id"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "boxes.parquet")
    save_model(tiny_sam2(seed=0), folder / "model")


def taken(folder: Path) -> list[int]:
    """Processes that hold a claim."""
    place = folder / "job" / "taken"
    return [int(path.name.split("-")[1]) for path in place.iterdir()] if place.is_dir() else []


def under_fire(folder: Path, shard_images: int, kills: int, workers: int, seed: int, pause: float) -> list[Worker]:
    """Run a job to its end, killing its workers; returns all of them, those that were killed too."""
    chance = random.Random(seed)
    nursery = Nursery(folder, shard_images)
    started = [nursery.worker() for _ in range(workers)]
    until = time.monotonic() + chance.uniform(0, pause)
    tick = threading.Event()
    try:
        while running := [worker for worker in started if not worker.killed and worker.is_alive()]:
            tick.wait(0.02)
            for worker in running:
                worker.look()
            at_work = [worker for worker in running if worker.pid in taken(folder)]
            if kills and at_work and time.monotonic() > until:
                victim = chance.choice(at_work)
                os.kill(victim.pid, signal.SIGKILL)
                victim.killed = True
                started.append(nursery.worker())
                kills -= 1
                until = time.monotonic() + chance.uniform(0, pause)
    finally:
        nursery.end()
    for worker in started:
        text = worker.log.read_text() if worker.log.exists() else ""
        assert worker.killed or text.endswith(DONE), f"a worker failed: {text}"
    assert not kills, f"the job ended with {kills} kills left: more images, or a shorter pause"
    return started


def check(folder: Path, count: int) -> dict[str, list[dict[str, object]]]:
    """Merge, and hold the results to the manifest: every image once, one mask for each."""
    merge(folder / "job", folder / "results.json")
    content = json.loads((folder / "results.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == pl.read_parquet(folder / "manifest.parquet")["path"].to_list()
    assert [one["image_id"] for one in content["annotations"]] == list(range(1, count + 1))
    left = [path.name for path in (folder / "job").rglob("*") if path.name.startswith(".")]
    assert not left, f"half-written files stayed: {left}"
    assert not list((folder / "job" / "taken").iterdir())
    return content


def main() -> None:
    """Draw, fire, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shard-images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=8.0, help="most seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder, arguments.images)
        started = time.monotonic()
        workers = under_fire(
            folder, arguments.shard_images, arguments.kills, arguments.workers, arguments.seed, arguments.pause
        )
        seconds = time.monotonic() - started
        check(folder, arguments.images)
        print(f"{arguments.images:,} images once each, {arguments.kills} workers killed, {seconds:.0f} s")
        print(f"{arguments.images / seconds:.0f} images a second by {arguments.workers} workers, restarts included")
        for worker in workers:
            if not worker.killed:
                print(*(line for line in worker.log.read_text().splitlines() if "here" in line), sep="\n")
            held = worker.memory[len(worker.memory) // 4 :]
            if not worker.killed and held:
                third = max(1, len(held) // 3)
                early, late = float(np.median(held[:third])), float(np.median(held[-third:]))
                print(f"memory     {early:.0f} MiB early, {late:.0f} MiB late, {max(held):.0f} MiB at most")


if __name__ == "__main__":
    nurse(Path(sys.argv[2]), int(sys.argv[3])) if sys.argv[1:2] == ["--nursery"] else main()
