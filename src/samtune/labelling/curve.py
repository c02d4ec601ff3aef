"""`samtune curve`: tuning on growing shares of the training groups, measured on held-out images; can be interrupted.

OUT/settings.json    what is measured; the same command goes on where it was interrupted, another one is refused
OUT/points/          an evaluation of the base model and of every run, `share-0.25-seed-1.json`
OUT/runs/            the run that is going on; removed when it is measured
OUT/curve.json       the table, the fitted curve and the forecast; curve.csv and curve.png beside it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from samtune.config import CacheConfig, CurveConfig, EvalConfig, TrainConfig
from samtune.data.prepare.spool import TABLE
from samtune.data.table import Dataset
from samtune.data.training_share import with_training_share
from samtune.errors import ConfigError, DataError
from samtune.evaluation.intervals import Summary, summarize
from samtune.evaluation.protocol import evaluate
from samtune.evaluation.results import KINDS, Evaluation
from samtune.inference.predictor import Predictor
from samtune.labelling.growth import Forecast, Measured, band, forecast
from samtune.model.io.load import load_model
from samtune.report.charts import data_curve_chart
from samtune.report.folder import DATA_CURVE
from samtune.runtime.device import choose_device, configure_process
from samtune.training.checkpoint import RunFolder, has_checkpoint, remove_folder
from samtune.training.loop import train
from samtune.training.run import new, removed_if_not_started, resumed
from samtune.training.tracking.files import file_listeners
from samtune.utils.checksums import sha256
from samtune.utils.files import new_file, storage_errors, write_json
from samtune.utils.output_folders import alone_in, check_output
from samtune.utils.results import Result
from samtune.utils.text import text_table

SETTINGS, POINTS, RUNS = "settings.json", "points", "runs"
FORMAT = 1
_BAND = 60
"""Places at which the fitted curve and its interval are written down."""
_NAMES = {"box": "boxes", "point": "clicks"}

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One share of the training groups, over all seeds.

    Attributes:
        share: of the training groups; 0 is the base model.
        images: training images, mean over the seeds.
        objects: annotated objects on them, likewise.
        ious: by prompt kind, the mean over held-out objects of their mean over seeds, with the interval over groups.
        seeds: by prompt kind, the mean after each seed's run.
    """

    share: float
    images: float
    objects: float
    ious: dict[str, Summary]
    seeds: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class DataCurve(Result):
    """Held-out IoU against the number of training images.

    Attributes:
        dataset: name of the dataset's folder.
        model: the base model.
        split: what was measured on.
        points: the base model, then the shares.
        forecasts: by prompt kind.
        measured: by prompt kind, what the forecasts rest on.
    """

    dataset: str
    model: str
    split: str
    points: tuple[CurvePoint, ...]
    forecasts: dict[str, Forecast]
    measured: dict[str, Measured]

    def lines(self) -> list[str]:
        """What to tell the user."""
        rows = [
            (f"{one.share:.0%}", f"{one.images:.0f}", f"{one.objects:.0f}", *(str(one.ious[kind]) for kind in KINDS))
            for one in self.points
        ]
        return [
            *text_table(("share", "images", "objects", "IoU of boxes", "IoU of clicks"), rows),
            *(f"{_NAMES[kind]:<10} {_forecast_text(one)}" for kind, one in self.forecasts.items()),
        ]

    def to_json(self) -> dict[str, Any]:
        """The content of `curve.json`, as in docs/evaluation.md."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "model": self.model,
            "split": self.split,
            "points": [asdict(one) for one in self.points],
            "forecasts": {kind: asdict(one) | {"band": self._band(kind)} for kind, one in self.forecasts.items()},
        }

    def _band(self, kind: str) -> dict[str, list[float]]:
        """The fitted curve and its interval, from no image to as many as are estimated."""
        found = self.forecasts[kind]
        at = np.linspace(0, found.images + found.more, _BAND).tolist()
        low, high = band(self.measured[kind], at).tolist()
        return {"images": at, "fitted": [found.curve.at(number) for number in at], "low": low, "high": high}


def measure_curve(
    dataset: Path,
    out: Path,
    config: CurveConfig,
    settings: TrainConfig,
    *,
    progress: Advance = lambda what, done, total: None,
) -> DataCurve:
    """Tune on growing shares of the training groups, measure each run, fit a curve.

    Args:
        dataset: folder of a prepared dataset.
        out: folder to write; what an earlier, interrupted call with the same settings has measured there is kept.
        config: shares, seeds, what to measure.
        settings: of every run, but for its seed, its share and its folder.
        progress: called with what is being done, runs done and their total.

    Raises:
        ConfigError: `out` holds something else, or a curve of other settings or of another dataset, or another process
            is at it.
        DataError: nothing to train on or to measure, or an image cannot be read.
        ModelError: the model cannot be loaded.
        StorageError: the disk refused.
        SystemExit: a signal ended a run; the same call goes on.
    """
    data = Dataset.open(dataset)
    _require_enough(data, config)
    _begin(dataset, out, config, settings)
    with alone_in(out, "a curve"):
        return _measured(data, dataset, out, config, settings, progress)


def _measured(
    data: Dataset, dataset: Path, out: Path, config: CurveConfig, settings: TrainConfig, progress: Advance
) -> DataCurve:
    """The points that are not there yet, and the curve through all of them."""
    plan = [(share, seed) for seed in range(config.seeds) for share in config.shares]
    found = {None: _point(out / POINTS / "base.json", lambda: Path(settings.model), data, config, settings)}
    results: dict[tuple[float, int], Evaluation] = {}
    for done, (share, seed) in enumerate(plan):
        progress("tuning on growing shares", done, len(plan))
        name = f"share-{share:g}-seed-{seed}"
        one = settings.model_copy(update={"train_share": share, "seed": seed, "out": out / RUNS / name})
        results[share, seed] = _point(
            out / POINTS / f"{name}.json", lambda run=one: _tuned(dataset, run), data, config, one
        )
    progress("tuning on growing shares", len(plan), len(plan))
    curve = _curve(data, config, settings, found[None], results)
    _write(out, curve)
    return curve


def _require_enough(data: Dataset, config: CurveConfig) -> None:
    """A curve needs groups to take away and groups to measure on."""
    for split, needed in (("train", 2), (config.split, 2)):
        groups = {image.group for image in data.split(split).images if image.single_objects}
        if len(groups) < needed:
            raise DataError.of(
                expected=f"objects from at least {needed} independent groups of images in the {split} split",
                found=str(len(groups)),
                where=str(data.root),
                do="split it anew (samtune prepare --split 0.6,0.2,0.2), or label more images",
            )


def _begin(dataset: Path, out: Path, config: CurveConfig, settings: TrainConfig) -> None:
    """Make the folder, or check that it is of the same measurement."""
    check_output(out, mark=SETTINGS, earlier="an earlier curve", inputs=[dataset])
    with storage_errors(dataset):
        table = sha256(dataset / TABLE)
    left_out = {"out", "name", "seed", "train_share"}
    wanted = {
        "format": FORMAT,
        "dataset": table,
        "curve": config.model_dump(mode="json"),
        "train": settings.model_dump(mode="json", exclude=left_out),
    }
    there = _read_settings(out / SETTINGS)
    if there is None:
        with storage_errors(out):
            (out / POINTS).mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS, wanted)
    elif (other := _first_other(there, wanted, "")) is not None:
        raise ConfigError.of(
            expected="the settings and the dataset that the curve in this folder was begun with",
            found=f"another {other}",
            where=str(out / SETTINGS),
            do="choose another --out, or remove the folder to begin anew",
        )


def _read_settings(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError):
        found = {}
    return found


def _first_other(there: Any, wanted: Any, name: str) -> str | None:
    """Name of the first setting that differs; None where all are the same."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        for key in wanted:
            other = _first_other(there.get(key), wanted[key], f"{name}.{key}" if name else key)
            if other is not None:
                return other
        return None
    return None if there == wanted else name


