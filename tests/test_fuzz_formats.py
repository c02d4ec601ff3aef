"""YOLO, LabelMe, VIA and mask folders with anything in them: samtune's words, in time, and intact objects as they were.

Of three images one is never damaged. `make test` tries a hundred cases of each format, always the same; `make fuzz`
tries SAMTUNE_FUZZ_FORMAT_CASES new ones.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.prepare.prepare import prepare
from tests.layouts import HEIGHT, RINGS, WIDTH, draw, ids, labelme, mask_of, photo, write, yolo_lines
from tests.test_fuzz_coco import CHANGES, CUTS, PLACE, TOKENS, VALUES, change, cut, refusal

CASES = int(os.environ.get("SAMTUNE_FUZZ_FORMAT_CASES", "100"))
SETTINGS = settings(max_examples=CASES, deadline=None, derandomize=CASES <= 100, print_blob=True,
                    phases=(Phase.explicit, Phase.reuse, Phase.generate),
                    suppress_health_check=list(HealthCheck))  # fmt: skip
DAMAGED = ("b", "c")
MASK_DAMAGE = st.tuples(
    st.sampled_from(
        ["bytes", "size", "values", "colors", "deep", "gone", "renamed", "copied", "folder", "text", "pages"]
    ),
    PLACE,
    PLACE,
    st.sampled_from(TOKENS),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the source in it, and an image outside that nothing may touch."""
    place = tmp_path_factory.mktemp("fuzz")
    photo(place / "secret.png")
    return place


def fresh(place: Path, images: str, names: tuple[str, ...] = ("a", *DAMAGED)) -> Path:
    source = place / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in names:
        photo(source / images / f"{name}.png")
    return source


def blocks(values: np.ndarray) -> np.ndarray:
    """Each value over 10 x 10 pixels: noise of single pixels would be thousands of objects."""
    return values.repeat(10, axis=0).repeat(10, axis=1)


def examine(place: Path, source_format: str, *, intact: bool = True) -> None:
    """Doctor and prepare answer or refuse; what they keep of the intact image is what is drawn there."""
    source, out = place / "source", place / "out"
    reports = []

    def look():
        found = audit(source, source_format)
        found.to_text().encode()
        json.dumps(found.to_json()).encode()

    def make():
        reports.append(prepare(source, out, PrepareConfig(source_format=source_format, on_error="skip", workers=1)))

    for work in (look, make):
        message = refusal(work)
        if message is not None:
            assert str(place) in message or "--" in message, message
            message.encode()
    assert {path.name for path in place.iterdir()} <= {"source", "secret.png", "out"}
    if not reports:
        return
    dataset = reports[0].dataset
    for image in dataset.images:
        assert (out / image.image_path).resolve().is_relative_to(source.resolve())
    (whole,) = [image for image in dataset.images if Path(image.image_path).name == "a.png"] if intact else [None]
    if whole is not None:
        masks = [dataset.read_mask(found) for found in whole.objects]
        assert len(masks) == len(RINGS)
        for ring in RINGS:
            assert any(np.array_equal(mask, mask_of(ring)) for mask in masks)


@SETTINGS
@given(
    st.lists(st.tuples(st.sampled_from(["set", "drop", "insert", "twice"]), PLACE, VALUES), max_size=6),
    st.lists(CUTS, max_size=2),
    st.sampled_from([*DAMAGED, "data.yaml"]),
)
def test_whatever_yolo_files_hold(place, changes, cuts, damaged):
    source = fresh(place, "images")
    for name in ("a", *DAMAGED):
        write(source / f"labels/{name}.txt", yolo_lines())
    write(source / "data.yaml", "names: [one, two]\ntrain: images\n")
    file = source / (damaged if "." in damaged else f"labels/{damaged}.txt")
    words = file.read_text().split(" ")
    for kind, where, value in changes:
        spot = where % max(len(words), 1)
        text = str(value)[:200].encode("utf-8", "replace").decode()
        if kind == "insert":
            words.insert(spot, text)
        elif words and kind == "set":
            words[spot] = text
        elif words and kind == "drop":
            del words[spot]
        elif words:
            words.insert(spot, words[spot])
    data = " ".join(words).encode()
    for one in cuts:
        data = cut(data, *one)
    file.write_bytes(data)
    examine(place, "yolo", intact=damaged != "data.yaml")


