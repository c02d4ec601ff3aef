"""The main job on real sets: prepare, tune the built-in model, compare on held-out splits; one table row for each.

    python benchmarks/real_sets.py ../shared/data/lens_coco ../shared/data/plants_coco --out build/real-sets

Each step runs as a user would run it, in a process of its own, whose peak of memory is reported. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Measured:
    """How long a process took, in seconds, and its peak of memory, in MB."""

    seconds: float
    megabytes: float


def samtune(*arguments: object) -> Measured:
    """Run one samtune command to its end."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "samtune", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"samtune {' '.join(map(str, arguments))} ended with {process.returncode}")
    return Measured(time.monotonic() - started, usage.ru_maxrss / 1000)


def run(source: Path, out: Path, settings: Sequence[object]) -> dict[str, Any]:
    """The whole job on one export."""
    dataset, tuned = out / "dataset", out / "run"
    prepared = samtune("prepare", source, "--out", dataset, "--quiet")
    trained = samtune("train", dataset, "--out", tuned, "--quiet", *settings)
    steps = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    return {
        "set": source.name,
        "prepare": asdict(prepared),
        "train": asdict(trained),
        "steps_per_second": 1 / median(line["seconds"] for line in steps if "seconds" in line),
        "splits": {split: compare(dataset, tuned, out / split, split) for split in splits_of(dataset)},
    }


def splits_of(dataset: Path) -> list[str]:
    """The held-out splits that have objects."""
    table = pl.read_parquet(dataset / "table.parquet").filter(pl.col("annotation_id").is_not_null())
    return [split for split in ("test", "valid") if split in table["split"]]


def compare(dataset: Path, tuned: Path, out: Path, split: str) -> dict[str, Any]:
    """Base and tuned model on a split, with what the trivial predictions reach."""
    samtune("compare", dataset, "--tuned", tuned, "--split", split, "--out", out, "--quiet")
    comparison = json.loads((out / "comparison.json").read_text())
    objects = json.loads((out / "base.json").read_text())["objects"]
    return {
        "objects": len(objects),
        "filled_box": fmean(found["filled_box"] for found in objects),
        "ellipse": fmean(found["ellipse"] for found in objects),
        **{name: comparison[name] for name in ("box", "point", "verdict", "warnings")},
    }


def rows(found: dict[str, Any]) -> list[str]:
    """Rows of a Markdown table."""
    lines: list[str] = []
    train = found["train"]
    cost = f"{train['seconds']:.0f} s, {found['steps_per_second']:.1f} steps/s, {train['megabytes']:.0f} MB"
    for split, one in found["splits"].items():
        change, point = one["box"]["change"], one["point"]
        lines.append(
            f"| {found['set']}, {split} | {one['objects']} / {change['groups']} | {one['filled_box']:.3f} "
            f"| {one['ellipse']:.3f} | {one['box']['base']:.3f} | {one['box']['tuned']:.3f} "
            f"| {change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] "
            f"| {point['base']:.3f} -> {point['tuned']:.3f} | {cost} |"
        )
    return lines


def main() -> None:
    """Parse the command line, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="exports, as `samtune prepare` takes them")
    parser.add_argument("--out", type=Path, default=Path("build/real-sets"), help="folder for all that is made; new")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = ("--steps", options.steps, "--optimizer.lr", options.lr)
    found = [run(source, options.out / source.name, settings) for source in options.sources]
    (options.out / "real_sets.json").write_text(json.dumps(found, indent=2))
    heads = "set, split|objects / groups|filled box|ellipse|base|tuned|difference, 95 % interval|one click|training"
    print(f"| {heads.replace('|', ' | ')} |", "|---" * 9 + "|", sep="\n")
    print(*(row for one in found for row in rows(one)), sep="\n")


if __name__ == "__main__":
    main()
