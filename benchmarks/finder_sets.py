"""The finder on real sets: tune, make a finder, measure it on held-out images; tables of what came of it.

    python benchmarks/finder_sets.py ../shared/data/lens_coco ../shared/data/nuts_coco:0.6,0.2,0.2 --out build/finder \
        --seeds 3 --grid 6 --few 10 25 50

A set is split anew where shares stand behind a colon; one without a test split must be. Each step runs as a user would
run it, in a process of its own. The decoder is tuned once for a set, the finder once for each seed. `--grid` also looks
by a grid of clicks, in so many images of the test split; `--few` also tunes decoder and finder on so many training
images. What is in `--out` already is not computed again: an interrupted benchmark
goes on. Options after `--` go to `samtune find-train`; `--name` keeps apart what they made. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from samtune.data.table import Dataset, write_table

Figures = dict[str, Any]
ROWS = ("finder + base", "finder + tuned", "true boxes + tuned")
GRIDS = ("base, grid of clicks", "tuned, grid of clicks")


def samtune(*arguments: object) -> float:
    """Run one samtune command to its end; seconds of processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "samtune", *map(str, arguments), "--quiet"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepared(source: str, out: Path) -> Path:
    """A set's dataset, made where it is not there."""
    folder, _, split = source.partition(":")
    dataset = out / Path(folder).name / "dataset"
    if not (dataset / "table.parquet").is_file():
        samtune("prepare", folder, "--out", dataset, *(["--split", split] if split else []))
    return dataset


def tuned(dataset: Path, run: Path, options: Sequence[str]) -> Path:
    """A run whose decoder is tuned on a dataset."""
    if not (run / "checkpoints" / "best").is_dir():
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted benchmark
        samtune("train", dataset, "--out", run, "--no-finder", *options)
    return run


def measured(dataset: Path, run: Path, out: Path, seed: int, options: Sequence[str]) -> Figures:
    """The figures of one finder."""
    if not (out / "find.json").is_file():
        seconds = samtune("find-train", run, "--seed", seed, *options)
        samtune("evaluate", dataset, "--model", run, "--find", "--no-grid", "--out", out)
        (out / "seconds.txt").write_text(f"{seconds:.0f}\n")
    return json.loads((out / "find.json").read_text()) | {"seconds": float((out / "seconds.txt").read_text())}


def by_grid(dataset: Path, run: Path, out: Path, images: int) -> Figures:
    """The same with a grid of clicks, on the first images of the test split that have objects."""
    if not (out / "find.json").is_file():
        few = [image.image_path for image in Dataset.open(dataset).split("test").images if image.single_objects]
        samtune("evaluate", part_of(dataset, few[:images], out.with_name("grid-images")), "--model", run, "--find",
                "--out", out)  # fmt: skip
    return json.loads((out / "find.json").read_text())


def with_few(dataset: Path, out: Path, images: int, tune: Sequence[str], options: Sequence[str]) -> Figures | None:
    """Decoder and finder from so many of a set's training images; None where it has no more."""
    whole = Dataset.open(dataset)
    train = [image.image_path for image in whole.split("train").images if image.single_objects]
    if len(train) <= images:
        return None
    drawn = {train[place] for place in np.random.default_rng(0).permutation(len(train))[:images]}
    held_out = {image.image_path for name in ("valid", "test") for image in whole.split(name).images}
    part = part_of(dataset, [*drawn, *held_out], dataset.with_name(f"{dataset.name}-of-{images}"))
    return measured(part, tuned(part, out / "run", tune), out / "find", 0, options)


def part_of(dataset: Path, images: Sequence[str], out: Path) -> Path:
    """Some images of a dataset as one of its own beside it, which shares masks, images and embeddings with it."""
    if not (out / "table.parquet").is_file():
        out.mkdir(parents=True, exist_ok=True)
        for one in dataset.iterdir():
            if one.name not in ("table.parquet", "table.csv", "images.json") and not (out / one.name).exists():
                (out / one.name).symlink_to(one.resolve())
        write_table(out, pl.read_parquet(dataset / "table.parquet").filter(pl.col("image_path").is_in(list(images))))
    return out


def percent(figures: Figures | None, name: str) -> str:
    """One figure in %, with its interval."""
    if figures is None:
        return "-"
    interval = figures.get(f"{name}_interval")
    text = f"{100 * figures[name]:.1f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"


def lines(name: str, seed: object, found: Figures, rows: Sequence[str]) -> Iterator[str]:
    """The table's lines of one evaluation."""
    for row in rows:
        figures = found["rows"].get(row)
        if figures is None:
            continue
        one, named, kept = figures["one_class"], figures["named"], figures["kept"]
        cells = [name, f"{found['objects']} / {found['images']}", str(seed), row]
        cells += [percent(one, "ap"), percent(one, "ap50"), f"{100 * one['ar']:.1f}"]
        cells += [percent(named, "ap"), percent(named, "ap50"), f"{kept['f1']:.2f}"]
        off = kept["relative_count_error"]
        ends = None if off["low"] is None else (off["low"], off["high"])
        cells += [percent({"off": off["mean"], "off_interval": ends}, "off")]
        is_ours = row == "finder + tuned"
        cells += [f"{found['calibration_error']:.3f} ({found['error_by_chance']:.3f})" if is_ours else ""]
        cells += [f"{found['seconds']:.0f}" if is_ours and "seconds" in found else ""]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run all sets and seeds and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folder of an export, with :TRAIN,VALID,TEST to split it anew")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tune", default="--prompts boxes --steps 800 --optimizer.lr 2e-4", help="the decoder")
    parser.add_argument("--name", default="finder", help="of this way to train the finder")
    parser.add_argument("--grid", type=int, default=0, help="images in which to look by a grid of clicks")
    parser.add_argument("--few", type=int, nargs="*", default=[], help="training images")
    own, options = sys.argv[1:], list[str]()
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    wanted = parser.parse_args(own)
    tune = shlex.split(wanted.tune)
    print(
        "| set | objects / images | seed | | AP | AP50 | AR | named AP | named AP50 | F1 | count off | calibration "
        "error (by chance) | s |"
    )
    print("|" + "---|" * 13)
    for source in wanted.sources:
        dataset = prepared(source, wanted.out)
        folder = dataset.parent
        run = folder / "run"
        if wanted.seeds or wanted.grid:
            tuned(dataset, run, tune)
        for seed in range(wanted.seeds):
            found = measured(dataset, run, folder / f"{wanted.name}-{seed}", seed, options)
            for line in lines(folder.name, seed, found, ROWS):
                print(line, flush=True)
        if wanted.grid:
            found = by_grid(dataset, run, folder / "grid", wanted.grid)
            for line in lines(folder.name, "-", found, GRIDS):
                print(line, flush=True)
        for images in wanted.few:
            found = with_few(dataset, folder / f"{wanted.name}-of-{images}", images, tune, options)
            if found is not None:
                for line in lines(f"{folder.name}, {images} training images", 0, found, ROWS[1:]):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
