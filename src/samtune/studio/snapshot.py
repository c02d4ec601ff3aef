"""The studio's table: everything kept so far as one COCO file, `annotations.coco.json`, that other tools read too.

The journal holds what happened since. What COCO has no word for stands under `studio`, in the file, its images and its
annotations; deleted objects, which can be brought back, stand there and not among the annotations.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samtune.errors import DataError
from samtune.studio.state import Category, StudioImage, StudioObject, StudioState
from samtune.utils.files import storage_errors, write_text

FILE = "annotations.coco.json"
FORMAT = 1
_OWN = ("clicks", "seconds", "iou", "source", "model", "time")


def write_snapshot(folder: Path, state: StudioState, number: int) -> None:
    """Write everything as of event `number`, as a whole or not at all.

    Raises:
        StorageError: the disk refused.
    """
    images, annotations, deleted = [], [], []
    for image in state.images.values():
        own = {"key": image.key, "status": image.status, "revision": image.revision, "split": image.split}
        about = {"id": int(image.id), "file_name": image.key.partition("#")[0]}
        images.append(about | {"width": image.width, "height": image.height, "studio": own})
        for one in image.objects.values():
            if one.is_deleted:
                deleted.append({"image": image.id, **asdict(one)})
            else:
                annotations.append(_annotation(image, one))
    content = {
        "images": images,
        "categories": [{"id": one.id, "name": one.name} for one in state.categories.values()],
        "annotations": annotations,
        "studio": {"format": FORMAT, "event": number, "active": state.active, "deleted": deleted,
                   "next_object": state.next_object},
    }  # fmt: skip
    write_text(folder / FILE, json.dumps(content, ensure_ascii=False, allow_nan=False))


def read_snapshot(folder: Path) -> tuple[StudioState, int]:
    """What `write_snapshot` wrote, and the number of the last event in it; an empty state where there is none.

    Raises:
        DataError: the file is damaged, or of another version.
        StorageError: it cannot be read.
    """
    path, state = folder / FILE, StudioState()
    with storage_errors(path):
        if not path.is_file():
            return state, 0
        data = path.read_bytes()
    try:
        content = json.loads(data)
        own = content["studio"]
        if own["format"] != FORMAT:
            raise ValueError(f"format {own['format']}, not {FORMAT}")
        _fill(state, content)
        return state, int(own["event"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError.of(
            expected=f"the table of a studio, format {FORMAT}",
            found=f"{type(error).__name__}: {error}",
            where=str(path),
            do="bring the file back from a copy",
        ) from error


def _fill(state: StudioState, content: dict[str, Any]) -> None:
    for one in content["categories"]:
        state.categories[one["id"]] = Category(one["id"], one["name"])
    for one in content["images"]:
        state.add_image(StudioImage(str(one["id"]), width=one["width"], height=one["height"], **one["studio"]))
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        found = StudioObject(
            str(one["id"]), one["category_id"], one["segmentation"]["counts"], (x, y, x + width, y + height),
            one["area"], **one["studio"], is_crowd=bool(one["iscrowd"]),
        )  # fmt: skip
        state.add_object(state.images[str(one["image_id"])], found)
    own = content["studio"]
    for one in own["deleted"]:
        state.add_object(state.images[one.pop("image")], StudioObject(**one))
    state.active, state.next_object = own["active"], int(own["next_object"])


def _annotation(image: StudioImage, one: StudioObject) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    return {
        "id": int(one.id),
        "image_id": int(image.id),
        "category_id": one.category_id,
        "segmentation": {"size": [image.height, image.width], "counts": one.counts},
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": one.area,
        "iscrowd": int(one.is_crowd),
        "studio": {name: getattr(one, name) for name in _OWN},
    }
