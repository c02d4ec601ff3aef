"""Making a finder: its network is trained, its scores calibrated, its threshold chosen, and what it is worth is said.

Steps, calibration and threshold are chosen on the validation split. A dataset without one lends a fifth of its training
groups, which the network then does not learn from; the decoder has seen them, and the finder says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from samtune.config import FinderConfig
from samtune.data.low_res import LowResTargets
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.cache import encoder_fingerprint
from samtune.embeddings.dataset import DatasetEmbeddings
from samtune.errors import ConfigError
from samtune.evaluation.protocol import measure, read_truth
from samtune.finder.calibration import calibration_error, fit
from samtune.finder.caveats import sides_of
from samtune.finder.finding import find
from samtune.finder.matching import OperatingPoint, at_half_of_best_f1, match, operating_points
from samtune.finder.measure import RIGHT, FoundImage, TrueImage, read_true, right_finds
from samtune.finder.name_training import learn_to_name, seen_from
from samtune.finder.naming import Namer
from samtune.finder.proposals import box_iou
from samtune.finder.results import Finder, Finds, Quality
from samtune.finder.training import FinderExample, TrainedHead, box_f1, read_examples, some_of, train_head
from samtune.finder.unlabelled import label_by_itself, not_in
from samtune.inference.predictor import Predictor
from samtune.inference.thresholds import read_thresholds

LENT = 0.2
"""Share of the training groups that are held back where there is no validation split."""
RARE = 5
"""A class with fewer training examples is named as too rare."""

Advance = Callable[[str, int, int], None]
"""Told of what is going on, how much of it is done, and the total."""


@dataclass(frozen=True)
class Lessons:
    """What a finder is made from: images to learn from, images to choose on, and where the latter come from."""

    train: tuple[ImageEntry, ...]
    valid: tuple[ImageEntry, ...]
    chosen_on: str


def choose_lessons(dataset: Dataset, seed: int) -> Lessons:
    """The training split to learn from and the validation split to choose on, or a part of the training split."""
    train, valid = dataset.split("train").images, dataset.split("valid").images
    if any(image.single_objects for image in valid):
        return Lessons(train, valid, f"the {len(valid)} images of the validation split")
    groups = sorted({image.group for image in train})
    if len(groups) < 2:
        return Lessons(train, (), "nothing: there is neither a validation split nor a second group of training images")
    lent = set(np.random.default_rng(seed).permutation(groups)[: max(1, round(LENT * len(groups)))].tolist())
    held = tuple(image for image in train if image.group in lent)
    rest = tuple(image for image in train if image.group not in lent)
    words = f"{len(held)} training images the finder did not learn from, but the decoder did: flattering"
    return Lessons(rest, held, words)


def classes_to_learn(train: Sequence[ImageEntry], config: FinderConfig) -> tuple[str, ...]:
    """Names in the order of their numbers; none where one is all there is, or none are wanted."""
    present = {one.category for image in train for one in image.single_objects}
    return tuple(sorted(present)) if config.classes == "all" and len(present) > 1 else ()


def make_finder(
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    config: FinderConfig,
    *,
    unlabelled: Sequence[Path] = (),
    progress: Advance | None = None,
) -> Finder:
    """Train a finder on a dataset's own masks.

    Args:
        predictor: the tuned model, whose decoder draws the masks.
        embeddings: of the dataset's images, from the same encoder.
        config: how.
        unlabelled: images that are not in the dataset; a second finder learns from the first one's finds in them too,
            and is kept where its finds have a higher F1 on held-out images.
        progress: told of the stages.

    Raises:
        DataError: the training split has no object, an unlabelled image cannot be read, or all are in the dataset.
        ConfigError: nothing is held out that would tell which finds in unlabelled images are right.
    """
    advance = progress or (lambda what, done, total: None)
    lessons = choose_lessons(embeddings.dataset, config.seed)
    if not unlabelled:
        return _made(predictor, embeddings, lessons, config, advance)
    if not any(image.single_objects for image in lessons.valid):
        raise ConfigError.of(
            expected="held-out images, which tell what finds in unlabelled images are right",
            found="neither a validation split nor a second group of training images",
            where=str(embeddings.dataset.root),
            do="leave out --unlabelled, or prepare the dataset with a validation split",
        )
    files = not_in(embeddings.dataset, unlabelled)
    first = _made(predictor, embeddings, lessons, config, advance)
    with TemporaryDirectory(prefix="samtune-") as folder:
        found = label_by_itself(
            predictor, embeddings, first, files, Path(folder),
            progress=lambda done, total: advance("unlabelled images", done, total),
        )  # fmt: skip
        more = replace(lessons, train=(*lessons.train, *found.images))
        second = _made(predictor, found.embeddings, more, config, advance)
    before, after = (one.quality.point.f1 if one.quality else 0.0 for one in (first, second))
    kept = second if after > before else first
    about = {"images": len(files), "sure": found.sure, "unsure": found.unsure, "f1": [before, after]}
    return replace(kept, about=kept.about | {"unlabelled": about}, rare=first.rare, sides=first.sides)


def _made(
    predictor: Predictor, embeddings: DatasetEmbeddings, lessons: Lessons, config: FinderConfig, advance: Advance
) -> Finder:
    """A finder from some lessons."""
    dataset = embeddings.dataset
    counts = Counter(one.category for image in lessons.train for one in image.single_objects)
    classes = classes_to_learn(lessons.train, config)
    low_res = LowResTargets(dataset, predictor.loaded.mask_size)
    train, valid = (read_examples(images, low_res, classes) for images in (lessons.train, lessons.valid))
    trained = train_head(
        embeddings, train, valid, low_res, classes, config, progress=lambda done, all: advance("finder", done, all)
    )
    looks = config.looks or _looks(trained, embeddings, valid)
    namer, named = Namer(), None
    if classes:
        namer, named = learn_to_name(predictor, embeddings, trained.head, train, valid, low_res, classes, config, looks)
    finder = Finder(
        head=trained.head,
        classes=classes or _only(counts, config),
        namer=namer,
        most=trained.most,
        looks=looks,
        image_size=predictor.loaded.image_size,
        encoder=encoder_fingerprint(predictor.loaded.model),
        decoder=predictor.loaded.fingerprint(),
        chosen_on=lessons.chosen_on,
        rare=_rare(dataset, counts) if config.classes == "all" else (),
        sides=sides_of(lessons.train),
        about={
            "dataset": dataset.root.resolve().name,
            "config": config.model_dump(mode="json"),
            "images": len(train),
            "step": trained.step,
            "train_f1": box_f1(trained.head, embeddings, some_of(train), trained.most),
            "history": [asdict(one) for one in trained.history],
        },
    )
    return _proven(finder, predictor, embeddings, valid, named, lambda done, all: advance("calibrating", done, all))


def _looks(trained: TrainedHead, embeddings: DatasetEmbeddings, valid: Sequence[FinderExample]) -> int:
    """2 where boxes of held-out images get better by a look at the mirror image, which costs an encoding; else 1."""
    if not any(len(one.truth) for one in valid):
        return 1
    once, twice = (box_f1(trained.head, embeddings, valid, trained.most, looks) for looks in (1, 2))
    return 2 if twice > once else 1


def _rare(dataset: Dataset, counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Classes with too few training examples, and how many; those that only held-out images show have none."""
    every = {one.category for image in dataset.images for one in image.single_objects}
    return tuple((name, counts[name]) for name in sorted(every) if counts[name] < RARE) if len(every) > 1 else ()


