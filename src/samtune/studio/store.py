"""The studio's folder: every change is in the journal, on the disk, before it counts.

    STUDIO/studio.json               what was opened, and with which model
    STUDIO/annotations.coco.json     everything up to some event, see `snapshot.py`
    STUDIO/journal.jsonl             the events since, see `journal.py`
    STUDIO/dataset/                  the source as a dataset, where it was none
    STUDIO/embeddings/               image embeddings, for the page and for tuning
    STUDIO/tune/N/                   dataset, run and comparison of the N-th tuned model
    STUDIO/exports/                  what was exported

One process at a time has the folder open. Two pages do not overwrite each other: a change of an image says which
revision of it it is about.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from samtune.data.masks import Region
from samtune.errors import DataError, StorageError, UsageError
from samtune.studio.journal import Journal
from samtune.studio.masks import counts_of
from samtune.studio.snapshot import read_snapshot, write_snapshot
from samtune.studio.state import STATUSES, Category, StudioImage, StudioObject, StudioState
from samtune.utils.files import storage_errors

JOURNAL = "journal.jsonl"
LOCK = ".lock"
MOST_NAME = 200
"""Longest name of a class, in characters."""
MOST_CLASSES = 10_000


class NotThereError(UsageError):
    """The page names an image, an object or a model that is not there."""


class ConflictError(UsageError):
    """Another page changed the image. `revision` is what it is now."""

    revision: int = 0


class Store:
    """The state, and the journal that every change of it goes through. Safe to use from several threads.

    Args:
        folder: the studio's folder; made when it does not exist.

    Attributes:
        state: what is kept; hold `lock` while looking through it.
        is_new: whether the folder was empty.

    Raises:
        UsageError: another process has it open.
        DataError: what is there is damaged.
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._in_use = FileLock(folder / LOCK, thread_local=False)
            try:
                self._in_use.acquire(timeout=0)
            except Timeout:
                raise UsageError.of(
                    expected="a studio that nobody has open",
                    found="another samtune studio that works in it",
                    where=str(folder),
                    do="use the page of that one, or end it",
                ) from None
        try:
            self.state, number = read_snapshot(folder)
            self.is_new = number == 0 and not self.state.images
            self.journal = Journal(folder / JOURNAL, after=number)
            self._replay()
        except BaseException:
            self._in_use.release()
            raise

    def image(self, number: str) -> StudioImage:
        """An image by its id.

        Raises:
            NotThereError: there is none.
        """
        if number not in self.state.images:
            raise NotThereError.of(expected="an image of this studio", found=f"no image {number!r}", where="address")
        return self.state.images[number]

    def category(self, number: int) -> Category:
        """A class by its id.

        Raises:
            NotThereError: there is none.
        """
        if number not in self.state.categories:
            raise NotThereError.of(expected="a class of this studio", found=f"no class {number}", where="category_id")
        return self.state.categories[number]

    def accept(
        self, number: str, region: Region, category_id: int, revision: int | None, **about: Any
    ) -> tuple[StudioObject, int]:
        """Keep an object; returns it and the image's revision once it is on the disk.

        Args:
            number: id of the image.
            region: its mask.
            category_id: its class.
            revision: that of the image as the page knows it; None where the page does not care.
            about: clicks, seconds, iou, source, model.

        Raises:
            NotThereError: no such image or class.
            ConflictError: another page changed the image.
            StorageError: the disk refused; nothing is kept.
        """
        with self.lock:
            image, category = self._changing(number, revision), self.category(category_id)
            one = StudioObject(
                id=str(self.state.next_object),
                category_id=category.id,
                **_pixels(image, region),
                time=_now(),
                **about,
            )
            return one, self._about_image(image, "accept", object=asdict(one))

    def change(
        self, number: str, object_id: str, revision: int | None, *, category_id: int | None, region: Region | None
    ) -> int:
        """Give an object another class or another mask; returns the image's revision. Arguments, errors: `accept`."""
        with self.lock:
            image = self._changing(number, revision)
            self._object(image, object_id)
            changes: dict[str, Any] = {} if region is None else _pixels(image, region)
            if category_id is not None:
                changes["category_id"] = self.category(category_id).id
            return self._about_image(image, "update", id=object_id, changes=changes)

    def delete(self, number: str, object_id: str, revision: int | None, *, back: bool = False) -> int:
        """Take an object away, or bring it `back`; returns the image's revision. Errors: `accept`."""
        with self.lock:
            image = self._changing(number, revision)
            self._object(image, object_id)
            return self._about_image(image, "restore" if back else "delete", id=object_id)

    def set_status(self, number: str, status: str, revision: int | None) -> int:
        """Say whether an image is done; returns its revision. Errors: `accept`."""
        assert status in STATUSES
        with self.lock:
            return self._about_image(self._changing(number, revision), "status", status=status)

    def add_category(self, name: str) -> Category:
        """A class of that name, a new one where there is none.

        Raises:
            UsageError: no name, one too long, or with a control character; too many classes.
            StorageError: the disk refused.
        """
        name = name.strip()
        if not 1 <= len(name) <= MOST_NAME or not name.isprintable():
            raise UsageError.of(
                expected=f"a name of 1 to {MOST_NAME} printable characters", found=repr(name[:40]), where="name"
            )
        with self.lock:
            for one in self.state.categories.values():
                if one.name == name:
                    return one
            if len(self.state.categories) >= MOST_CLASSES:
                raise UsageError.of(expected=f"at most {MOST_CLASSES} classes", found="one more", where="name")
            number = max(self.state.categories, default=0) + 1
            self._record({"event": "class", "id": number, "name": name})
            return self.state.categories[number]

    def set_active(self, key: str) -> None:
        """Remember which model is in use."""
        with self.lock:
            self._record({"event": "active", "model": key})

    def set_splits(self, splits: Mapping[str, str]) -> None:
        """Remember which split each image went into when a model was tuned."""
        if splits:
            with self.lock:
                self._record({"event": "splits", "splits": dict(splits)})

    def add_images(self, found: Iterable[tuple[str, int, int]]) -> None:
        """Take images that are not there yet: key, width and height of each."""
        with self.lock:
            fresh = numbered((one for one in found if one[0] not in self.state.by_key), len(self.state.images))
            if fresh:
                images = [{name: getattr(one, name) for name in ("id", "key", "width", "height")} for one in fresh]
                self._record({"event": "images", "images": images})

    def fill(self, import_into: Callable[[StudioState], None]) -> None:
        """Begin with what another state brings, as a whole or not at all.

        Raises:
            StorageError: the disk refused.
        """
        with self.lock:
            import_into(self.state)
            write_snapshot(self.folder, self.state, max(1, self.journal.number))
            self.journal.close()
            self.journal = Journal(self.folder / JOURNAL, after=max(1, self.journal.number))

    def compact(self) -> None:
        """Put everything into the table and begin the journal anew.

        Raises:
            StorageError: the disk refused; table and journal are as they were, or hold everything twice.
        """
        with self.lock:
            write_snapshot(self.folder, self.state, self.journal.number)
            self.journal.restart()

    def close(self) -> None:
        """Compact, and let others have the folder.

        Raises:
            StorageError: the disk refused; everything is in the table of before and the journal.
        """
        with self.lock:
            try:
                if self.state.images:
                    self.compact()
            except StorageError as error:
                raise StorageError.of(
                    expected=error.expected,
                    found=error.found,
                    where=error.where,
                    do="free some space; nothing accepted is lost, the journal holds it",
                ) from error
            finally:
                self.journal.close()
                self._in_use.release()

    def _replay(self) -> None:
        for event in self.journal.events:
            try:
                self.state.apply(event)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError.of(
                    expected="events that follow from each other",
                    found=f"event {event.get('n')} about something that is not there ({error})",
                    where=str(self.journal.path),
                    do=f"bring {self.folder} back from a copy; journal and table belong together",
                ) from error
        self.journal.events.clear()

    def _changing(self, number: str, revision: int | None) -> StudioImage:
        image = self.image(number)
        if revision is not None and revision != image.revision:
            error = ConflictError.of(
                expected=f"revision {image.revision} of the image",
                found=f"a change of revision {revision}: another page changed the image in the meantime",
                where=f"image {number}",
                do="look at the image again, and repeat the change",
            )
            error.revision = image.revision
            raise error
        return image

    def _object(self, image: StudioImage, object_id: str) -> StudioObject:
        if object_id not in image.objects:
            raise NotThereError.of(
                expected=f"an object of image {image.id}", found=f"no object {object_id!r}", where="id"
            )
        return image.objects[object_id]

    def _about_image(self, image: StudioImage, event: str, **more: Any) -> int:
        self._record({"event": event, "image": image.id, **more})
        return image.revision

    def _record(self, event: dict[str, Any]) -> None:
        """On the disk first, then in the state."""
        self.journal.append({"time": _now(), **event})
        self.state.apply(event)


def numbered(found: Iterable[tuple[str, int, int]], before: int = 0) -> list[StudioImage]:
    """Images with ids: key, width and height of each, after `before` others."""
    return [
        StudioImage(str(number), key, width, height)
        for number, (key, width, height) in enumerate(found, start=before + 1)
    ]


def import_objects(image: StudioImage, state: StudioState, found: Iterable[tuple[Region, str, bool]]) -> None:
    """Add the objects that a source has of an image: mask, class, and whether it is a crowd region."""
    names = {one.name: one.id for one in state.categories.values()}
    for region, name, is_crowd in found:
        if name not in names:
            names[name] = max(state.categories, default=0) + 1
            state.categories[names[name]] = Category(names[name], name)
        one = StudioObject(
            str(state.next_object), names[name], **_pixels(image, region), source="import", is_crowd=is_crowd
        )
        state.add_object(image, one)


def _pixels(image: StudioImage, region: Region) -> dict[str, Any]:
    """What an object says about its mask."""
    return {"counts": counts_of(region, image.height, image.width), "box": region.box, "area": region.area}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
