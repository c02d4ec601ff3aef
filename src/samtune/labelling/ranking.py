"""`samtune next`: which unlabelled images to label first, by the model's doubt and by being unlike what is labelled.

Images are taken one after the other. What was taken counts as labelled from then on, so that ten copies of one strange
image do not fill the list (the greedy k-centre rule of Sener and Savarese 2018, "Active learning for convolutional
neural networks: a core-set approach", with the doubt beside the distance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from samtune.config import RankConfig
from samtune.data.images import read_image
from samtune.data.reading import PLAIN, Reading
from samtune.data.table import Dataset, ImageEntry
from samtune.embeddings.dataset import DatasetEmbeddings, View
from samtune.errors import DataError
from samtune.finder.caveats import about_decoder, about_sizes
from samtune.finder.results import Finder
from samtune.inference.files import image_files
from samtune.inference.predictor import EmbeddedImage, Predictor
from samtune.labelling.doubt import Doubt, features_of, measure_doubt
from samtune.utils.files import new_file, write_json
from samtune.utils.results import Result
from samtune.utils.text import one_line, text_table

FORMAT = 1
_SHOWN = 10
_COMPARED = 400

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RankedImage:
    """One image and why it stands where it stands.

    Attributes:
        image: path relative to the folder that was ranked, with forward slashes.
        score: 0 to 1, the higher the more is expected of its label.
        doubt: the model's, 0 to 1, see `labelling.doubt`; where the model sees nothing to ask about, the mean of all.
        unlike: 0 to 1, distance to the nearest image that is labelled or stands above; 0.5 is as far as labelled images
            are from each other.
        nearest: that image; empty for the first one where nothing is labelled.
        signs: what the doubt is made of.
    """

    image: str
    score: float
    doubt: float
    unlike: float
    nearest: str
    signs: Doubt


@dataclass(frozen=True)
class Ranking(Result):
    """Unlabelled images, the most useful first.

    Attributes:
        images: the folder that was ranked.
        model: what the model was asked for by.
        prompts: `finder` or `grid`, where the prompts came from.
        labelled: images that they were compared with.
        ranked: the images.
        unread: images that cannot be read, and why.
        caveats: what to keep in mind about the finder here, in words.
    """

    images: Path
    model: str
    prompts: str
    labelled: int
    ranked: tuple[RankedImage, ...]
    unread: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What to tell the user."""
        rows = [
            (
                str(place),
                one.image,
                *(f"{value:.3f}" for value in (one.score, one.doubt, one.unlike)),
                Path(one.nearest).name or "-",
            )
            for place, one in enumerate(self.ranked[:_SHOWN], start=1)
        ]
        more = len(self.ranked) - len(rows)
        return [
            *text_table(("", "label next", "score", "doubt", "unlike", "nearest"), rows),
            *([f"and {more} more"] if more else []),
            *(f"left out   {name}: {why}" for name, why in self.unread),
            *(f"{'warning':<10} {one}" for one in self.caveats),
        ]

    def to_json(self) -> dict[str, Any]:
        """The content of the JSON file, as in docs/evaluation.md."""
        return {
            "format": FORMAT,
            "images": str(self.images.resolve()),
            "model": self.model,
            "prompts": self.prompts,
            "labelled": self.labelled,
            "ranked": [asdict(one) for one in self.ranked],
            "unread": [{"image": name, "why": why} for name, why in self.unread],
            "caveats": list(self.caveats),
        }

    def save(self, path: Path) -> None:
        """Write `to_json` to `path` with the ending `.json`, and one row per image beside it, with `.csv`.

        Raises:
            StorageError: the disk refused.
        """
        rows = [{"rank": place, **asdict(one), **asdict(one.signs)} for place, one in enumerate(self.ranked, start=1)]
        with new_file(path.with_suffix(".csv")) as temporary:
            pl.DataFrame(rows, infer_schema_length=None).drop("signs").write_csv(temporary, line_terminator="\n")
        write_json(path.with_suffix(".json"), self.to_json())


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images that are labelled already: their names and features `[N, D]`, one for each group of images."""

    names: tuple[str, ...]
    features: NDArray[np.float64]


def rank_images(
    images: Path,
    predictor: Predictor,
    config: RankConfig,
    *,
    name: str,
    finder: Finder | None = None,
    labelled: Labelled | None = None,
    reading: Reading = PLAIN,
    progress: Advance = lambda what, done, total: None,
) -> Ranking:
    """Rank unlabelled images.

    Args:
        images: one image, or a folder of them.
        predictor: the model.
        config: weights and prompts.
        name: what the model was asked for by.
        finder: of this model; a grid of clicks stands in for it.
        labelled: what they are compared with; None compares them with each other only.
        reading: bands, page and stretch.
        progress: called with what is being done, images done and their total.

    Raises:
        DataError: no images, or none that can be read.
    """
    files = image_files(images)
    read: list[str] = []
    doubts: list[Doubt] = []
    features: list[NDArray[np.float64]] = []
    sizes: list[tuple[int, int]] = []
    unread: list[tuple[str, str]] = []
    for done, file in enumerate(files, start=1):
        try:
            pixels = read_image(file, reading=reading)
        except DataError as error:
            unread.append((file.name, one_line(error)))
            continue
        embedded = predictor.embed(pixels)
        mirrored = predictor.embed(np.ascontiguousarray(pixels[:, ::-1])) if config.views else None
        doubts.append(
            measure_doubt(
                predictor,
                embedded,
                mirrored,
                finder=finder,
                points_per_side=config.points_per_side,
                most=config.most_prompts,
            )
        )
        features.append(features_of(embedded))
        sizes.append((embedded.size[1], embedded.size[0]))
        read.append(file.name)
        progress("looking at unlabelled images", done, len(files))
    if not read:
        raise DataError.of(expected="an image that can be read", found=unread[0][1], where=str(images))
    known = labelled or Labelled((), np.zeros((0, len(features[0]))))
    order = _ordered(read, doubts, np.stack(features), known, config)
    kept = order[: config.most] if config.most else order
    prompts = "grid" if finder is None else "finder"
    caveats = () if finder is None else (*about_decoder(finder, predictor.loaded), *about_sizes(finder, sizes))
    return Ranking(images, name, prompts, len(known.names), tuple(kept), tuple(unread), caveats)


def labelled_images(
    dataset: Dataset, embed: Callable[[ImageEntry], EmbeddedImage], progress: Advance = lambda what, done, total: None
) -> Labelled:
    """Features of a dataset's images, the first of each group.

    Args:
        dataset: whole.
        embed: gives an image's embeddings.
        progress: called with what is being done, images done and their total.
    """
    first = list({image.group: image for image in reversed(dataset.images)}.values())[::-1]
    found: list[NDArray[np.float64]] = []
    for done, image in enumerate(first, start=1):
        found.append(features_of(embed(image)))
        progress("looking at labelled images", done, len(first))
    return Labelled(tuple(image.image_path for image in first), np.stack(found))


def kept_embeddings(source: DatasetEmbeddings) -> Callable[[ImageEntry], EmbeddedImage]:
    """Embeddings of a run's own images, from its cache as far as training has kept them."""
    return lambda image: EmbeddedImage(source([View(image)]), (image.height, image.width))