def _only(counts: Counter[str], config: FinderConfig) -> tuple[str, ...]:
    """The name of the only class there is: it need not be learned."""
    return tuple(counts) if config.classes == "all" and len(counts) == 1 else ()


def _proven(
    finder: Finder,
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    valid: Sequence[FinderExample],
    named: float | None,
    progress: Callable[[int, int], None],
) -> Finder:
    """The finder with its scores calibrated, its thresholds known and its quality measured, as far as `valid` goes."""
    objects = sum(len(one.truth) for one in valid)
    if not objects:
        return finder
    raw: list[Finds] = []
    truth: list[TrueImage] = []
    met: list[np.ndarray] = []
    outlined = list[float]()
    for done, one in enumerate(valid, start=1):
        seen = seen_from(embeddings, one.image, finder.looks)
        raw.append(find(predictor, seen, finder))
        truth.append(read_true(embeddings.dataset, one.image, finder.classes))
        met.append(_met(raw[-1], one.image))
        regions = [read_truth(embeddings.dataset, found) for found in one.image.single_objects]
        answers = measure(predictor, seen.embedded, "box", one.image.single_objects, regions, 32)
        outlined += [answer.iou for answer in answers]
        progress(done, len(valid))
    images = [FoundImage.of(finds) for finds in raw]
    right, counted = _judged(truth, images)
    evidence = np.concatenate([finds.evidence for finds in raw])
    calibrated = replace(finder, calibration=fit(evidence[counted], right[counted]))
    images = [one.rescored(calibrated.calibration(finds.evidence)) for one, finds in zip(images, raw, strict=True)]
    right, counted = _judged(truth, images)  # calibrated scores rank anew, which changes who is matched to whom
    right, scores = right[counted], np.concatenate([one.scores for one in images])[counted]
    points = tuple(operating_points(scores, right, objects))
    history = finder.about["history"]
    grid = read_thresholds(predictor.loaded)
    quality = Quality(
        images=len(valid),
        objects=objects,
        point=at_half_of_best_f1(scores, right, objects),
        found=float(np.concatenate(met).mean()),
        outlined=float(np.mean([iou >= RIGHT for iou in outlined])),
        named=named,
        train_f1=finder.about["train_f1"],
        valid_f1=max((one["f1"] for one in history), default=0.0),
        calibration_error=calibration_error(scores, right),
        grid_f1=OperatingPoint(0.0, grid.precision, grid.recall).f1 if grid else None,
    )
    return replace(calibrated, points=points, quality=quality)


def _judged(truth: Sequence[TrueImage], images: Sequence[FoundImage]) -> tuple[np.ndarray, np.ndarray]:
    """Of the finds of all images, which are right, and which count at all: bool `[P]` both."""
    pairs = [right_finds(one, found) for one, found in zip(truth, images, strict=True)]
    right, counted = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return right, counted


def _met(finds: Finds, image: ImageEntry) -> np.ndarray:
    """Which of an image's objects some proposed box meets with an IoU of 0.5, bool `[N]`."""
    boxes = np.array([one.box for one in image.single_objects], np.float32).reshape(-1, 4)
    owner = match(box_iou(finds.boxes, boxes), finds.scores.astype(np.float32), RIGHT)
    return np.isin(np.arange(len(boxes)), owner)
