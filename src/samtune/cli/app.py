"""The command line: `samtune.api` and `samtune.config`, nothing else.

Exit codes: 0 done, 1 failed, 2 bad input or usage, or a disk that refuses, 130 and 143 interrupted (a training run's
checkpoint is saved).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import cyclopts
import yaml
from cyclopts import App, Parameter
from cyclopts.config import Yaml
from pydantic import ValidationError
from rich.console import Console

from samtune import __version__, api
from samtune import demo as demonstration
from samtune.config import (
    BenchConfig,
    EmbedConfig,
    EvalConfig,
    PredictConfig,
    PrepareConfig,
    PretrainConfig,
    TrainConfig,
)
from samtune.errors import SamtuneError, UsageError

INTERRUPTED = 130

app = App(
    name="samtune",
    version=__version__,
    help="Tune Segment Anything 2 on your segmentation dataset, and learn honestly whether it helped.",
)
download = App(name="download", help="Download a dataset.")
cache = App(name="cache", help="The image embeddings kept on disk.")
app.command(download)
app.command(cache)

Flat = Parameter(name="*")
Out = Annotated[Path, Parameter(help="Folder to write.")]


@app.command
def demo(*, out: Out = Path("demo"), steps: int = demonstration.STEPS, seed: int = 0, quiet: bool = False) -> None:
    """Make a small dataset, tune the built-in model on it, judge it, write a report. Takes a few minutes on a laptop.

    Args:
        out: Folder for the export, the dataset, the run and the report; replaced when it is an earlier demo.
        steps: Optimizer steps.
        seed: Seed of the pictures and of the training.
        quiet: Show no progress.
    """
    _say(*demonstration.demo(out, steps=steps, seed=seed, quiet=quiet).lines())


@app.command
def prepare(
    source: Path, /, *, out: Out, config: Annotated[PrepareConfig, Flat] = PrepareConfig(), quiet: bool = False
) -> None:
    """Turn annotations into a dataset: one mask file per object and a table that links images and masks.

    Args:
        source: Roboflow export, zip of one, image folder with one annotation file, or another known format.
        quiet: Show no progress.
    """
    report = api.prepare(source, out, config, quiet=quiet)
    _say(*report.lines())


@app.command
def doctor(
    source: Path,
    /,
    *,
    source_format: str = "auto",
    images: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    html: Path | None = None,
    quiet: bool = False,
) -> int:
    """Say what is wrong with annotations and images before any training, and what `prepare` would do about it.

    Ends with 0 when there are at most warnings, and with 2 when there are errors.

    Args:
        source: What `prepare` takes.
        source_format: Format of the source; auto recognises it.
        images: Image folder, when the annotation file stands elsewhere.
        as_json: Print everything as JSON.
        html: Also write a page with pictures of the findings.
        quiet: Show no progress.
    """
    audit = api.doctor(source, source_format=source_format, images=images, html=html, quiet=quiet)
    print(json.dumps(audit.to_json(), indent=2) if as_json else audit.to_text())
    return audit.exit_code


@app.command
def train(
    dataset: Path | None = None,
    *,
    settings: Annotated[TrainConfig, Flat] = TrainConfig(),
    config: Path | None = None,
    resume: Path | None = None,
    quiet: bool = False,
) -> int:
    """Tune a model on a dataset. The image and prompt encoders stay frozen unless --train says otherwise.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        config: YAML file with settings; options given here win over it. A run's config.yaml is such a file.
        resume: Run folder of an interrupted run: continue it, with its own settings.
        quiet: Show no progress.
    """
    beside = [*(["a dataset"] if dataset else []), *(["--config"] if config else [])]
    beside += [f"--{name.replace('_', '-')}" for name in sorted(settings.model_fields_set)]
    if resume is not None and beside:
        raise UsageError.of(
            expected="--resume RUN alone: a run goes on with the dataset and the settings it was started with",
            found=f"{', '.join(beside)} beside it",
            do=f"leave that out; for other settings start a new run from its weights: --model {resume}",
        )
    if resume is None and dataset is None:
        raise UsageError.of(
            expected="a dataset to train on",
            found="none",
            do="samtune train DATASET, or --config FILE with a dataset, or --resume RUN",
        )
    result = api.resume(resume, quiet=quiet) if resume else api.train(Path(str(dataset)), settings, quiet=quiet)
    _say(*result.lines())
    return 128 + result.signal if result.signal else 0


@app.command
def evaluate(
    dataset: Path,
    /,
    *,
    model: str,
    out: Path | None = None,
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: bool = False,
) -> None:
    """Measure a model on a split: IoU and Dice for boxes and single clicks, beside what trivial guesses score.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        out: JSON file to write the figures of every object to.
        quiet: Show no progress.
    """
    _say(*api.evaluate(dataset, model, config, out=out, quiet=quiet).lines())


@app.command
def compare(
    dataset: Path,
    /,
    *,
    base: str = "nano",
    tuned: str,
    out: Out,
    config: Annotated[EvalConfig, Flat] = EvalConfig(),
    quiet: bool = False,
) -> None:
    """Measure two models on the same prompts, say whether they differ, and write a report with pictures.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        base: Model to compare with.
        tuned: Run or model that is judged.
        quiet: Show no progress.
    """
    comparison = api.compare(dataset, base, tuned, out, config, quiet=quiet)
    _say(*comparison.lines(), f"report     {Path(out) / 'report.html'}")


@app.command
def predict(
    images: Path,
    /,
    *,
    model: str,
    out: Out,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),
    quiet: bool = False,
) -> None:
    """Segment pictures with boxes or clicks: COCO results, PNG masks, overlay pictures.

    Args:
        images: One picture or a folder.
        model: nano, a hub name, a checkpoint file, a Hugging Face folder or a run.
        quiet: Show no progress.
    """
    _say(*api.predict(images, model, out, config, quiet=quiet).lines())


@app.command
def export(
    model: str,
    /,
    *,
    out: Out,
    format: Literal["official", "hf", "adapter"] = "official",
    comparison: Path | None = None,
) -> None:
    """Write a tuned model for other tools, load the result again, and compare its masks before saying done.

    Args:
        model: Run or model to export.
        format: official loads in the sam2 package, hf in transformers, adapter in peft.
        comparison: Folder that `samtune compare` wrote; its verdict goes into the model card.
    """
    _say(*api.export(model, out, format, comparison=comparison).lines())


@app.command
def bench(
    *,
    config: Annotated[BenchConfig, Flat] = BenchConfig(),
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: bool = False,
) -> None:
    """Measure how fast this machine tunes a model, and tell how long a run will take.

    Pictures are drawn, encoded and trained on, for real; nothing is kept. Takes a minute or two with nano, and some
    minutes with large models on a CPU.

    Args:
        as_json: Print everything as JSON: seconds, and 1e9 floating point operations.
        quiet: Show no progress.
    """
    report = api.bench(config, quiet=quiet)
    _say(*([json.dumps(report.to_json(), indent=2)] if as_json else report.lines()))


@app.command
def models() -> None:
    """List the models samtune knows by name."""
    Console().print(api.models_table())


@app.command
def embed(dataset: Path, /, *, config: Annotated[EmbedConfig, Flat] = EmbedConfig(), quiet: bool = False) -> None:
    """Compute image embeddings ahead of training. What is kept already is not computed again; interrupt as you like.

    Training does this by itself as it goes. Beforehand it can use several processes, or several GPUs under torchrun.

    Args:
        dataset: Folder that `samtune prepare` wrote.
        quiet: Show no progress.
    """
    _say(*api.embed(dataset, config, quiet=quiet).lines())


@cache.command(name="info")
def cache_info(folder: Path, /) -> None:
    """Show what is kept, for which models, and how much space it takes.

    Args:
        folder: Dataset, or the cache folder itself.
    """
    _say(*api.cache_info(folder).lines())


@cache.command(name="clear")
def cache_clear(folder: Path, /) -> None:
    """Remove all image embeddings. They are computed again when they are needed.

    Args:
        folder: Dataset, or the cache folder itself.
    """
    _say("removed:", *api.clear_cache(folder).lines())


@download.command
def roboflow(
    project: str, /, *, out: Out, format: Literal["coco-segmentation", "coco", "yolov8"] = "coco-segmentation"
) -> None:
    """Download a dataset version from Roboflow. The key is read from ROBOFLOW_API_KEY and written nowhere.

    Args:
        project: WORKSPACE/PROJECT/VERSION, or the https address of an export's zip.
        format: Export format.
    """
    _say(f"export     {api.download_roboflow(project, out, export_format=format)}")


@app.command
def pretrain(*, settings: Annotated[PretrainConfig, Flat] = PretrainConfig(), config: Path | None = None) -> None:
    """Train the small model from scratch on procedural scenes. Takes hours on a CPU; run again to continue.

    Args:
        config: YAML file with settings, such as other stages; options given here win over it.
    """
    _say(f"weights    {api.pretrain(settings)}")


def main(tokens: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with the documented exit code."""
    tokens = sys.argv[1:] if tokens is None else tokens
    try:
        app.config = _config_files(tokens)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_int_as_exit_code_else_zero")
    except SamtuneError as error:
        code = _complain(str(error), error.exit_code)
    except cyclopts.CycloptsError as error:
        code = _complain(_usage_message(error), UsageError.exit_code)
    except KeyboardInterrupt:
        code = _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone: `samtune doctor X | head`
        sys.stderr.close()
        code = 1
    sys.exit(code)