def _point(
    file: Path, model: Callable[[], Path], data: Dataset, config: CurveConfig, settings: TrainConfig
) -> Evaluation:
    """The evaluation in a file, or of the model that is made for it."""
    if file.is_file():
        return Evaluation.load(file)
    made = model()
    device = choose_device(settings.device)
    configure_process(device)
    asked = EvalConfig.exact_prompts(config.split, config.max_objects)
    keep = CacheConfig(cache_dir=settings.cache_dir, cache_limit=settings.cache_limit, cache_dtype="fp32")
    predictor = Predictor(load_model(made, device=device))
    found = evaluate(predictor, data, asked, keep=keep if settings.cache else None)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    found.save(file)
    if settings.out == made:
        remove_folder(RunFolder(made))
    return found


def _tuned(dataset: Path, settings: TrainConfig) -> Path:
    """The folder of a finished run; one that was interrupted goes on."""
    assert settings.out is not None
    folder = RunFolder(settings.out)
    if has_checkpoint(folder):
        run = resumed(folder.path)
    else:
        with storage_errors(folder.path):
            shutil.rmtree(folder.path, ignore_errors=True)
        run = new(dataset, settings)
    with removed_if_not_started(run), file_listeners(run.folder, run.config, run.state.progress.step) as listeners:
        finished = train(run, listeners)
    if finished.signal:
        raise SystemExit(128 + finished.signal)
    return folder.path


