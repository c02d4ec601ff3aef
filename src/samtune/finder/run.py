"""A finder for a run: from the embeddings that its training kept, into the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from samtune.config import FinderConfig
from samtune.data.low_res import LowResTargets
from samtune.data.views import MIRRORED, change_of
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.finder.finding import CHUNK, answer_boxes
from samtune.finder.fitting import Advance, Lessons, choose_lessons, classes_to_learn, make_finder
from samtune.finder.name_training import drawn_of_one
from samtune.finder.outlines import outlines
from samtune.finder.results import Finder
from samtune.finder.storage import FOLDER, save_finder
from samtune.finder.training import FinderExample, read_examples, train_head, views_of
from samtune.finder.verdict import Usefulness, judge
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.utils.results import Result

_TRIED_STEPS = 4


@dataclass(frozen=True)
class FinderReport(Result):
    """How a finder was made.

    Attributes:
        folder: where it was written.
        finder: the finder.
        seconds: how long that took.
        usefulness: whether it is of use, in words.
    """

    folder: Path
    finder: Finder
    seconds: float
    usefulness: Usefulness

    def lines(self) -> list[str]:
        """What to tell the user."""
        made = f"{self.finder.about['step']} steps, {self.seconds:.0f} s; chosen on {self.finder.chosen_on}"
        return [*self.usefulness.lines(), f"           {made}", *self._unlabelled(), f"written    {self.folder}"]

    def _unlabelled(self) -> list[str]:
        about = self.finder.about.get("unlabelled")
        if about is None:
            return []
        before, after = about["f1"]
        learned = f"{about['sure']} sure finds to learn from, {about['unsure']} left open"
        gained = f"F1 on held-out images {before:.3f} without them, {after:.3f} with them"
        return [f"unlabelled {about['images']} images, {learned}", f"           {gained}; the better finder is kept"]

    def to_json(self) -> dict[str, object]:
        """What can be said of it in JSON."""
        return {
            "folder": str(self.folder),
            "seconds": self.seconds,
            "is_usable": self.usefulness.is_usable,
            "reasons": list(self.usefulness.reasons),
            "classes": list(self.finder.classes),
        }


def add_finder(
    run: Path,
    predictor: Predictor,
    embeddings: DatasetEmbeddings,
    config: FinderConfig,
    *,
    unlabelled: Sequence[Path] = (),
    progress: Advance | None = None,
) -> FinderReport:
    """Make a finder for a run and write it into `RUN/finder`, as a whole or not at all.

    Args:
        run: the run's folder.
        predictor: the run's model.
        embeddings: of its dataset.
        config: how.
        unlabelled: images to learn from too, see `make_finder`.
        progress: told of the stages.

    Raises:
        StorageError: the disk refused.
        SamtuneError: as for `make_finder`.
    """
    started = monotonic()
    finder = make_finder(predictor, embeddings, config, unlabelled=unlabelled, progress=progress)
    save_finder(finder, run / FOLDER)
    return FinderReport(run / FOLDER, finder, monotonic() - started, judge(finder))


def expected_seconds(embeddings: DatasetEmbeddings, config: FinderConfig) -> float:
    """About how long it would take to make a finder, from a few steps of its network, one more view and some masks.

    With all rounds that it may take, since only training tells how many it needs. The embeddings of the images these
    use are computed beforehand, where they are not kept already.
    """
    lessons = choose_lessons(embeddings.dataset, config.seed)
    low_res = LowResTargets(embeddings.dataset, embeddings.loaded.mask_size)
    classes = classes_to_learn(lessons.train, config)
    examples = read_examples(lessons.train[: config.images_per_step * _TRIED_STEPS], low_res, classes)
    if not any(len(one.truth) for one in examples):
        return float("inf")
    seconds: list[float] = []
    last = monotonic()

    def measure(done: int, total: int) -> None:
        nonlocal last
        now = monotonic()
        seconds.append(now - last)
        last = now

    short = config.model_copy(update={"steps": _TRIED_STEPS, "views": 1})
    train_head(embeddings, examples, (), low_res, classes, short, progress=measure)
    steps = float(np.median(seconds[1:])) * config.steps * (config.rounds if lessons.valid else 1)
    masks = _seconds_of_a_mask(embeddings, examples) * masks_to_draw(lessons, config)
    return steps + masks + _seconds_of_views(embeddings, lessons, config)


def masks_to_draw(lessons: Lessons, config: FinderConfig) -> int:
    """How many masks the decoder draws, about, while a finder is made.

    Names are learned from training objects, some views of each, and chosen on held-out ones; these are drawn twice
    more, from their true boxes and as finds.
    """
    held_out = sum(len(image.single_objects) for image in lessons.valid)
    if not classes_to_learn(lessons.train, config):
        return 2 * held_out
    views = views_of(config, len(lessons.train))
    most = drawn_of_one(views * len(lessons.train))
    return views * sum(min(most, len(image.single_objects)) for image in lessons.train) + 3 * held_out


def _seconds_of_a_mask(embeddings: DatasetEmbeddings, examples: Sequence[FinderExample]) -> float:
    """About how long the decoder takes for one mask and its outline, from some of the fullest image."""
    fullest = max(examples, key=lambda one: len(one.truth))
    embedded = EmbeddedImage(embeddings([fullest.view]), (fullest.image.height, fullest.image.width))
    boxes = fullest.truth.boxes[:CHUNK]
    started = monotonic()
    outlines(answer_boxes(Predictor(embeddings.loaded), embedded, boxes).logits)
    return (monotonic() - started) / len(boxes)


def _seconds_of_views(embeddings: DatasetEmbeddings, lessons: Lessons, config: FinderConfig) -> float:
    """About how long the views take that are not kept, of training images and for the second look, from one of them."""
    numbers = range(1, views_of(config, len(lessons.train)))
    views = [View(image, change_of(image, number)) for image in lessons.train for number in numbers]
    views += [View(image, MIRRORED) for image in lessons.valid if config.looks != 1]
    missing = embeddings.missing(views)
    if not missing:
        return 0.0
    started = monotonic()
    embeddings(missing[:1])
    return (monotonic() - started) * len(missing)