def _config_files(tokens: Sequence[str]) -> tuple[Yaml, ...]:
    """The YAML file named by --config, whose settings count where no option is given."""
    for name, value in zip(tokens, [*tokens[1:], ""], strict=True):
        if name == "--config" or name.startswith("--config="):
            file = Path(value if name == "--config" else name.removeprefix("--config="))
            if not file.is_file():
                raise UsageError.of(expected="a YAML file with settings", found="no such file", where=str(file))
            try:
                yaml.safe_load(file.read_bytes())
            except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
                found = " ".join(str(error).split())
                raise UsageError.of(expected="a YAML file with settings", found=found, where=str(file)) from error
            return (Yaml(file, use_commands_as_keys=False),)
    return ()


def _usage_message(error: cyclopts.CycloptsError) -> str:
    """What cyclopts or pydantic found wrong with an option or a YAML key, in one line for each mistake."""
    if not isinstance(error.__cause__, ValidationError):
        return f"{error}\nsee `samtune --help`, or `samtune COMMAND --help`"
    lines: list[str] = []
    for mistake in error.__cause__.errors(include_url=False):
        name = ".".join(str(part) for part in mistake["loc"])
        found = f", found {mistake['input']!r}" if name else ""
        lines.append(f"{'--' + name.replace('_', '-') + ': ' if name else ''}{mistake['msg']}{found}")
    return "\n".join(lines)


def _say(*lines: str) -> None:
    """Print results; of several processes under `torchrun` the main one alone does."""
    if os.environ.get("RANK", "0") != "0":
        return
    for line in lines:
        print(line)


def _complain(message: str, code: int) -> int:
    first, *rest = message.splitlines()
    print(f"samtune: {first}", *(f"         {line}" for line in rest), sep="\n", file=sys.stderr)
    return code
