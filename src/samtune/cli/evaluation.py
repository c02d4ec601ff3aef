"""Commands that measure models on held-out images: evaluate, compare, write-prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from samtune import api
from samtune.cli.common import Flat, Out, Quiet, say, show
from samtune.config import EvalConfig

NOT_AS_REQUIRED = 3
"""Exit code of `compare --require`: everything was done, and the verdict is not good enough."""


def evaluate(
    dataset: Path,
    /,
    *,
    model: str,
    out: Path | None = None,
    prompts: Path | None = None,
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: Quiet = False,
) -> None:
    """Measure a model on a split: IoU and Dice for boxes, clicks and outlines, beside what trivial guesses score.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        out: JSON file to write the figures of every object to; a Parquet file is written beside it.
        prompts: File of prompts to ask with, from `samtune write-prompts`.
    """
    show(api.evaluate(dataset, model, config, out=out, prompts=prompts, quiet=quiet))


def compare(
    dataset: Path,
    /,
    *,
    base: str = "nano",
    tuned: Annotated[list[str], Parameter(negative="", consume_multiple=True)],
    out: Out,
    guard: Annotated[list[Path], Parameter(negative="", consume_multiple=True)] = [],  # noqa: B006
    guard_scenes: int = api.GUARD_SCENES,
    require: Literal["ship", "some", "nothing"] = "nothing",
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: Quiet = False,
) -> int:
    """Measure models on the same prompts, say whether to use the tuned one, and write a report with images.

    Ends with 3 where the verdict is not what --require asks for.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        base: Model to compare with.
        tuned: Run or model in question; several are ranked, and the verdicts corrected for their number.
        guard: Further datasets, of images unlike these, on which the tuned model should be as good as the base.
        guard_scenes: Procedural scenes that are one more such guard; 0 leaves them out.
        require: ship accepts only that verdict; some also accepts ship for these prompts only.
    """
    found = api.compare(dataset, base, tuned, out, config, guards=guard, guard_scenes=guard_scenes, quiet=quiet)
    show(found)
    say(f"{'report':<14} {Path(out) / 'report.html'}")
    return 0 if require == "nothing" or found.verdict.meets(require) else NOT_AS_REQUIRED


def write_prompts(
    dataset: Path, /, *, out: Path, config: Annotated[EvalConfig, Flat] = EvalConfig(), quiet: Quiet = False
) -> None:
    """Write the prompts of an evaluation to a JSON file that any model, and other tools, can be asked with.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        out: JSON file to write.
    """
    made = api.write_prompts(dataset, out, config, quiet=quiet)
    objects = sum(len(image.objects) for image in made.images)
    say(f"prompts    {out}: {objects} objects on {len(made.images)} images")
