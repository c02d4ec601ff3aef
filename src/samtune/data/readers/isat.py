"""ISAT: one JSON per image; polygons of one group and category are one object, those drawn later lie on top.

Areas of the category `__background__` are cut out of the objects of their group.

Source: github.com/yatengLG/ISAT_with_segment_anything, ISAT/annotation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from samtune.data.readers.common import OnIssue, number
from samtune.data.readers.per_image import ImageItems, Item, JsonFormat, join_groups
from samtune.data.readers.shapes import ring_of, side
from samtune.errors import DataError
from samtune.types import Polygons, Segmentation

_BACKGROUND = "__background__"


def _parse(content: Any, file: Path, on_issue: OnIssue) -> Iterator[ImageItems]:
    del on_issue
    entry = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    info, objects = entry.get("info"), entry.get("objects")
    if not isinstance(info, dict) or not isinstance(objects, list):
        raise DataError.of(expected="an ISAT file with 'info' and 'objects'", found="another one")
    about = cast("dict[str, Any]", info)
    items: list[Item] = []
    holes: dict[float, list[Any]] = {}
    listed = [cast("dict[str, Any]", one) if isinstance(one, dict) else {} for one in cast("list[Any]", objects)]
    for one in listed:
        if one.get("category") == _BACKGROUND and (group := number(one.get("group"))) is not None:
            holes.setdefault(group, []).append(one.get("segmentation"))
    for position, one in enumerate(listed):
        if one.get("category") == _BACKGROUND:
            continue
        group = number(one.get("group"))
        cut = holes.get(group, []) if group is not None else []
        items.append(
            Item(
                str(position + 1),
                one.get("category"),
                f"objects[{position}]",
                partial(_shape, one.get("segmentation"), cut),
                crowd=bool(number(one.get("iscrowd"))),
                group=int(group) if group is not None else None,
            )
        )
    name = about.get("name") or f"{file.stem}.jpg"
    yield ImageItems(name, side(about.get("width")), side(about.get("height")), items)


def _shape(points: Any, holes: list[Any]) -> Segmentation:
    return replace(Polygons((ring_of(points),)), holes=tuple(ring_of(hole) for hole in holes))


FORMAT = JsonFormat("isat", "ISAT", _parse, join=join_groups)