@SETTINGS
@given(st.lists(CHANGES, max_size=6), st.lists(CUTS, max_size=2), st.sampled_from(DAMAGED))
def test_whatever_labelme_files_hold(place, changes, cuts, damaged):
    source = fresh(place, ".")
    (source / "link.png").symlink_to(place / "secret.png")
    for name in ("a", *DAMAGED):
        write(source / f"{name}.json", labelme(f"{name}.png"))
    document = labelme(f"{damaged}.png")
    for one in changes:
        change(document, *one)
    data = json.dumps(document).encode()
    for one in cuts:
        data = cut(data, *one)
    (source / f"{damaged}.json").write_bytes(data)
    # A damaged file may come to speak of the intact image; then the two are compared, and one is left out by name.
    about_another = b'"a.png' in data or b"/a.png" in data or b"\\a.png" in data or b"A.PNG" in data
    examine(place, "labelme", intact=not about_another)


def via_entry(name: str) -> dict:
    regions = [
        {"shape_attributes": {"name": "polygon", "all_points_x": ring[::2], "all_points_y": ring[1::2]},
         "region_attributes": {"kind": label}}
        for label, ring in zip(("one", "two"), RINGS, strict=True)
    ]  # fmt: skip
    return {"filename": f"{name}.png", "size": 99, "regions": regions, "file_attributes": {}}


@SETTINGS
@given(st.lists(CHANGES, max_size=6), st.lists(CUTS, max_size=1), st.booleans())
def test_whatever_a_via_file_holds(place, changes, cuts, in_bytes):
    source = fresh(place, ".")
    (source / "link.png").symlink_to(place / "secret.png")
    document = {f"{name}.png99": via_entry(name) for name in DAMAGED}
    for one in changes:
        change(document, *one)
    data = json.dumps({"a.png99": via_entry("a")} | document).encode()
    for one in cuts if in_bytes else ():
        data = cut(data, *one)
    (source / "via.json").write_bytes(data)
    about_another = data.count(b"a.png") > 2 or b"A.PNG" in data
    examine(place, "via", intact=not (cuts and in_bytes) and not about_another)


@SETTINGS
@given(st.lists(MASK_DAMAGE, min_size=1, max_size=4), st.sampled_from(DAMAGED), st.sampled_from(["png", "tif", "gif"]))
def test_whatever_mask_folders_hold(place, damages, damaged, suffix):
    source = fresh(place, "images")
    for name in ("a", *DAMAGED):
        draw(source / f"masks/{name}.{suffix}", ids())
    file = source / f"masks/{damaged}.{suffix}"
    for kind, where, other, token in damages:
        rng = np.random.default_rng([where, other])
        if kind == "bytes" and file.is_file():
            file.write_bytes(
                cut(file.read_bytes(), ("cut", "flip", "remove", "repeat")[other % 4], where, other, token)
            )
        elif kind == "size":
            draw(file, np.ones((1 + where % 50, 1 + other % 70), np.uint8))
        elif kind == "values":
            draw(file, rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
        elif kind == "colors":
            colors = rng.integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
            draw(file, blocks(colors // (1 + where % 128) * (1 + where % 128)))
        elif kind == "deep" and suffix != "gif":
            draw(file, blocks(rng.integers(0, 2**16, (HEIGHT // 10, WIDTH // 10), dtype=np.uint16)))
        elif kind == "pages" and suffix != "png":
            Image.fromarray(ids()).save(file, save_all=True, append_images=[Image.fromarray(ids() * 0)])
        elif kind == "gone":
            file.unlink(missing_ok=True)
        elif kind == "renamed" and file.is_file():
            file.rename(file.with_name(f"{('x', 'a_', 'masks', '..', 'a b')[other % 5]}{damaged}.{suffix}"))
        elif kind == "copied" and file.is_file():
            shutil.copyfile(file, source / f"images/{damaged}{('_mask', '2', '_gt', '.old')[other % 4]}.{suffix}")
        elif kind == "folder":
            write(source / f"masks/{damaged}/{where % 3}.png", "no image")
        elif kind == "text":
            (source / "_classes.csv").write_bytes(b"Pixel Value, Class\n" + token)
            (source / "_classes.csv").unlink() if other % 2 else None
    has_classes = (source / "_classes.csv").exists()
    examine(place, "mask-folder", intact=not has_classes)
