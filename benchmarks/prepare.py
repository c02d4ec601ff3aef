"""Throughput and memory of `prepare` beside the loop people write: `annToMask` and Pillow, one object after the other.

    python benchmarks/prepare.py --objects 1000 10000 100000 --real ../shared/data/nanoshapes_coco --out benchmark.json

Sets are generated: pictures of 640 x 640 with 20 polygons each. Each measurement runs in a process of its own,
and loading the libraries is part of its time. `peak_mib` and `cpu_seconds` are of all its processes together, looked at
every 0.1 s; processor time says more than the clock where the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

SIDE, PER_IMAGE = 640, 20


def generate(folder: Path, objects: int) -> None:
    """A Roboflow-like export with polygons of 12 to 40 points, 20 a picture."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    pictures = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(8)]
    images, annotations = [], []
    for number in range(max(1, objects // PER_IMAGE)):
        name = f"{number:06}.jpg"
        Image.fromarray(pictures[number % 8]).resize((SIDE, SIDE)).save(folder / "train" / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for _ in range(PER_IMAGE):
            annotations.append(_annotation(rng, len(annotations), number))
    content = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "train/_annotations.coco.json").write_text(json.dumps(content))
    Image.fromarray(pictures[0]).resize((SIDE, SIDE)).save(folder / "test/a.jpg")
    held_out = content | {"images": [images[0] | {"file_name": "a.jpg"}], "annotations": annotations[:1]}
    (folder / "test/_annotations.coco.json").write_text(json.dumps(held_out))


def _annotation(rng: np.random.Generator, number: int, image: int) -> dict[str, object]:
    points = int(rng.integers(12, 41))
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radius = rng.uniform(8, 60) * rng.uniform(0.7, 1.0, points)
    center = rng.uniform(60, SIDE - 60, 2)
    ring = np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)
    box = [*ring.min(axis=0), *np.ptp(ring, axis=0)]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "segmentation": [[round(float(value), 2) for value in ring.ravel()]],
        "bbox": [round(float(value), 2) for value in box],
        "area": round(float(box[2] * box[3]), 2),
        "iscrowd": 0,
    }


def plain_loop(source: Path, out: Path) -> int:
    """The loop people write."""
    from pycocotools.coco import COCO

    count = 0
    for file in sorted(source.glob("*/_annotations.coco.json")):
        coco = COCO(str(file))
        target = out / file.parent.name
        target.mkdir(parents=True)
        for annotation in coco.dataset["annotations"]:
            mask = coco.annToMask(annotation)
            Image.fromarray(mask * 255).save(target / f"{annotation['id']}.png")
            count += 1
    return count


def ours(source: Path, out: Path) -> int:
    """`samtune prepare` with its defaults."""
    from samtune.config import PrepareConfig
    from samtune.data.prepare import prepare

    return sum(prepare(source, out, PrepareConfig(on_error="skip")).objects.values())


def measure(what: str, source: Path) -> dict[str, float]:
    """Run one side in a session of its own, whose processes' memory is watched."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--run", what, str(source), str(Path(folder) / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        peak, seconds = 0, dict[str, float]()
        while process.poll() is None:
            memory, used = session_use(process.pid)
            peak = max(peak, memory)
            seconds |= used
            time.sleep(0.1)
        assert process.stdout is not None
        found = process.stdout.read().splitlines()
        if process.returncode:
            raise SystemExit(f"{what} on {source} failed")
    return json.loads(found[-1]) | {"cpu_seconds": round(sum(seconds.values()), 2), "peak_mib": peak >> 20}


def session_use(session: int) -> tuple[int, dict[str, float]]:
    """What the processes of a session use. Linux only.

    Returns:
        Bytes they hold together, pages they share counted once; seconds of processor time by process.
    """
    total, seconds = 0, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) == session:
                seconds[folder.name] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
                rollup = (folder / "smaps_rollup").read_text()
                total += int(rollup.partition("\nPss:")[2].split()[0]) * 1024
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
    return total, seconds


def run(what: str, source: Path, out: Path) -> None:
    """What `measure` starts."""
    start = time.perf_counter()
    count = {"plain": plain_loop, "samtune": ours}[what](source, out)
    seconds = time.perf_counter() - start
    print(json.dumps({"objects": count, "seconds": round(seconds, 2), "objects_per_second": round(count / seconds, 1)}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run[0], Path(arguments.run[1]), Path(arguments.run[2]))
        return
    results = {}
    with TemporaryDirectory() as folder:
        sources = {f"generated {count}": Path(folder) / str(count) / "source" for count in arguments.objects}
        for count, source in zip(arguments.objects, sources.values(), strict=True):
            generate(source, count)
        for name, source in {**sources, **{path.name: path for path in arguments.real}}.items():
            results[name] = {what: measure(what, source) for what in ("plain", "samtune")}
            rates = [results[name][what]["objects_per_second"] for what in ("plain", "samtune")]
            results[name]["times_as_fast"] = round(rates[1] / rates[0], 2)
            print(name, json.dumps(results[name]), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
