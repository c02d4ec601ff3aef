"""Measuring on held-out images: evaluate, compare, blend, the prompts as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.api.loading import name_of, predictor_of
from samtune.config import ClipEvalConfig, EvalConfig
from samtune.errors import ConfigError, DataError
from samtune.utils.progress import progress, stages
from samtune.utils.results import Result
from samtune.utils.text import text_table

if TYPE_CHECKING:
    from samtune.api.loading import Model
    from samtune.data.table import Dataset
    from samtune.evaluation.blend import BlendPoint
    from samtune.evaluation.clips.results import ClipEvaluation
    from samtune.evaluation.fixed_prompts import PromptSet
    from samtune.evaluation.results import Evaluation
    from samtune.inference.predictor import Predictor
    from samtune.report.compared import Compared


GUARD_SCENES = 16
"""Procedural scenes that every comparison also looks at."""


def evaluate(
    dataset: Path | str,
    model: Model,
    config: EvalConfig | None = None,
    *,
    out: Path | str | None = None,
    prompts: Path | str | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Measure a model on a split: IoU and Dice for boxes and single clicks, beside what trivial guesses score.

    Args:
        dataset: folder that `prepare` wrote.
        model: a name, a path, or a loaded model.
        config: split, prompts, device.
        out: JSON file to write the figures of every object to; a Parquet file of the same name is written beside it.
        prompts: file of prompts to ask with, as `samtune write-prompts` writes it; made from the dataset if left out.
        quiet: show no progress.

    Raises:
        DataError: the split has no objects, an image or mask cannot be read, or the prompts are about other objects.
        ModelError: the model cannot be loaded.
    """
    from samtune.data.table import Dataset
    from samtune.evaluation.fixed_prompts import PromptSet
    from samtune.evaluation.protocol import evaluate as measure
    from samtune.runtime.distributed import join_processes

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    asked = None if prompts is None else PromptSet.load(Path(prompts))
    with progress("measuring", quiet=quiet) as advance:
        predictor = predictor_of(model, config.device)
        processes = join_processes()
        found = measure(predictor, data, config, prompts=asked, processes=processes, progress=advance)
    if out is not None and processes.is_main:
        found.save(Path(out))
    return found


def evaluate_clips(
    clips: Path | str,
    model: Model,
    config: ClipEvalConfig | None = None,
    *,
    base: Model | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
) -> ClipEvaluation:
    """Measure how well a model follows objects through annotated clips: J, F and J&F, of base and tuned.

    Args:
        clips: folder in the layout of DAVIS, YouTube-VOS or MOSE, see docs/video.md.
        model: a name, a path, or a loaded model; one with video weights.
        config: split, prompts, device.
        base: the model before tuning, likewise; if left out, the one that `model` was tuned from, where it is at hand.
        out: JSON file to write the figures of every object to.
        quiet: show no progress.

    Raises:
        DataError: no such split, a clip without objects, a frame or an annotation that cannot be read.
        ModelError: a model cannot be loaded, or has no video weights.
        StorageError: the disk refused.
    """
    from samtune.evaluation.clips.davis import annotated_clips
    from samtune.evaluation.clips.protocol import follow_clips, stand_still
    from samtune.evaluation.clips.results import ClipEvaluation
    from samtune.model.video import video_model
    from samtune.utils.files import write_json

    config = config or ClipEvalConfig()
    found = annotated_clips(Path(clips), config.split)
    tuned = predictor_of(model, config.device)
    before = predictor_of(base, config.device) if base is not None else _base_of(tuned, config.device)
    if base is None and before is not None and before.loaded.fingerprint() == tuned.loaded.fingerprint():
        before = None
    models = [video_model(one.loaded) for one in (tuned, before) if one is not None]
    with stages(quiet=quiet) as advance:
        scores = [
            follow_clips(one, found, config.prompt, progress=partial(advance, what))
            for one, what in zip(models, ("following", "following with the base model"), strict=False)
        ]
    result = ClipEvaluation(
        model=name_of(model, tuned),
        prompt=config.prompt,
        split=config.split,
        scores=scores[0],
        still=stand_still(found),
        base="" if before is None else before.loaded.name,
        base_scores=None if before is None else scores[1],
    )
    if out is not None:
        write_json(Path(out), result.to_json())
    return result