def _ordered(
    names: Sequence[str],
    doubts: Sequence[Doubt],
    features: NDArray[np.float64],
    labelled: Labelled,
    config: RankConfig,
) -> list[RankedImage]:
    """Images one after the other, always the one with the highest score to what is labelled or taken by then."""
    values = np.array([np.nan if one.value is None else one.value for one in doubts])
    values = np.where(np.isnan(values), np.nanmean(values) if np.isfinite(values).any() else 0.5, values)
    usual = float(np.median(values))
    doubt = values / np.maximum(values + usual, 1e-12)  # 0.5 is as much as the half of them has
    every = np.concatenate([labelled.features, features])
    scale = every.std(0)
    known, these = (part / np.where(scale > 0, scale, 1) for part in (labelled.features, features))
    distance, nearest = np.full(len(names), np.inf), [""] * len(names)
    for number, one in enumerate(known):
        _closer(distance, nearest, these, one, labelled.names[number])
    typical = _typical_distance(known if len(known) > 1 else these)
    left, taken = np.ones(len(names), bool), list[RankedImage]()
    while left.any():
        far = np.where(np.isinf(distance), 1.0, distance / (np.where(np.isinf(distance), 0, distance) + typical))
        score = config.doubt_weight * doubt + (1 - config.doubt_weight) * far
        best = int(np.where(left, score, -1.0).argmax())
        left[best] = False
        taken.append(
            RankedImage(
                names[best], float(score[best]), float(values[best]), float(far[best]), nearest[best], doubts[best]
            )
        )
        _closer(distance, nearest, these, these[best], names[best])
    return taken


def _closer(
    distance: NDArray[np.float64], nearest: list[str], these: NDArray[np.float64], one: NDArray[np.float64], name: str
) -> None:
    """Note in place where one image is nearer than what was nearest before."""
    new = np.sqrt(((these - one) ** 2).mean(1))
    for row in np.flatnonzero(new < distance):
        nearest[row] = name
    np.minimum(distance, new, out=distance)


def _typical_distance(features: NDArray[np.float64]) -> float:
    """Median distance of images to their nearest neighbour, of some hundred images; 1 where there is only one."""
    if len(features) < 2:
        return 1.0
    features = features[:: max(1, len(features) // _COMPARED)]
    found = [
        float(np.sqrt(((np.delete(features, row, 0) - one) ** 2).mean(1)).min()) for row, one in enumerate(features)
    ]
    return max(float(np.median(found)), 1e-12)
