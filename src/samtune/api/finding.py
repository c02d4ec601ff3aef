"""Finding objects without prompts: train a finder, find, measure it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.api.evaluation import _base_of
from samtune.api.loading import predictor_of
from samtune.config import AutomaticConfig, FindConfig, FinderConfig, FindEvalConfig, PredictConfig
from samtune.errors import DataError, ModelError
from samtune.utils.progress import progress, stages

if TYPE_CHECKING:
    from samtune.api.loading import Model
    from samtune.finder.evaluation import FindEvaluation
    from samtune.finder.files import FindReport
    from samtune.finder.grid import GridFit
    from samtune.finder.run import FinderReport


def train_finder(
    run: Path | str,
    config: FinderConfig | None = None,
    *,
    unlabelled: Path | str | None = None,
    quiet: bool = False,
) -> FinderReport:
    """Teach a finished run to find its dataset's objects by itself, and to name them; see docs/finder.md.

    Args:
        run: folder of a run; the finder is written into it, in place of an earlier one.
        config: how; nothing about the run is changed.
        unlabelled: folder of images that nobody labelled, to learn from too, where validation gains by it.
        quiet: show no progress.

    Raises:
        DataError: the run's dataset or an unlabelled image cannot be read, the training split has no object, or all
            unlabelled images are in the dataset.
        ConfigError: unlabelled images, and nothing held out to choose on.
        ModelError: the folder is no run.
        StorageError: the disk refused.
    """
    from samtune.finder.run import add_finder
    from samtune.inference.files import image_files
    from samtune.training.run import open_embeddings

    config, folder = config or FinderConfig(), Path(run)
    files = [] if unlabelled is None else image_files(Path(unlabelled))
    predictor = predictor_of(folder, config.device)
    with stages(quiet=quiet) as advance:
        embeddings = open_embeddings(folder, predictor.loaded)
        return add_finder(folder, predictor, embeddings, config, unlabelled=files, progress=advance)


def find(
    images: Path | str,
    model: Path | str,
    out: Path | str,
    config: FindConfig | None = None,
    *,
    look: PredictConfig | None = None,
    quiet: bool = False,
) -> FindReport:
    """Find and name everything in images without prompts: COCO results, counts, one PNG mask per object, overlays.

    Args:
        images: one image, or a folder whose images are taken in the order of their names.
        model: a run with a finder.
        out: folder to write, as a whole or not at all; an earlier result there is replaced.
        config: which finds to keep.
        look: bands, pages and tiles of the images, where to compute, prompts per decoder call; it asks no prompts here.
        quiet: show no progress.

    Raises:
        ConfigError: no threshold gives the wanted precision or recall, or `out` holds something else.
        DataError: no images, or one that cannot be decoded.
        ModelError: the run has no finder, or one of another encoder.
        StorageError: the disk refused.
    """
    from samtune.finder.files import find_in_files
    from samtune.finder.storage import load_finder
    from samtune.inference.reading import reading_for

    finder, look = load_finder(Path(model)), look or PredictConfig()
    reading = reading_for(Path(model), look)
    predictor = predictor_of(model, look.device)
    finder.head.to(predictor.device)
    with progress("finding", quiet=quiet) as advance:
        return find_in_files(
            Path(images), predictor, finder, Path(out), config or FindConfig(), look=look, reading=reading,
            progress=advance,
        )  # fmt: skip


def fit_grid(
    run: Path | str,
    *,
    dataset: Path | str | None = None,
    split: Literal["train", "valid", "test"] = "valid",
    config: AutomaticConfig | None = None,
    most_images: int = 32,
    device: str = "auto",
    quiet: bool = False,
) -> GridFit:
    """Choose the thresholds with which a run finds everything by a grid of clicks, on annotated images.

    Args:
        run: folder of a run; the thresholds are kept in it, and `predict` uses them where none are given.
        dataset: folder that `prepare` wrote; left out, the run's own.
        split: annotated images; those that training learned from would flatter.
        config: the grid.
        most_images: at most so many images are looked at.
        device: where to compute.
        quiet: show no progress.

    Raises:
        DataError: no dataset, or no objects in the split.
        ModelError: the folder is no run.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.finder.grid import fit_grid as fit
    from samtune.inference.reading import dataset_of
    from samtune.inference.thresholds import write_thresholds

    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise ModelError.of(expected="the folder of a run", found="none", where=str(folder))
    source = dataset_of(folder) if dataset is None else Path(dataset)
    if source is None:
        raise DataError.of(
            expected="the dataset the run was trained on",
            found="a folder that has gone",
            where=str(folder),
            do="name a prepared one: --dataset DATASET",
        )
    predictor = predictor_of(folder, device)
    with progress("looking", quiet=quiet) as advance:
        found = fit(Dataset.open(source), split, predictor, config or AutomaticConfig(), most_images, progress=advance)
    write_thresholds(folder, found.thresholds)
    return found


def evaluate_finder(
    dataset: Path | str,
    model: Path | str,
    config: FindEvalConfig | None = None,
    *,
    base: Model | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
) -> FindEvaluation:
    """Measure a run's finder on a split: mask AP beside a grid of clicks, the base model and the true boxes.

    Args:
        dataset: folder that `prepare` wrote.
        model: a run with a finder.
        config: split, threshold, device.
        base: the model before tuning; left out, the one the run was tuned from, where that can be found.
        out: folder to write the figures, the objects as COCO and the finds as COCO results to.
        quiet: show no progress.

    Raises:
        ConfigError: no threshold gives the wanted precision or recall, or `out` holds something else.
        DataError: the split has no objects, or none of the finder's classes.
        ModelError: the run has no finder, or one of another encoder.
        StorageError: the disk refused.
    """
    from samtune.data.table import Dataset
    from samtune.finder.evaluation import FIGURES, evaluate_finder
    from samtune.finder.storage import load_finder
    from samtune.utils.output_folders import check_output

    config = config or FindEvalConfig()
    finder = load_finder(Path(model))
    if out is not None:
        check_output(Path(out), mark=FIGURES, earlier="an earlier evaluation of a finder")
    tuned = predictor_of(model, config.device)
    finder.head.to(tuned.device)
    before = _base_of(tuned, config.device) if base is None else predictor_of(base, config.device)
    with progress("finding", quiet=quiet) as advance:
        found = evaluate_finder(Dataset.open(Path(dataset)), tuned, before, finder, config, progress=advance)
    if out is not None:
        found.save(Path(out))
    return found
