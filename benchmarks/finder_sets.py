"""The finder on real sets: tune, make a finder, measure it on held-out images; one table row for each set and seed.

    python benchmarks/finder_sets.py ../shared/data/lens_coco ../shared/data/nuts_coco --out build/finder --seeds 3

Each step runs as a user would run it, in a process of its own. What is in `--out` already is not computed again: an
interrupted benchmark goes on. Options after `--` go to `samtune find-train`; `--name` keeps apart what they made.
Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

OURS, BASE, BOUND = "finder + tuned", "finder + base", "true boxes + tuned"


def samtune(*arguments: object) -> float:
    """Run one samtune command to its end; seconds it took."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "samtune", *map(str, arguments)], check=True)
    return time.monotonic() - started


def held_out(dataset: Path) -> str:
    """The split to measure on: test where it has objects, else valid."""
    table = pl.read_parquet(dataset / "table.parquet").filter(pl.col("mask_path").is_not_null())
    return "test" if "test" in table["split"] else "valid"


def prepared(source: Path, out: Path, steps: int) -> tuple[Path, Path]:
    """A set's dataset and its tuned run, made where they are not there."""
    dataset, run = out / source.name / "dataset", out / source.name / "run"
    if not (dataset / "table.parquet").is_file():
        samtune("prepare", source, "--out", dataset, "--quiet")
    if not (run / "checkpoints" / "best").is_dir():
        samtune("train", dataset, "--out", run, "--steps", steps, "--optimizer.lr", 2e-4, "--no-finder", "--quiet")
    return dataset, run


def measured(source: Path, out: Path, seed: int, name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """The figures of one finder."""
    dataset, run = prepared(source, out, settings.steps)
    folder = out / source.name / f"{name}-{seed}"
    if not (folder / "find.json").is_file():
        seconds = samtune("find-train", run, "--seed", seed, "--quiet", *settings.options)
        grid = "--grid" if settings.grid else "--no-grid"
        samtune(
            "evaluate",
            dataset,
            "--model",
            run,
            "--find",
            "--split",
            held_out(dataset),
            grid,
            "--out",
            folder,
            "--quiet",
        )
        (folder / "seconds.txt").write_text(f"{seconds:.0f}\n")
    figures = json.loads((folder / "find.json").read_text())
    return figures | {"set": source.name, "seed": seed, "seconds": (folder / "seconds.txt").read_text().strip()}


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    cells: list[str] = []
    for name in (OURS, BASE, BOUND):
        figures = found["rows"].get(name)
        for kind in ("one_class", "named"):
            one = figures and figures[kind]
            cells.append(f"{100 * one['ap']:.1f} / {100 * one['ap50']:.1f}" if one else "-")
    count = found["relative_count_error"]["mean"]
    last = (f"{found['f1']:.2f}", f"{count:.0%}", f"{found['calibration_error']:.3f}", found["seconds"])
    head = (f"{found['set']}, {found['split']}", f"{found['objects']} / {found['images']}", str(found["seed"]))
    return "| " + " | ".join((*head, *cells, *last)) + " |"


def main() -> None:
    """Run all sets and seeds and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3000, help="of tuning the decoder")
    parser.add_argument("--name", default="finder", help="of this way to train the finder")
    parser.add_argument("--grid", action="store_true", help="also find by a grid of clicks")
    own, options = sys.argv[1:], list[str]()
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    settings = parser.parse_args(own)
    settings.options = options
    print(
        "| set | objects / images | seed | finder + tuned AP / AP50 | named | finder + base | named | true boxes "
        "| named | F1 | count off | calibration error | s |"
    )
    print("|" + "---|" * 13)
    for source in settings.sources:
        for seed in range(settings.seeds):
            print(row(measured(source, settings.out, seed, settings.name, settings)), flush=True)


if __name__ == "__main__":
    main()
