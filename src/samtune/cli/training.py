"""Commands that train, and those about the embeddings training keeps: train, find-train, pretrain, embed, cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number
from pydantic import Field

from samtune import api
from samtune.cli.common import AsJson, Flat, Quiet, say, show
from samtune.config import (
    AutomaticConfig,
    EmbedConfig,
    FinderConfig,
    PretrainConfig,
    SweepConfig,
    TrainableConfig,
    TrainConfig,
)
from samtune.config.base import Device
from samtune.errors import UsageError

cache = App(name="cache", help="The image embeddings kept on disk.")


class _Trainable(TrainableConfig):
    """The same settings, with a short option for the one that is used most."""

    train: Annotated[str, Parameter(name=("--train", "--trainable.train"))] = Field(
        default=TrainableConfig().train, description=TrainableConfig.model_fields["train"].description
    )


class TrainOptions(TrainConfig):
    """The settings of a training run as options."""

    # frozen, so that a narrower type is no danger; pyright does not see pydantic's model_config
    trainable: _Trainable = _Trainable()  # pyright: ignore[reportIncompatibleVariableOverride]

    def config(self) -> TrainConfig:
        """The same settings without their options."""
        return TrainConfig.model_validate(self.model_dump())


class FinderOptions(FinderConfig):
    """The settings of a finder as options."""

    classes: Annotated[Literal["all", "none"], Parameter(name=("--find-classes", "--classes"))] = Field(
        default=FinderConfig().classes, description=FinderConfig.model_fields["classes"].description
    )

    def config(self) -> FinderConfig:
        """The same settings without their options."""
        return FinderConfig.model_validate(self.model_dump())


def train(
    dataset: Path | None = None,
    *,
    settings: Annotated[TrainOptions, Flat] = TrainOptions(),
    config: Path | None = None,
    resume: Path | None = None,
    finder: bool | None = None,
    quiet: Quiet = False,
) -> int:
    """Tune a model on a dataset. The image and prompt encoders stay frozen unless --train says otherwise.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        config: YAML file with settings; options given here win over it. A run's config.yaml is such a file.
        resume: Run folder of an interrupted run: continue it, with its own dataset and settings.
        finder: Make a finder after training, for `predict --find`; left out, where that takes under 15 % more time.
    """
    if resume is not None:
        _refuse_beside_resume(resume, dataset, config, settings)
        result = api.resume(resume, finder=finder, quiet=quiet)
    elif dataset is not None:
        result = api.train(dataset, settings.config(), finder=finder, quiet=quiet)
    else:
        raise UsageError.of(
            expected="a dataset to train on",
            found="none",
            do="samtune train DATASET, or --config FILE with a dataset, or --resume RUN",
        )
    show(result)
    return 128 + result.signal if result.signal else 0


def _refuse_beside_resume(run: Path, dataset: Path | None, config: Path | None, settings: TrainOptions) -> None:
    """A run goes on as it was started, see docs/decisions/0073; what would be ignored is not taken in silence."""
    found = [*(["a dataset"] if dataset else []), *(["--config"] if config else [])]
    found += [f"--{name.replace('_', '-')}" for name in sorted(settings.model_fields_set)]
    if found:
        raise UsageError.of(
            expected="--resume RUN alone: a run goes on with the dataset and the settings it was started with",
            found=f"{', '.join(found)} beside it",
            do=f"leave that out; for other settings start a new run from its weights: --model {run}",
        )


def sweep(
    dataset: Path | None = None,
    *,
    search: Annotated[SweepConfig, Flat] = SweepConfig(),
    settings: Annotated[
        TrainOptions, Parameter(name="*", group="Settings that the search starts from", consume_multiple=True)
    ] = TrainOptions(),
    config: Path | None = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Search for settings of a training run within a budget of time; every trial is a run, the best is the winner.

    The validation split decides, by boxes and single clicks in all trials alike; the test split shows what it is worth.
    The search starts from the settings given here. The same command goes on with a search that was interrupted.

    Args:
        dataset: Folder that `samtune prepare` wrote, with a validation split.
        config: YAML file with settings; options given here win over it.
    """
    if dataset is None:
        raise UsageError.of(
            expected="a dataset to search on", found="none", do="samtune sweep DATASET, or --config FILE with a dataset"
        )
    result = api.sweep(dataset, settings.config(), search, quiet=quiet)
    show(result, as_json=as_json)
    return 128 + result.signal if result.signal else 0


