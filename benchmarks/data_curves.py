"""Held-out IoU against the number of training images, on several sets: a table and one image.

    python benchmarks/data_curves.py ../shared/data/lens_coco ../shared/data/plants_coco:0.6,0.1,0.3 \
        --out build/data-curves --image docs/images/data-curves.png

A set is split anew where shares stand behind a colon. Every set gets `samtune curve`: equally many steps for each
share, several seeds, embeddings kept. What is measured already is not measured again, and an interrupted run goes on.
With `--table`, only what is whole is shown. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from samtune import api
from samtune.config import CurveConfig, OptimizerConfig, PrepareConfig, PromptPolicy, TrainConfig

KINDS = {"box": "exact boxes", "point": "single clicks"}


def main() -> None:
    """Measure all sets, then print the table and draw the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="folder of an export, with :TRAIN,VALID,TEST to split it anew")
    parser.add_argument("--out", type=Path, default=Path("build/data-curves"))
    parser.add_argument("--image", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0625, 0.125, 0.25, 0.5, 1.0])
    parser.add_argument("--objects", type=int, default=150, help="most held-out objects to measure")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    wanted = parser.parse_args()
    found = []
    for text in wanted.sets:
        source, _, split = text.partition(":")
        folder = wanted.out / Path(source).name
        if not wanted.table:
            measure(Path(source), split, folder, wanted)
        if (folder / "curve/curve.json").is_file():
            found.append((Path(source).name, json.loads((folder / "curve/curve.json").read_text())))
    for line in table(found):
        print(line)
    if wanted.image is not None and found:
        wanted.image.parent.mkdir(parents=True, exist_ok=True)
        drawn(found).savefig(wanted.image, dpi=100)


def measure(source: Path, split: str, folder: Path, wanted: argparse.Namespace) -> None:
    """The curve of one set, as far as it is not there."""
    if not (folder / "set").exists():
        api.prepare(source, folder / "set", PrepareConfig(split=split), quiet=True)
    curve = CurveConfig(shares=tuple(wanted.shares), seeds=wanted.seeds, max_objects=wanted.objects)
    settings = TrainConfig(
        model=wanted.model,
        steps=wanted.steps,
        eval_every=wanted.steps,
        eval_objects=40,
        prompts=PromptPolicy(box=1, point=1),
        optimizer=OptimizerConfig(lr=2e-4),
    )
    print(source.name, *api.curve(folder / "set", folder / "curve", curve, settings, quiet=True).lines(), sep="\n")


def table(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The rows of docs/results.md."""
    lines = ["| set | images | IoU of boxes | of clicks |", "|---|---|---|---|"]
    for name, content in found:
        for point in content["points"]:
            ious = (point["ious"][kind] for kind in KINDS)
            figures = (f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in ious)
            lines.append(f"| {name} | {point['images']:.0f} | {' | '.join(figures)} |")
        ahead = (content["forecasts"][kind] for kind in KINDS)
        figures = (f"{one['gain']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for one in ahead)
        lines.append(f"| | {content['forecasts']['box']['more']} more | {' | '.join(figures)} |")
    return lines


def drawn(found: list[tuple[str, dict[str, Any]]]) -> Figure:
    """One panel for each set: means with intervals over groups, the fitted curve and its band."""
    figure = Figure(figsize=(2.6 * len(found), 2.8), layout="constrained")
    for place, (name, content) in enumerate(found, start=1):
        axes = figure.add_subplot(1, len(found), place)
        for kind, color in zip(KINDS, ("#0072b2", "#d55e00"), strict=True):
            band = content["forecasts"][kind]["band"]
            axes.fill_between(band["images"], band["low"], band["high"], color=color, alpha=0.15, linewidth=0)
            axes.plot(band["images"], band["fitted"], color=color, linewidth=1)
            at = [point["images"] for point in content["points"]]
            ious = [point["ious"][kind] for point in content["points"]]
            means = [one["mean"] for one in ious]
            reach = [[abs(one[end] - one["mean"]) for one in ious] for end in ("low", "high")]
            axes.errorbar(at, means, reach, fmt="o", color=color, markersize=3, linewidth=0.8, label=KINDS[kind])
        axes.set_xscale("symlog", linthresh=4)
        axes.set_ylim(0, 1)
        axes.set_title(name.removesuffix("_coco").removesuffix("_via"), fontsize=9)
        axes.set_xlabel("training images", fontsize=8)
        axes.tick_params(labelsize=7)
        if place == 1:
            axes.set_ylabel("held-out IoU", fontsize=8)
            axes.legend(fontsize=7, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
