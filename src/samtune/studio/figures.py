"""What the studio counts: what each object cost, and with which model; objects to look at again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, Any

from samtune.data.masks import Region
from samtune.errors import DataError, SamtuneError
from samtune.studio.display import Display
from samtune.studio.masks import region_from
from samtune.studio.questions import BASE, iou_of
from samtune.studio.state import StudioImage, StudioObject
from samtune.studio.store import NotThereError
from samtune.studio.studio import Studio
from samtune.types import Box

if TYPE_CHECKING:
    from samtune.studio.models import StudioModel

MOST_LISTED = 200
"""Objects in one answer; the page asks again with a narrower filter."""
ASKING_SECONDS = 1.0
"""How long one answer about disagreements may take; longer only for a single image."""


def stats(studio: Studio) -> dict[str, Any]:
    """What each accepted object cost, in the order of acceptance, and means by model; imported ones are left out."""
    with studio.store.lock:
        found = [one for _, one in studio.store.state.objects() if one.source != "import"]
    found.sort(key=lambda one: int(one.id))
    by_model: dict[str | None, list[StudioObject]] = {}
    for one in found:
        by_model.setdefault(one.model, []).append(one)
    return {
        "objects": len(found),
        "per_object": [
            {"seconds": one.seconds, "clicks": one.clicks, "time": one.time, "model": one.model} for one in found
        ],
        "by_model": [
            {
                "model": model,
                "objects": len(those),
                "clicks": sum(one.clicks for one in those) / len(those),
                "seconds": sum(one.seconds for one in those) / len(those),
            }
            for model, those in by_model.items()
        ],
    }


@dataclass
class Disagreements:
    """Where base and tuned model answer an accepted object's box differently.

    Attributes:
        studio: whose objects.
        known: IoU of the two masks by object, its mask, and tuned model; None where the image cannot be read.
    """

    studio: Studio
    known: dict[tuple[str, str, str], float | None] = field(default_factory=dict[tuple[str, str, str], float | None])

    def listed(self) -> dict[str, Any]:
        """The `objects` with the IoU of the two masks, the worst first; how many images are still `waiting`.

        Asks about further images for some time and about one at least, so whoever calls again comes to an end.

        Raises:
            UsageError: there is no tuned model.
        """
        tuned, base = self.studio.tuned_beside(), self.studio.models.get(BASE)
        end, waiting, found = time.monotonic() + ASKING_SECONDS, 0, list[dict[str, Any]]()
        is_asked = False
        for image, objects in _images(self.studio):
            fresh = [one for one in objects if (one.id, one.counts, tuned.key) not in self.known]
            if fresh and is_asked and time.monotonic() > end:
                waiting += 1
            elif fresh:
                is_asked = True
                self._measure(image, fresh, base, tuned)
            ious = ((one.id, self.known.get((one.id, one.counts, tuned.key))) for one in objects)
            found += [{"image_id": image.id, "object_id": id, "iou": iou} for id, iou in ious if iou is not None]
        return {"objects": sorted(found, key=lambda one: one["iou"])[:MOST_LISTED], "waiting": waiting}

    def _measure(self, image: StudioImage, fresh: list[StudioObject], base: StudioModel, tuned: StudioModel) -> None:
        boxes = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in (one.box for one in fresh)]
        ious: list[float | None] = [None] * len(fresh)
        with suppress(DataError, NotThereError):  # said when the image is opened
            before, after = (self._answers(model, image, boxes) for model in (base, tuned))
            ious = list(starmap(iou_of, zip(before, after, strict=True)))
        self.known |= {(one.id, one.counts, tuned.key): iou for one, iou in zip(fresh, ious, strict=True)}

    def _answers(self, model: StudioModel, image: StudioImage, boxes: list[Box]) -> list[Region]:
        engine = self.studio.engine
        return engine.region_for_box(model, engine.embedder.get(model, image.key, self.studio.entry(image)), boxes)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects to look at again, and in which order.

    Attributes:
        category: id of a class; None for all.
        min_size, max_size: mask pixels; None for no limit.
        sort: `size` (small first), `iou` (predicted, low first), or `doubt` (of the image, high first).
    """

    category: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    sort: str = "iou"

    def takes(self, one: StudioObject) -> bool:
        """Whether an object is asked for."""
        return (
            self.category in (None, one.category_id)
            and (self.min_size is None or one.area >= self.min_size)
            and (self.max_size is None or one.area <= self.max_size)
        )


def review(studio: Studio, display: Display, wish: Filter) -> dict[str, Any]:
    """The first `objects` to look at again, with thumbnails, and how many there are in all.

    Those whose image is gone or damaged are left out.
    """
    found = [(image, one) for image, objects in _images(studio) for one in objects if wish.takes(one)]

    def place(pair: tuple[StudioImage, StudioObject]) -> float:
        image, one = pair
        match wish.sort:
            case "size":
                return one.area
            case "doubt":
                return -(studio.doubt(image) or 0.0)
            case _:
                return 2.0 if one.iou is None else one.iou

    listed = sorted(found, key=place)[:MOST_LISTED]
    thumbnails = dict(_thumbnails(studio, display, sorted(listed, key=lambda pair: int(pair[0].id))))
    objects = [
        {
            "image_id": image.id,
            "object_id": one.id,
            "category_id": one.category_id,
            "area": one.area,
            "iou": one.iou,
            "thumbnail": thumbnails[one.id],
        }
        for image, one in listed
        if one.id in thumbnails
    ]
    return {"objects": objects, "total": len(found) - len(listed) + len(objects)}


def _thumbnails(
    studio: Studio, display: Display, listed: Iterable[tuple[StudioImage, StudioObject]]
) -> Iterator[tuple[str, str]]:
    """By object, image by image, so that each file is read once."""
    for image, one in listed:
        try:
            region = region_from(one.counts, image.height, image.width)
            yield one.id, display.thumbnail(studio.entry(image), region)
        except SamtuneError:
            continue


def _images(studio: Studio) -> list[tuple[StudioImage, list[StudioObject]]]:
    with studio.store.lock:
        return [(image, image.kept) for image in studio.store.state.images.values()]