def runs(
    folder: Path = Path("runs"),
    /,
    *,
    as_json: AsJson = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print the table as CSV.")] = False,
) -> None:
    """List the runs in a folder: what they reached on validation, and the settings in which they differ.

    Args:
        folder: Folder that holds run folders.
    """
    table = api.runs(folder)
    if as_csv and as_json:
        raise UsageError.of(expected="one of --csv and --json", found="both", do="leave one out")
    if as_csv:
        say(table.to_csv().rstrip("\n"))
    else:
        show(table, as_json=as_json)


def find_train(
    run: Path,
    /,
    *,
    unlabelled: Path | None = None,
    config: Annotated[FinderOptions, Flat] = FinderOptions(),
    quiet: Quiet = False,
) -> None:
    """Teach a finished run to find and name its dataset's objects without prompts, for `predict --find`.

    Args:
        run: Folder that `samtune train` made; the finder is written into it.
        unlabelled: Folder of images that nobody labelled. A second finder learns from what the first one is sure of
            there, and is kept where it finds better on validation; takes twice the time and more.
    """
    show(api.train_finder(run, config.config(), unlabelled=unlabelled, quiet=quiet))


def fit_grid(
    run: Path,
    /,
    *,
    dataset: Path | None = None,
    split: Literal["train", "valid", "test"] = "valid",
    points_per_side: Annotated[int, Parameter(validator=Number(gte=1, lte=128))] = AutomaticConfig().points_per_side,
    most_images: Annotated[int, Parameter(validator=Number(gte=1))] = 32,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Choose the thresholds of `predict --everything` for a finished run, on annotated images.

    Args:
        run: Folder that `samtune train` made; grid.json is written into it, and `predict --everything` uses it.
        dataset: Prepared dataset; left out, the run's own.
        split: Annotated images to choose on.
        points_per_side: Clicks per side of the grid.
        most_images: At most so many images are looked at.
    """
    config = AutomaticConfig(points_per_side=points_per_side)
    show(
        api.fit_grid(
            run, dataset=dataset, split=split, config=config, most_images=most_images, device=device, quiet=quiet
        )
    )


def pretrain(*, settings: Annotated[PretrainConfig, Flat] = PretrainConfig(), config: Path | None = None) -> None:
    """Train the small model, on procedural scenes and your own images. Takes hours on a CPU; run again to continue.

    Args:
        config: YAML file with settings, such as other stages; options given here win over it.
    """
    say(f"weights    {api.pretrain(settings)}")


def embed(dataset: Path, /, *, config: Annotated[EmbedConfig, Flat] = EmbedConfig(), quiet: Quiet = False) -> None:
    """Compute image embeddings ahead of training. What is in the cache is not computed again; interrupt as you like.

    Training does this by itself as it goes. Beforehand it can use several processes, or several GPUs under torchrun.

    Args:
        dataset: Folder that `samtune prepare` wrote.
    """
    show(api.embed(dataset, config, quiet=quiet))


@cache.command(name="info")
def cache_info(folder: Path, /) -> None:
    """Show what is kept, for which models, and how much space it takes.

    Args:
        folder: Dataset, or the cache folder itself.
    """
    show(api.cache_info(folder))


@cache.command(name="clear")
def cache_clear(folder: Path, /) -> None:
    """Remove all image embeddings. They are computed again when they are needed.

    Args:
        folder: Dataset, or the cache folder itself.
    """
    say("removed:")
    show(api.clear_cache(folder))
