"""The studio itself: a source, a store, models and an engine, and what the page can do with them.

Torch is loaded with the models: without them what is kept can be looked at, changed and exported all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from samtune.data.table import ImageEntry
from samtune.errors import UsageError
from samtune.studio.masks import pack_mask, region_from
from samtune.studio.questions import BASE, FoundRegion, Question, StudioAnswer, iou_of
from samtune.studio.sources import Source
from samtune.studio.state import StudioImage, StudioObject
from samtune.studio.store import NotThereError, Store

if TYPE_CHECKING:
    from samtune.studio.engine import Engine
    from samtune.studio.models import Models, StudioModel

AHEAD = 8
"""Images after the one at hand that are embedded while the person works."""
SAME_OBJECT = 0.5
"""IoU with an accepted object from which on a proposal is not made."""


@dataclass
class Studio:
    """Everything of one studio.

    Attributes:
        name: what it is called.
        source: its images.
        store: what is kept.
        load: loads the models, when the first of them is needed.
    """

    name: str
    source: Source
    store: Store
    load: Callable[[], Models]

    @cached_property
    def models(self) -> Models:
        """The models, loaded at the first use."""
        return self.load()

    @cached_property
    def engine(self) -> Engine:
        """What answers prompts."""
        from samtune.studio.embedding import Embedder
        from samtune.studio.engine import Engine

        return Engine(Embedder(self.source.dataset, self.store.folder / "embeddings"))

    @property
    def active(self) -> StudioModel:
        """The model in use."""
        key = self.store.state.active
        return self.models.get(key) if key in self.models.labels else self.models.start

    def entry(self, image: StudioImage) -> ImageEntry:
        """An image in the source.

        Raises:
            NotThereError: it was taken out of the source.
        """
        if image.key not in self.source.entries:
            raise NotThereError.of(
                expected="an image that is still in the source",
                found="one that was taken out since the studio was begun",
                where=image.key.partition("#")[0],
                do="put it back, and start the studio again; its objects are kept",
            )
        return self.source.entries[image.key]

    def switch(self, key: str) -> None:
        """Use another model from now on.

        Raises:
            NotThereError, ModelError: no such model, or one that cannot be loaded.
            StorageError: the disk refused.
        """
        self.models.get(key)
        self.store.set_active(key)
        self._doubts.clear()

    def embed(self, number: str) -> None:
        """Embed an image, and the next ones ahead."""
        image = self.store.image(number)
        self.engine.embedder.get(self.active, image.key, self.entry(image))
        self.embed_after(number)

    def embed_after(self, number: str) -> None:
        """Embed the image and the ones after it when nothing else is to be done, in the order of the list."""
        numbers = list(self.store.state.images)
        place = numbers.index(number)
        nearest = [self.store.state.images[one] for one in numbers[place : place + 1 + AHEAD]]
        there = [(image.key, self.source.entries[image.key]) for image in nearest if image.key in self.source.entries]
        model = self.active
        self.engine.embedder.ahead(model, there, lambda key: self._note_doubt(model, key))

    def ask(self, number: str, key: str, question: Question) -> StudioAnswer:
        """A model's answer about an image. Errors: `Engine.ask`."""
        image = self.store.image(number)
        return self.engine.ask(self.models.get(key), image.key, self.entry(image), question)

    def compare(self, number: str, key: str, question: Question) -> dict[str, Any]:
        """The best masks of the base and of a tuned model for one question, which model that is, and their IoU.

        Raises:
            UsageError: there is one model only, or the errors of `Engine.ask`.
        """
        tuned = self.tuned_beside(key)
        image = self.store.image(number)
        asked = Question(question.box, question.points, question.labels, None, question.multimask)
        answers = [self.engine.ask(one, image.key, self.entry(image), asked) for one in (self.models.get(BASE), tuned)]
        base, new = (answer.masks[answer.best].region for answer in answers)
        return {"base": pack_mask(base), "tuned": pack_mask(new), "model": tuned.key, "iou": iou_of(base, new)}

    def tuned_beside(self, key: str | None = None) -> StudioModel:
        """The tuned model to show beside the base: the one asked for, the active one, or the newest.

        Raises:
            UsageError: there is none.
        """
        tuned = [name for name in self.models.labels if name != BASE]
        if not tuned:
            raise UsageError.of(
                expected="a tuned model to show beside the base",
                found="the base model alone",
                do="tune it here, or start the studio with --model RUN",
            )
        wished = (key, self.active.key, tuned[-1])
        return self.models.get(next(name for name in wished if name in tuned))

    def propose(self, number: str, key: str) -> list[FoundRegion]:
        """What a model proposes in an image, without what is accepted there already."""
        image = self.store.image(number)
        found = self.engine.propose(self.models.get(key), image.key, self.entry(image))
        accepted = [region_from(one.counts, image.height, image.width) for one in self.kept(image)]
        return [one for one in found if all(iou_of(one.region, other) < SAME_OBJECT for other in accepted)]

    def kept(self, image: StudioImage) -> list[StudioObject]:
        """The objects of an image, as of now."""
        with self.store.lock:
            return image.kept

    def doubt(self, image: StudioImage) -> float | None:
        """How unsure the active model is about an image; None before it was embedded."""
        return self._doubts.get(image.key)

    def classes(self) -> list[dict[str, Any]]:
        """The classes, as the page takes them."""
        with self.store.lock:
            known = list(self.store.state.categories.values())
        return [{"id": one.id, "name": one.name, "color": one.color} for one in known]

    def close(self) -> None:
        """End everything, and put the journal into the table."""
        if "engine" in self.__dict__:
            self.engine.close()
        self.store.close()

    @cached_property
    def _doubts(self) -> dict[str, float | None]:
        return {}

    def _note_doubt(self, model: StudioModel, key: str) -> None:
        embedded = self.engine.embedder.kept(model, key)
        if embedded is not None:
            self._doubts[key] = self.engine.doubt(model, embedded)


def packed(found: Iterable[FoundRegion]) -> list[dict[str, Any]]:
    """Masks as the page takes them."""
    return [{"mask": pack_mask(one.region), "iou": one.iou, "previous": one.previous} for one in found]
