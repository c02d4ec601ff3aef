"""`samtune demo`: the whole job on a dataset it draws itself, from export to verdict, in about a minute on a laptop.

It measures less than the commands do by themselves (fewer kinds of prompts, fewer images of other kinds), so intervals
are wider where less was measured; what is measured is measured the same way.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from samtune import api
from samtune.config import EvalConfig, FinderConfig, PrepareConfig, PromptPolicy, TrainConfig
from samtune.utils.files import storage_errors
from samtune.utils.output_folders import check_output
from samtune.utils.progress import progress, stderr_console
from samtune.utils.results import Result

STEPS = 200
FINDER_STEPS, FINDER_WIDTH = 120, 32
"""Steps of the finder's network, or as many as the run has, and its channels."""
GUARD_SCENES = 8
_MARK = ".samtune-demo"


@dataclass(frozen=True, slots=True)
class DemoResult(Result):
    """What the demo leaves behind.

    Attributes:
        verdict: whether tuning helped, in words, with the interval.
        found: how many objects the run finds without any prompt, in words.
        paths: where export, dataset, run and report are.
        is_better: the interval of the difference lies above 0.
    """

    verdict: str
    found: str
    paths: dict[str, Path]
    is_better: bool

    def lines(self) -> list[str]:
        """What to tell the user."""
        return [self.verdict, *(f"{name:<10} {path}" for name, path in self.paths.items()), self.found]


def demo(out: Path, *, steps: int = STEPS, seed: int = 0, quiet: bool = False) -> DemoResult:
    """Draw an export, prepare it, tune the built-in model on it, teach it to find, compare both on the test split.

    Args:
        out: folder for everything; an earlier demo there is replaced, anything else is refused.
        steps: optimizer steps.
        seed: of the images and of the training.
        quiet: show no progress.

    Raises:
        ConfigError: `out` holds something that is no demo.
        SystemExit: a signal ended the training.
    """
    from samtune.synthetic.demo_export import write_demo_export

    console = stderr_console(quiet=quiet)
    paths = {name: out / name for name in ("export", "dataset", "run", "comparison")}
    _clear(out)
    console.print("1/5  drawing cells under a microscope, laid out like a Roboflow export", highlight=False)
    with progress("drawing", quiet=quiet) as advance:
        write_demo_export(paths["export"], seed, advance)
    console.print("2/5  preparing: one mask file per object, and the table", highlight=False)
    api.prepare(paths["export"], paths["dataset"], PrepareConfig(), quiet=quiet)
    console.print("3/5  tuning the mask decoder on box prompts", highlight=False)
    settings = TrainConfig(
        model="nano",
        out=paths["run"],
        steps=steps,
        seed=seed,
        eval_every=max(1, steps // 2),
        eval_objects=60,
        prompts=PromptPolicy(preset="boxes"),  # what a short demo has time for
    )
    interrupted = api.train(paths["dataset"], settings, finder=False, quiet=quiet).signal
    if interrupted:
        raise SystemExit(128 + interrupted)
    console.print("4/5  teaching the run to find cells by itself, without prompts", highlight=False)
    finder = FinderConfig(steps=min(steps, FINDER_STEPS), rounds=1, width=FINDER_WIDTH, dropout=0.0, looks=1, seed=seed)
    api.train_finder(paths["run"], finder, quiet=quiet)
    console.print("5/5  base and tuned model on the test split, which neither has seen", highlight=False)
    comparison = api.compare(
        paths["dataset"],
        "nano",
        paths["run"],
        paths["comparison"],
        EvalConfig(jitter=(0.1,), mask_prompt=False, clicks=1),
        guard_scenes=GUARD_SCENES,
        quiet=quiet,
    )
    assert comparison.finds is not None, "the run has just got a finder"
    return DemoResult(
        verdict=str(comparison.verdict),
        found=comparison.finds.in_short(),
        paths=paths | {"report": paths["comparison"] / "report.html"},
        is_better=comparison.is_better,
    )


def _clear(out: Path) -> None:
    """Make room for a demo where an earlier one or nothing is."""
    check_output(out, mark=_MARK, earlier="an earlier demo")
    with storage_errors(out):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        (out / _MARK).touch()