def holds_clips(folder: Path) -> bool:
    """Whether a folder has annotated clips, and is no prepared dataset."""
    from samtune.evaluation.clips.davis import is_clip_set

    return is_clip_set(folder)


def compare(
    dataset: Path | str,
    base: Model,
    tuned: Model | Sequence[Model],
    out: Path | str,
    config: EvalConfig | None = None,
    *,
    guards: Sequence[Path | str] = (),
    guard_scenes: int = GUARD_SCENES,
    automatic: bool = False,
    find: bool = True,
    curve: Path | str | None = None,
    quiet: bool = False,
) -> Compared:
    """Measure models on the same prompts, say whether to use the tuned one, and write figures and `report.html`.

    Processes that `torchrun` has started share the images; all get the same comparison, and the first one writes.

    Args:
        dataset: folder that `prepare` wrote.
        base: the model to compare with: a name, a path, or a loaded model.
        tuned: the run or model in question, likewise; or several, which are ranked. The verdicts are corrected for
            their number.
        out: folder to write; an earlier comparison there is replaced, anything else is refused.
        config: split, prompts, device.
        guards: further datasets, of images unlike these, on which the tuned model should be as good as the base.
        guard_scenes: procedural scenes that are one more such guard; 0 leaves them out.
        automatic: also measure the masks that a grid of clicks finds, AP, AR and counts; takes seconds an image.
        find: also measure what the tuned run's finder finds without prompts, where it has one.
        curve: folder that `samtune curve` wrote, to show in the report.
        quiet: show no progress.

    Returns:
        The comparison of the tuned model, or of the best of several, with the base.

    Raises:
        ConfigError: `out` holds something that is no comparison.
        DataError: the split has objects on one image alone or on none, an image or mask cannot be read, or a run was
            tuned on images of the split.
        ModelError: a model cannot be loaded.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.evaluation.protocol import encoder_of
    from samtune.inference.remembering import EmbeddingMemory, RememberingPredictor
    from samtune.report.build import build_report
    from samtune.report.folder import data_curve_in
    from samtune.runtime.distributed import join_processes
    from samtune.training.identity import require_held_out

    config = config or EvalConfig()
    data = Dataset.open(Path(dataset))
    others = [Dataset.open(Path(guard)) for guard in guards]
    data_curve = None if curve is None else data_curve_in(Path(curve))
    candidates = list(tuned) if isinstance(tuned, Sequence) and not isinstance(tuned, str) else [tuned]
    models = [base, *candidates]
    for model in models:
        if isinstance(model, str | Path):
            require_held_out(Path(model), data, config.split)
    _require_several_images(data, config.split)
    memory = EmbeddingMemory()
    loaded = [predictor_of(model, config.device) for model in models]
    loaded = [RememberingPredictor(one, encoder_of(one), memory) for one in loaded]
    with stages(quiet=quiet) as advance:
        return build_report(
            data,
            loaded[0],
            loaded[1:],
            Path(out),
            config,
            names=[name_of(model, predictor) for model, predictor in zip(models, loaded, strict=True)],
            guards=others,
            scenes=guard_scenes,
            automatic=automatic,
            find=find,
            data_curve=data_curve,
            runs=[Path(one) if isinstance(one, str | Path) else None for one in candidates],
            processes=join_processes(),
            progress=advance,
        )[0]


@dataclass(frozen=True, slots=True)
class BlendResult(Result):
    """What `blend` wrote.

    Attributes:
        out: the model folder, usable wherever a model is asked for.
        alpha: 0 is the base model, 1 the tuned one.
        points: the blends that were measured; empty where alpha was given.
    """

    out: Path
    alpha: float
    points: tuple[BlendPoint, ...]

    def lines(self) -> list[str]:
        """What to tell the user."""
        rows = [
            (f"{one.alpha:g}", *(f"{gain:+.3f}" for gain in one.gains.values()), ", ".join(one.damaged) or "-")
            for one in self.points
        ]
        table = text_table(("alpha", "boxes", "clicks", "damaged"), rows) if rows else []
        taken = f"alpha {self.alpha:g}"
        if rows and not self.alpha:
            taken += ", the base model: no blend gains without damage"
        return [*table, f"blend      {taken}", f"model      {self.out}"]


def blend(
    base: Model,
    tuned: Model,
    out: Path | str,
    alpha: float | Literal["auto"] = "auto",
    *,
    dataset: Path | str | None = None,
    config: EvalConfig | None = None,
    guards: Sequence[Path | str] = (),
    guard_scenes: int = GUARD_SCENES,
    quiet: bool = False,
) -> BlendResult:
    """Write a model between two: the tuned model's gain without what it damaged, as far as both can be had.

    Args:
        base: the model that `tuned` was tuned from: a name, a path, or a loaded model.
        tuned: likewise; a loaded one has the weights of the blend afterwards.
        out: model folder to write; an earlier blend there is replaced, anything else is refused.
        alpha: 0 is the base model, 1 the tuned one; `auto` measures up to fourteen of them on the validation split.
        dataset: what `auto` measures on; the run's own dataset if left out.
        config: split, prompts, device.
        guards: further datasets, of images unlike these, on which the blend should be as good as the base.
        guard_scenes: procedural scenes that are one more such guard; 0 leaves them out.
        quiet: show no progress.

    Raises:
        ConfigError: `alpha` out of range, no dataset to measure on, or `out` holds something that is no blend.
        ModelError: a model cannot be loaded, or they are of different architectures.
        DataError: the split or a guard has no objects, or an image cannot be read.
        StorageError: the disk refused.
    """
    from samtune.evaluation.blend import BLEND, best_of, write_blend
    from samtune.report.blend import measure_blends
    from samtune.utils.output_folders import check_output

    if alpha != "auto" and not 0 <= alpha <= 1:
        raise ConfigError.of(expected="auto, or a number from 0 to 1", found=str(alpha), where="--alpha")
    check_output(Path(out), mark=BLEND, earlier="an earlier blend")
    data = _dataset_for_blend(tuned, dataset) if alpha == "auto" else None
    config = config or EvalConfig(split="valid")
    first, second = (predictor_of(model, config.device).loaded for model in (base, tuned))
    points: list[BlendPoint] = []
    if data is not None:
        with stages(quiet=quiet) as advance:
            others = [Path(guard) for guard in guards]
            points = measure_blends(first, second, data, config, others, guard_scenes, progress=advance)
    chosen = best_of(points).alpha if points else float(alpha)
    write_blend(first, second, chosen, points, Path(out))
    return BlendResult(Path(out), chosen, tuple(points))


def _require_several_images(dataset: Dataset, split: str) -> None:
    """Refuse to compare on one image: nothing says then how much of a difference is chance."""
    images = [image for image in dataset.split(split).images if image.single_objects]
    if len(images) == 1:
        raise DataError.of(
            expected=f"at least two images with objects in the {split} split, for an interval",
            found=f"one, {images[0].image_path}",
            where=str(dataset.root),
            do="annotate more images or give this split a larger share; samtune evaluate measures a single image",
        )


def _dataset_for_blend(tuned: Model, dataset: Path | str | None) -> Path:
    """The dataset that was given, or that a run was tuned on."""
    from samtune.training.checkpoint import RunFolder, read_settings

    if dataset is not None:
        return Path(dataset)
    if isinstance(tuned, str | Path) and (Path(tuned) / "run.json").is_file():
        return read_settings(RunFolder(Path(tuned)))[0]
    raise ConfigError.of(
        expected="a dataset to measure blends on, because the tuned model is no run that names one",
        found="none",
        do="give --dataset DATASET, or --alpha a number",
    )


def write_prompts(
    dataset: Path | str, out: Path | str, config: EvalConfig | None = None, *, quiet: bool = False
) -> PromptSet:
    """Write the prompts of an evaluation to a JSON file that any model, and other tools, can be asked with.

    Args:
        dataset: folder that `prepare` wrote.
        out: file to write; docs/evaluation.md has its schema.
        config: split and prompts.
        quiet: show no progress.

    Raises:
        DataError: the split has no objects, or a mask cannot be read.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.evaluation.fixed_prompts import make_prompts

    with progress("making prompts", quiet=quiet) as advance:
        made = make_prompts(Dataset.open(Path(dataset)), config or EvalConfig(), progress=advance)
    made.save(Path(out))
    return made


def _base_of(tuned: Predictor, device: str) -> Predictor | None:
    """The model that another was tuned from, by its name; None where it is not to be had any more."""
    from samtune.errors import ModelError

    try:
        return predictor_of(tuned.loaded.base, device)
    except ModelError:
        return None