def _curve(
    data: Dataset,
    config: CurveConfig,
    settings: TrainConfig,
    base: Evaluation,
    results: dict[tuple[float, int], Evaluation],
) -> DataCurve:
    sizes = {(share, seed): _size_of(with_training_share(data, share, seed)) for share, seed in results}
    seeds = range(config.seeds)
    measured = {
        kind: Measured(
            images=np.array([[sizes[share, seed][0] for share in config.shares] for seed in seeds], float),
            ious=np.array([[results[share, seed].values(kind) for share in config.shares] for seed in seeds]),
            base=np.array(base.values(kind)),
            groups=base.groups,
        )
        for kind in KINDS
    }
    points = [CurvePoint(0.0, 0.0, 0.0, {k: base.summary(k) for k in KINDS}, dict.fromkeys(KINDS, ()))]
    for place, share in enumerate(config.shares):
        images, objects = np.mean([sizes[share, seed] for seed in seeds], axis=0).tolist()
        ious = {kind: summarize(one.ious[:, place].mean(0), one.groups) for kind, one in measured.items()}
        means = {kind: tuple(one.ious[:, place].mean(1).tolist()) for kind, one in measured.items()}
        points.append(CurvePoint(share, images, objects, {k: one for k, one in ious.items() if one}, means))
    return DataCurve(
        dataset=data.root.resolve().name,
        model=settings.model,
        split=config.split,
        points=tuple(points),
        forecasts={kind: forecast(one, config.more) for kind, one in measured.items()},
        measured=measured,
    )


def _size_of(data: Dataset) -> tuple[int, int]:
    """Training images and objects to learn from."""
    images = data.split("train").images
    return len(images), sum(len(image.single_objects) for image in images)


def _write(out: Path, curve: DataCurve) -> None:
    content = curve.to_json()
    rows = [
        {
            "share": point.share,
            "images": point.images,
            "objects": point.objects,
            "kind": kind,
            "iou": found.mean,
            "low": found.low,
            "high": found.high,
            "seeds": " ".join(f"{mean:.5f}" for mean in point.seeds[kind]),
        }
        for point in curve.points
        for kind, found in point.ious.items()
    ]
    with new_file(out / "curve.csv") as temporary:
        pl.DataFrame(rows).write_csv(temporary, line_terminator="\n")
    with new_file(out / "curve.png") as temporary:
        data_curve_chart(content).savefig(temporary, format="png", dpi=110)
    write_json(out / DATA_CURVE, content)


def _forecast_text(found: Forecast) -> str:
    check = "" if found.check is None else f"; the smaller shares alone estimated {found.check:.3f} for the largest"
    return f"{found.more} more images: {found.gain:+.3f} [{found.low:+.3f}, {found.high:+.3f}] IoU{check}"
