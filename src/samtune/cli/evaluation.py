"""Commands that measure models on held-out images: evaluate, compare, blend, write-prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from samtune import api
from samtune.api.evaluation import holds_clips
from samtune.cli.common import Flat, Out, Quiet, say, show
from samtune.config import ClipEvalConfig, EvalConfig, FindConfig, FindEvalConfig

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
    find: Annotated[bool, Parameter(negative="")] = False,
    finds: Annotated[FindConfig, Flat] = FindConfig(),
    grid: bool = True,
    base: str | None = None,
    clip_prompt: Literal["mask", "box", "click"] = "mask",
    quiet: Quiet = False,
) -> None:
    """Measure a model on a split: IoU and Dice for boxes, clicks and outlines, beside what trivial guesses score.

    Args:
        dataset: Folder that `samtune prepare` wrote, or annotated clips in the folders of DAVIS: J, F and J&F.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        out: JSON file to write the figures of every object to; a Parquet file is written beside it. With --find,
            a folder.
        prompts: File of prompts to ask with, from `samtune write-prompts`.
        find: Measure what the run's finder finds without prompts: mask AP beside the grid of clicks and the true boxes.
        grid: With --find, also find by a grid of clicks, which takes seconds an image.
        base: With --find and for clips, the model before tuning; left out, the one the run was tuned from.
        clip_prompt: Of clips, how an object is given on the first frame that shows it.
    """
    if holds_clips(dataset):
        asked = ClipEvalConfig(split=config.split, prompt=clip_prompt, device=config.device)
        show(api.evaluate_clips(dataset, model, asked, base=base, out=out, quiet=quiet))
        return
    if find:
        wish = FindEvalConfig(
            **finds.model_dump(), split=config.split, grid=grid, chunk=config.chunk, device=config.device
        )
        show(api.evaluate_finder(dataset, model, wish, base=base, out=out, quiet=quiet))
        return
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
    automatic: Annotated[bool, Parameter(negative="")] = False,
    find: bool = True,
    curve: Path | None = None,
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
        automatic: Also measure the masks that a grid of clicks finds: AP, AR and counts; takes seconds an image.
        find: Also measure what the tuned run's finder finds without prompts, where it has one.
        curve: Folder that `samtune curve` wrote, to show in the report.
        require: ship accepts only that verdict; some also accepts ship for these prompts only.
    """
    found = api.compare(
        dataset,
        base,
        tuned,
        out,
        config,
        guards=guard,
        guard_scenes=guard_scenes,
        automatic=automatic,
        find=find,
        curve=curve,
        quiet=quiet,
    )
    show(found)
    say(f"{'report':<14} {Path(out) / 'report.html'}")
    return 0 if require == "nothing" or found.verdict.meets(require) else NOT_AS_REQUIRED


def blend(
    base: str,
    tuned: str,
    /,
    *,
    out: Out,
    alpha: float | Literal["auto"] = "auto",
    dataset: Path | None = None,
    guard: Annotated[list[Path], Parameter(negative="", consume_multiple=True)] = [],  # noqa: B006
    guard_scenes: int = api.GUARD_SCENES,
    quiet: Quiet = False,
) -> None:
    """Write a model between the base and the tuned one: the gain without the damage, as far as both can be had.

    Args:
        base: Model that the other was tuned from.
        tuned: Run or model.
        alpha: 0 is the base model, 1 the tuned one; auto measures up to fourteen of them on the validation split.
        dataset: Dataset to measure on; the run's own if left out.
        guard: Further datasets, of images unlike these, on which the blend should be as good as the base.
        guard_scenes: Procedural scenes that are one more such guard; 0 leaves them out.
    """
    found = api.blend(base, tuned, out, alpha, dataset=dataset, guards=guard, guard_scenes=guard_scenes, quiet=quiet)
    show(found)


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
