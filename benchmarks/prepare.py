"""Throughput and memory of `prepare` beside the loop people write: `annToMask` and Pillow, one object after the other.

    python benchmarks/prepare.py --objects 1000 10000 100000 --real ../shared/data/nanoshapes_coco --out benchmark.json

Sets are generated: images of 640 x 640 with 20 polygons each. Every run is a process of its own, loading the
libraries is part of its time, and the sides take turns; medians of `--times` turns count. `times_as_fast` compares by
the clock, `times_less_processor` by the processor seconds of all processes, which say more where the machine has other
work. `peak_mib` is of all processes of one more run together, because looking takes time; of 100,000 objects that run
is the only one.

`us_per_object` is all the time of a run; `us_per_object_after_start` is that less the time of a run on one image.

Two things are kept from disturbing it: nothing is deleted before the end, because ext4 takes many times as long to
create a file where others were just deleted; and Python may keep what it compiled, as it does for installed packages.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SIDE, PER_IMAGE = 640, 20


def generate(folder: Path, objects: int) -> None:
    """A Roboflow-like export with polygons of 12 to 40 points, 20 an image."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    patterns = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(8)]
    images, annotations = [], []
    for number in range(max(1, objects // PER_IMAGE)):
        name = f"{number:06}.jpg"
        Image.fromarray(patterns[number % 8]).resize((SIDE, SIDE)).save(folder / "train" / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for _ in range(PER_IMAGE):
            annotations.append(_annotation(rng, len(annotations), number))
    content = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "train/_annotations.coco.json").write_text(json.dumps(content))
    Image.fromarray(patterns[0]).resize((SIDE, SIDE)).save(folder / "test/a.jpg")
    held_out = content | {"images": [images[0] | {"file_name": "a.jpg"}], "annotations": annotations[:1]}
    (folder / "test/_annotations.coco.json").write_text(json.dumps(held_out))


def _annotation(rng: np.random.Generator, number: int, image: int) -> dict[str, object]:
    import numpy as np

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
    from PIL import Image
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
    from samtune.data.prepare.prepare import prepare

    return sum(prepare(source, out, PrepareConfig(on_error="skip")).objects.values())


def measure(what: str, source: Path, out: Path, *, watched: bool = False) -> dict[str, float]:
    """Run one side in a process group of its own; `watched` tells its memory and processor time too."""
    command = [sys.executable, __file__, "--run", what, str(source), str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = processor_seconds()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0, env=environment)
    use = watch(process) if watched else {}
    found = process.communicate()[0].splitlines()
    if process.returncode:
        raise SystemExit(f"{what} on {source} failed")
    return json.loads(found[-1]) | {"cpu_seconds": round(processor_seconds() - before, 2)} | use


def processor_seconds() -> float:
    """What ended processes that this one started have used, with all that they started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(process: subprocess.Popen[str]) -> dict[str, float]:
    """Largest memory of a group until it ends; looking takes about a hundredth of its time."""
    peak, begin = 0, time.monotonic()
    while process.poll() is None:
        peak = max(peak, group_memory(process.pid))
        time.sleep(max(0.05, min(0.5, (time.monotonic() - begin) / 20)))
    return {"peak_mib": peak >> 20}


def in_turns(source: Path, out: Path, times: int) -> dict[str, Any]:
    """Both sides' median times, unwatched, with what a watched run of each took, which comes first and warms up.

    The ratios are medians of those of the turns, so that what the machine does meanwhile falls on both sides.
    """
    sides = {what: measure(what, source, out / f"{what}-watched", watched=True) for what in ("samtune", "plain")}
    turns = [
        {what: measure(what, source, out / f"{what}-{turn}") for what in ("plain", "samtune")} for turn in range(times)
    ] or [sides]
    found: dict[str, Any] = {}
    for what, side in sides.items():
        found[what] = side | {
            key: statistics.median(turn[what][key] for turn in turns) for key in ("seconds", "cpu_seconds")
        }
    for name, key in (("times_as_fast", "seconds"), ("times_less_processor", "cpu_seconds")):
        ratios = [turn["plain"][key] / turn["samtune"][key] for turn in turns]
        found[name] = round(statistics.median(ratios), 2)
        found[f"lowest_{name}"] = round(min(ratios), 2)
    return found


def group_memory(group: int) -> int:
    """Bytes that the processes of a group hold together, pages they share counted once. Linux only."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) == group:
                rollup = (folder / "smaps_rollup").read_text()
                total += int(rollup.partition("\nPss:")[2].split()[0]) * 1024
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
    return total


def run(what: str, source: Path, out: Path) -> None:
    """What `measure` starts."""
    start = time.perf_counter()
    count = {"plain": plain_loop, "samtune": ours}[what](source, out)
    print(json.dumps({"objects": count, "seconds": round(time.perf_counter() - start, 3)}))


def compared(found: dict[str, Any], start: dict[str, float]) -> dict[str, Any]:
    """A set's figures with what follows from them, given the seconds of each side's run on one image."""
    for what in ("plain", "samtune"):
        side = found[what]
        side["objects_per_second"] = round(side["objects"] / side["seconds"], 1)
        side["us_per_object"] = round(1e6 * side["seconds"] / side["objects"])
        side["us_per_object_after_start"] = round(1e6 * (side["seconds"] - start[what]) / side["objects"])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder if not given")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run[0], Path(arguments.run[1]), Path(arguments.run[2]))
        return
    results = {}
    with TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        sources = {f"generated {count}": folder / str(count) for count in (PER_IMAGE, *arguments.objects)}
        for count, source in zip((PER_IMAGE, *arguments.objects), sources.values(), strict=True):
            generate(source, count)
        sources |= {path.name: path for path in arguments.real}
        start: dict[str, float] = {}
        for name, source in sources.items():
            found = in_turns(source, folder / f"out {name}", 0 if name == "generated 100000" else arguments.times)
            start = start or {what: found[what]["seconds"] for what in ("plain", "samtune")}
            results[name] = compared(found, start)
            print(name, json.dumps(results[name]), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
