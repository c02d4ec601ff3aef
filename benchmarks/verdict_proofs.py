"""The verdict on real models: nothing changed, ruined labels, a gain paid for elsewhere, and what a blend wins back.

    python benchmarks/verdict_proofs.py ../shared/data/lens_coco ../shared/data/nanoshapes_coco:0.5,0.25,0.25

    python benchmarks/verdict_proofs.py ../shared/data/lens_coco:0.5,0.25,0.25 ../shared/data/plants_coco:0.6,0.2,0.2 \
        ../shared/data/nanoshapes_coco:0.5,0.25,0.25 --steps 1000 --click-lr 4e-4 --box-steps 1200 --lr 2e-3 \
        --objects 200 --proofs boxes blend

The first is how one would tune; the second tunes on boxes for so long and so fast that clicks are lost. `--box-steps
500 --lr 1e-3` is between the two.

A set is split anew where shares stand behind a colon. For each set:

    unchanged   the base model against its own weights
    clicks      the base tuned on clicks: the model that knows clicks, from which the others start
    shuffled    that model tuned on masks that belong to other objects (a table whose column slipped)
    boxes       that model tuned on boxes only
    blend       of both, `samtune blend --alpha auto`

Folders are named by their settings, so that one `--out` serves all. What is there is not made again, and a run that was
killed goes on; `proofs.json` has each verdict with its guards, those of earlier calls too. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from samtune import api
from samtune.config import EvalConfig, OptimizerConfig, PrepareConfig, PromptPolicy, TrainConfig
from samtune.data.table import Dataset, write_table
from samtune.report.folder import load_comparisons

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
    for text in wanted.sets:
        source, _, split = text.partition(":")
        prove(Path(source), split, wanted)


def prove(source: Path, split: str, wanted: argparse.Namespace) -> None:
    """All comparisons on one set."""
    root = wanted.out / (f"{source.name}-{split}" if split else source.name)
    dataset = root / "set"
    if not dataset.exists():
        api.prepare(source, dataset, PrepareConfig(split=split), quiet=True)
    known = root / f"clicks-{wanted.steps}-{wanted.click_lr:g}"
    clicks = tune(dataset, known / "run", wanted.model, CLICKS, wanted.steps, wanted.click_lr)
    if "unchanged" in wanted.proofs:
        judge(dataset, wanted.model, wanted.model, root / "unchanged", wanted)
    if "shuffled" in wanted.proofs:
        slipped = shuffle_masks(dataset, root / "shuffled-set")
        shuffled = tune(slipped, known / "shuffled/run", clicks, BOTH, wanted.steps, 4e-4)
        judge(dataset, clicks, shuffled, known / "shuffled/compared", wanted)
    box_steps = wanted.box_steps or wanted.steps
    forgetting = known / f"boxes-{box_steps}-{wanted.lr:g}"
    if {"boxes", "blend"} & set(wanted.proofs):
        boxes = tune(dataset, forgetting / "run", clicks, BOXES, box_steps, wanted.lr)
        judge(dataset, clicks, boxes, forgetting / "compared", wanted)
    if "blend" in wanted.proofs:
        blended = forgetting / "blend"
        if not blended.exists():
            few = EvalConfig(split="valid", max_objects=wanted.objects)
            made = api.blend(
                clicks, boxes, blended, dataset=dataset, config=few, guard_scenes=wanted.scenes, quiet=True
            )
            print(*made.lines(), sep="\n", flush=True)
        judge(dataset, clicks, blended, forgetting / "compared-blend", wanted)


def tune(dataset: Path, out: Path, model: Path | str, prompts: PromptPolicy, steps: int, lr: float) -> Path:
    """The folder of a run; one that is not there is made, one that was killed goes on."""
    if out.exists():
        return out
    under_way = out.with_name("run-under-way")
    if (under_way / "checkpoints/last").is_dir():
        ended = api.resume(under_way, finder=False, quiet=True)
    else:
        shutil.rmtree(under_way, ignore_errors=True)
        config = TrainConfig(
            model=str(model),
            out=under_way,
            steps=steps,
            eval_every=max(1, steps // 2),
            eval_objects=100,
            prompts=prompts,
            optimizer=OptimizerConfig(lr=lr),
        )
        ended = api.train(dataset, config, finder=False, quiet=True)
    if ended.signal:
        raise SystemExit(128 + ended.signal)
    return under_way.rename(out)


def judge(dataset: Path, base: Path | str, tuned: Path | str, out: Path, wanted: argparse.Namespace) -> None:
    """The verdict, the mean differences, and the guards that are damaged."""
    if not out.exists():
        few = EvalConfig(max_objects=wanted.objects, jitter=(), mask_prompt=False, clicks=0)
        api.compare(dataset, str(base), str(tuned), out, few, guard_scenes=wanted.scenes, quiet=True)
    found = load_comparisons(out)[0][0]
    damaged = {guard.name: round(guard.change.mean, 3) for guard in found.guards if guard.is_damaged}
    name = str(out.relative_to(wanted.out))
    print(name, found.verdict.headline, found.box, found.point, damaged, sep=" | ", flush=True)
    proofs = wanted.out / "proofs.json"
    known = json.loads(proofs.read_text()) if proofs.exists() else {}
    known[name] = {
        "outcome": found.verdict.outcome.value,
        "verdict": str(found.verdict),
        "box": str(found.box),
        "point": str(found.point),
        "damaged": damaged,
    }
    proofs.write_text(json.dumps(known, indent=2))


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
