"""What the studio keeps: images, classes, objects, and how an event of the journal changes them. Knows no disk.

The state is what all events give, one after the other; the server applies an event only when it is in the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7030F0", "#B0F0B0", "#666666")
"""Colours of classes: Okabe and Ito's, which people with any colour vision can tell apart, and three more."""
STATUSES = ("new", "open", "done")
SOURCES = ("person", "import", "proposal")


@dataclass(frozen=True, slots=True)
class StudioObject:
    """One object of an image.

    Attributes:
        id: unique in the studio.
        category_id: its class.
        counts: COCO's compressed run lengths, of the whole image: the truth about its pixels.
        box: xyxy in pixels, right and lower exclusive, tight around the mask.
        area: mask pixels.
        clicks, seconds: what it cost the person.
        iou: what the model predicted for its mask, 0 to 1.
        source: who made it, one of `SOURCES`.
        model: key of the model that helped.
        time: when it was accepted, ISO 8601.
        is_deleted: whether the person took it away; it can be brought back.
        is_crowd: the mask covers a group of objects; only imported ones do.
    """

    id: str
    category_id: int
    counts: str
    box: tuple[int, int, int, int]
    area: int
    clicks: int = 0
    seconds: float = 0.0
    iou: float | None = None
    source: str = "person"
    model: str | None = None
    time: str = ""
    is_deleted: bool = False
    is_crowd: bool = False

    def __post_init__(self) -> None:
        """JSON has no tuples."""
        object.__setattr__(self, "box", tuple(self.box))


@dataclass
class StudioImage:
    """One image.

    Attributes:
        id: unique in the studio.
        key: what it is in the dataset: its path there, and what part of the file.
        width, height: pixels.
        status: one of `STATUSES`.
        revision: how many events were about it; a page that knows another one has to look again.
        split: the split it was given when a model was tuned; None before.
        objects: by id, in the order they came, deleted ones too.
    """

    id: str
    key: str
    width: int
    height: int
    status: str = "new"
    revision: int = 0
    split: str | None = None
    objects: dict[str, StudioObject] = field(default_factory=dict[str, StudioObject])

    @property
    def kept(self) -> list[StudioObject]:
        """The objects that are not deleted."""
        return [one for one in self.objects.values() if not one.is_deleted]


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects."""

    id: int
    name: str

    @property
    def color(self) -> str:
        """As `#rrggbb`; the same for every tenth class."""
        return COLORS[(self.id - 1) % len(COLORS)]


@dataclass
class StudioState:
    """Everything that is kept: images by id and by key, classes, the model in use, and the next free numbers."""

    images: dict[str, StudioImage] = field(default_factory=dict[str, StudioImage])
    by_key: dict[str, StudioImage] = field(default_factory=dict[str, StudioImage])
    categories: dict[int, Category] = field(default_factory=dict[int, Category])
    active: str | None = None
    next_object: int = 1

    def apply(self, event: Mapping[str, Any]) -> None:
        """Change the state as an event says.

        Raises:
            KeyError, TypeError, ValueError: it is no event of a studio, or does not fit what is there.
        """
        match event["event"]:
            case "images":
                for one in event["images"]:
                    self.add_image(StudioImage(one["id"], one["key"], one["width"], one["height"]))
            case "class":
                self.categories[event["id"]] = Category(event["id"], event["name"])
            case "active":
                self.active = event["model"]
            case "splits":
                for number, split in event["splits"].items():
                    self.images[number].split = split
            case _:
                self._apply_to_image(self.images[event["image"]], event)

    def add_image(self, image: StudioImage) -> None:
        """Take one more image."""
        self.images[image.id] = self.by_key[image.key] = image

    def add_object(self, image: StudioImage, one: StudioObject) -> None:
        """Take one more object."""
        image.objects[one.id] = one
        self.next_object = max(self.next_object, int(one.id) + 1)

    def objects(self) -> Iterator[tuple[StudioImage, StudioObject]]:
        """Every object that is not deleted, image by image."""
        for image in self.images.values():
            for one in image.kept:
                yield image, one

    def _apply_to_image(self, image: StudioImage, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "accept":
                self.add_object(image, StudioObject(**event["object"]))
                image.status = "open" if image.status == "new" else image.status
            case "delete" | "restore":
                is_deleted = event["event"] == "delete"
                image.objects[event["id"]] = replace(image.objects[event["id"]], is_deleted=is_deleted)
            case "update":
                image.objects[event["id"]] = replace(image.objects[event["id"]], **event["changes"])
            case "status":
                image.status = event["status"]
            case name:
                raise ValueError(f"unknown event {name!r}")
        image.revision += 1
