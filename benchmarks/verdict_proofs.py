"""The verdict on real models: nothing changed, ruined labels, a gain paid for elsewhere, and what a blend wins back.

    python benchmarks/verdict_proofs.py ../shared/data/lens_coco ../shared/data/nanoshapes_coco:0.5,0.25,0.25 \
        --out build/verdict-proofs

    python benchmarks/verdict_proofs.py ../shared/data/lens_coco:0.5,0.25,0.25 ../shared/data/plants_coco:0.6,0.2,0.2 \
        ../shared/data/nanoshapes_coco:0.5,0.25,0.25 --steps 1000 --click-lr 4e-4 --box-steps 1200 --lr 2e-3 \
        --objects 200 --proofs boxes blend --out build/verdict-clicks

The first is how one would tune; the second tunes on boxes for so long and so fast that clicks are lost. `--box-steps
500 --lr 1e-3` is between the two.

A set is split anew where shares stand behind a colon. For each set:

    unchanged   the base model against its own weights
    clicks      the base tuned on clicks: the model that knows clicks, from which the others start
    shuffled    that model tuned on masks that belong to other objects (a table whose column slipped)
    boxes       that model tuned on boxes only
    blend       of both, `samtune blend --alpha auto`

`proofs.json` has each verdict with its guards. What is there already is not made again. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from samtune import api
from samtune.config import EvalConfig, OptimizerConfig, PrepareConfig, PromptPolicy, TrainConfig
from samtune.data.table import Dataset, write_table

PROOFS = ("unchanged", "shuffled", "boxes", "blend")
CLICKS, BOXES, BOTH = (PromptPolicy(box=box, point=point) for box, point in ((0, 1), (1, 0), (1, 1)))


def main() -> None:
    """Run everything for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="folder of an export, with :TRAIN,VALID,TEST to split it anew")
    parser.add_argument("--out", type=Path, default=Path("build/verdict-proofs"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--click-lr", type=float, default=2e-4, help="of the tuning on clicks")
    parser.add_argument("--lr", type=float, default=4e-4, help="of the tuning on boxes only")
    parser.add_argument("--box-steps", type=int, default=0, help="of the tuning on boxes only; left out, --steps")
    parser.add_argument("--proofs", nargs="+", choices=PROOFS, default=PROOFS, help="which to make")
    parser.add_argument("--objects", type=int, default=300, help="most objects to measure")
    parser.add_argument("--scenes", type=int, default=api.GUARD_SCENES, help="procedural scenes to measure on too")
    wanted = parser.parse_args()
    found = {}
    for text in wanted.sets:
        source, _, split = text.partition(":")
        found[Path(source).name] = prove(Path(source), split, wanted)
        wanted.out.mkdir(parents=True, exist_ok=True)
        (wanted.out / "proofs.json").write_text(json.dumps(found, indent=2))


def prove(source: Path, split: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """All comparisons on one set."""
    root = wanted.out / source.name
    dataset = root / "set"
    if not dataset.exists():
        api.prepare(source, dataset, PrepareConfig(split=split), quiet=True)
    clicks = tune(dataset, root / "clicks", wanted.model, CLICKS, wanted.steps, wanted.click_lr)
    pairs: dict[str, tuple[Path | str, Path | str]] = {"unchanged": (wanted.model, wanted.model)}
    if "shuffled" in wanted.proofs:
        slipped = shuffle_masks(dataset, root / "shuffled-set")
        pairs["shuffled"] = clicks, tune(slipped, root / "shuffled", clicks, BOTH, wanted.steps, 4e-4)
    if {"boxes", "blend"} & set(wanted.proofs):
        boxes = tune(dataset, root / "boxes", clicks, BOXES, wanted.box_steps or wanted.steps, wanted.lr)
        pairs |= {"boxes": (clicks, boxes), "blend": (clicks, root / "blend")}
    if "blend" in wanted.proofs and not (root / "blend").exists():
        few = EvalConfig(split="valid", max_objects=wanted.objects)
        clicked, boxed, blended = str(pairs["boxes"][0]), str(pairs["boxes"][1]), root / "blend"
        found = api.blend(clicked, boxed, blended, dataset=dataset, config=few, guard_scenes=wanted.scenes, quiet=True)
        print(*found.lines(), sep="\n", flush=True)
    return {name: judge(dataset, *pairs[name], root / f"compared-{name}", wanted) for name in wanted.proofs}


def tune(dataset: Path, out: Path, model: Path | str, prompts: PromptPolicy, steps: int, lr: float) -> Path:
    """The folder of a run that is made where it is not there."""
    if not out.exists():
        config = TrainConfig(
            model=str(model),
            out=out,
            steps=steps,
            eval_every=max(1, steps // 2),
            eval_objects=100,
            prompts=prompts,
            optimizer=OptimizerConfig(lr=lr),
        )
        ended = api.train(dataset, config, finder=False, quiet=True)
        if ended.signal:
            raise SystemExit(128 + ended.signal)
    return out


def judge(dataset: Path, base: Path | str, tuned: Path | str, out: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """The verdict, the mean differences, and the guards that are damaged."""
    few = EvalConfig(max_objects=wanted.objects, jitter=(), mask_prompt=False, clicks=0)
    found = api.compare(dataset, str(base), str(tuned), out, few, guard_scenes=wanted.scenes, quiet=True)
    damaged = {guard.name: guard.change.mean for guard in found.guards if guard.is_damaged}
    print(out.parent.name, out.name, found.verdict.headline, found.box, found.point, damaged, sep=" | ", flush=True)
    return {
        "outcome": found.verdict.outcome.value,
        "verdict": str(found.verdict),
        "box": str(found.box),
        "point": str(found.point),
        "damaged": damaged,
    }


def shuffle_masks(dataset: Path, out: Path) -> Path:
    """The same dataset with the masks of other objects in its train and valid splits, as far as sizes agree."""
    if out.exists():
        return out
    out.mkdir()
    (out / "masks").symlink_to((dataset / "masks").resolve())
    parts = []
    for part in Dataset.open(dataset).table.partition_by("split", "width", "height"):
        masks = part["mask_path"].drop_nulls().to_numpy()
        if part["split"][0] != "test":
            shifted = pl.Series(np.roll(masks, len(masks) // 2), dtype=pl.String)
            part = part.with_columns(part["mask_path"].scatter(part["mask_path"].is_not_null().arg_true(), shifted))
        parts.append(part)
    write_table(out, pl.concat(parts))
    return out


if __name__ == "__main__":
    main()
