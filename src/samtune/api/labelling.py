"""Labelling on: how much data is enough, and which images to label next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samtune.api.loading import name_of, predictor_of
from samtune.config import CurveConfig, RankConfig, TrainConfig
from samtune.utils.progress import stages

if TYPE_CHECKING:
    from samtune.api.loading import Model
    from samtune.labelling.curve import DataCurve
    from samtune.labelling.ranking import Ranking


def curve(
    dataset: Path | str,
    out: Path | str,
    config: CurveConfig | None = None,
    settings: TrainConfig | None = None,
    *,
    quiet: bool = False,
) -> DataCurve:
    """Tune on growing shares of the training groups, measure each run on held-out images, and estimate more images.

    Interrupted, the same call goes on where it was.

    Args:
        dataset: folder that `prepare` wrote.
        out: folder to write: `curve.json`, `curve.csv`, `curve.png` and the evaluation of every run.
        config: shares, seeds, split.
        settings: of every run, but for its seed, its share and its folder.
        quiet: show no progress.

    Raises:
        ConfigError: `out` holds something else, or a curve of other settings or of another dataset.
        DataError: too few groups to take some away or to measure on, or an image cannot be read.
        ModelError: the model cannot be loaded.
        StorageError: the disk refused.
        SystemExit: a signal ended a run.
    """
    from samtune.labelling.curve import measure_curve

    config, settings = config or CurveConfig(), settings or TrainConfig()
    with stages(quiet=quiet) as advance:
        return measure_curve(Path(dataset), Path(out), config, settings, progress=advance)


def rank_images(
    images: Path | str,
    model: Model,
    config: RankConfig | None = None,
    *,
    out: Path | str | None = None,
    quiet: bool = False,
) -> Ranking:
    """Rank images that nobody has labelled: where the model is unsure, and what is unlike the labelled ones, first.

    Args:
        images: one image, or a folder of them.
        model: a run, whose finder and dataset are used; or any other model by name or path, or a loaded one.
        config: weights, prompts, the labelled dataset where the model is no run.
        out: JSON file to write; a CSV file of the same name is written beside it.
        quiet: show no progress.

    Raises:
        DataError: no images, none that can be read, or a labelled dataset that cannot.
        ModelError: the model cannot be loaded, or its finder is of another encoder.
        StorageError: the disk refused.
    """
    from samtune.data.reading import PLAIN
    from samtune.data.table import Dataset
    from samtune.finder.finding import check_fits
    from samtune.finder.storage import FILE, FOLDER, load_finder
    from samtune.labelling.ranking import kept_embeddings, labelled_images
    from samtune.labelling.ranking import rank_images as rank
    from samtune.training.run import open_embeddings

    config = config or RankConfig()
    predictor = predictor_of(model, config.device)
    run = Path(model) if isinstance(model, str | Path) and (Path(model) / "run.json").is_file() else None
    finder = load_finder(run) if run is not None and (run / FOLDER / FILE).is_file() else None
    if finder is not None:
        check_fits(finder, predictor)
        finder.head.to(predictor.device)
    with stages(quiet=quiet) as advance:
        data, known = None, None
        if config.labelled is not None:
            opened = data = Dataset.open(config.labelled)
            known = labelled_images(data, lambda image: predictor.embed(opened.read_image(image)), advance)
        elif run is not None:
            source = open_embeddings(run, predictor.loaded)
            data = source.dataset
            known = labelled_images(data, kept_embeddings(source), advance)
        found = rank(
            Path(images),
            predictor,
            config,
            name=name_of(model, predictor),
            finder=finder,
            labelled=known,
            reading=PLAIN if data is None else data.reading,
            progress=advance,
        )
    if out is not None:
        found.save(Path(out))
    return found
