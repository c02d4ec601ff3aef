"""A COCO file with anything in it: doctor and prepare answer in samtune's words, in time, and stay within the folder.

A small valid export is damaged in its structure (types, numbers, keys, ids, names, run lengths) and in its bytes.
`make test` tries a few hundred cases, always the same; `make fuzz` tries SAMTUNE_FUZZ_CASES new ones. A crash in native
code ends pytest itself and prints where.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.checks.page import render_html
from samtune.data.masks import encode_rle, format_counts
from samtune.data.prepare.prepare import prepare
from samtune.errors import SamtuneError
from samtune.types import Split

CASES = int(os.environ.get("SAMTUNE_FUZZ_CASES", "300"))
MOST_SECONDS = 5.0
WIDTH, HEIGHT = 60, 40
FIELDS = (
    "images", "annotations", "categories", "file_name", "id", "image_id", "category_id", "name", "segmentation",
    "counts", "size", "bbox", "area", "iscrowd", "width", "height",
)  # fmt: skip

NUMBERS = [
    0, -1, 1, 2, 3, 7, 0.5, -0.0, 59, 60, 61, 2400, 65_500, 65_501, 1e6, 1e30, -1e30, 1e308, 2**31 - 1, 2**31, -(2**31),
    2**32, 2**53 + 1, 2**63, 2**64, 10**400, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
NAMES = [
    "", ".", "..", "a.png", "A.PNG", "../secret.png", "..\\secret.png", "link.png", "/etc/passwd", "C:\\a.png",
    "C:a.png", "\\\\host\\share\\a.png", "a\0.png", "a\n.png", "\x1b[31m.png", "\ud800.png", "x/../../secret.png",
    "a.png/", "./a.png", "annotations.json", "deep/a.png", "n" * 5000 + ".png", "\u202egnp.a", "a.eps",
    "http://localhost/a.png", "n" * 300 + ".png", "m/" * 200 + "a.png",
    "~/a.png", "folder.png", "ａ.png", "a\u0301.png", "a.rf.0a1b.png",
]  # fmt: skip
COUNTS = ["", "0", "PPPP", "oooooooo", "o" * 5000, "`0", "\x00", "\u2603", "1" * 3000, "PPPPPPPPP0", "\ud800"]
WORDS = [
    "NaN",
    "1e999",
    "7",
    " 7 ",
    "3.5",
    "true",
    "thing",
    "things",
    "<b>x</b>",
    "\x1b[2J",
    "\ud83d",
    "{}",
    "nan",
    "-",
]
NESTED = [
    None, True, False, [], {}, [[]], [[[]]], [{}], {"": None}, [None] * 7, [[None] * 6], [True] * 6, {"size": []},
    {"size": [40, 60]}, {"size": [2**31, 2**31], "counts": "0"}, {"size": [2**31, 2**31], "counts": [2**62]},
    {"size": [40, 60], "counts": [2400]}, {"size": [40, 60], "counts": [-5, 2405]},
    {"size": [40, 60], "counts": [5, 5]},
    {"size": [40, 60], "counts": [2**63, -(2**63), 2400]}, {"size": [40, 60], "counts": [[5], 2395]},
    {"size": [0, 0], "counts": []}, {"size": [60, 40], "counts": [100, 20, 2280]},
    {"size": "40", "counts": {}},
    [[1, 1, 5, 5]], [[0, 0, 1e6, 1e6] * 50], [[1e30, 0, 5, 5, 9, 1]], [[0.0] * 6], [[float("nan")] * 6], list(range(9)),
    [[-50, -50, 200, -50, 200, 200, -50, 200]], [[10, 10], [20, 10], [20, 20]], [[5, 5, 30, 30, 30, 5, 5, 30]],
    [[x * 7 % 53 for x in range(4000)]],
]  # fmt: skip
TOKENS = [b"NaN", b"1e999", b"[" * 3000, b'{"a":' * 2000, b"\0", b"\xff\xfe", b"\xed\xa0\x80", b'"\\ud800"',
          b"1" * 5000, b",", b"]", b"}", b'"', b"\\", b"-", b"\xef\xbb\xbf", b"/*", b"\n" * 100]  # fmt: skip

VALUES = st.one_of(*(st.sampled_from(pool) for pool in (NUMBERS, NAMES, COUNTS, WORDS, NESTED)))
PLACE = st.integers(0, 10_000)
KINDS = st.sampled_from(["set", "set", "drop", "copy", "twice", "text", "rename", "scale"])
CHANGES = st.tuples(KINDS, st.sampled_from([*FIELDS, *FIELDS, None]), PLACE, PLACE, VALUES)
CUTS = st.tuples(st.sampled_from(["cut", "flip", "remove", "repeat", "insert"]), PLACE, PLACE, st.sampled_from(TOKENS))


def valid() -> dict:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 20:40] = True
    runs = encode_rle(mask)
    size = [HEIGHT, WIDTH]
    square = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
    shapes = [
        [square],
        [square, [40.0, 5.0, 50.0, 5.0, 50.0, 15.0]],
        {"size": size, "counts": list(runs.counts)},
        {"size": size, "counts": format_counts(runs)},
        [[3.5, 3.5, 9.5, 3.5, 9.5, 30.0]],
    ]
    return {
        "info": {"year": "2026"},
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(("a.png", "b.jpg", "c.png"), start=1)
        ],
        "categories": [{"id": 0, "name": "things"}, {"id": 1, "name": "thing"}, {"id": 4, "name": "other"}],
        "annotations": [
            {"id": number, "image_id": 1 + number % 2, "category_id": 4 if number == 3 else 1, "segmentation": shape,
             "bbox": [10, 10, 20, 15], "area": 300.0, "iscrowd": int(number == 2)}
            for number, shape in enumerate(shapes)
        ],
    }  # fmt: skip


def places(value) -> list[tuple[object, object]]:
    """Every (container, key) below a value."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found += places(inner)
    return found


def change(document: dict, kind: str, field: str | None, where: int, other: int, value: object) -> None:
    """One structural damage, in place: of a value that a field of this name holds, or of any value."""
    spots = places(document)
    if not spots:
        return
    chosen = [spot for spot in spots if spot[1] == field] or spots
    container, key = chosen[where % len(chosen)]
    source, source_key = spots[other % len(spots)]
    if kind == "set":
        container[key] = copy.deepcopy(value)
    elif kind == "drop":
        del container[key]
    elif kind == "copy":
        container[key] = copy.deepcopy(source[source_key])
    elif kind == "twice" and isinstance(container, list):
        container.insert(other % (len(container) + 1), copy.deepcopy(container[key]))
    elif kind == "text":
        container[key] = str(container[key])[:4000]
    elif kind == "rename" and isinstance(container, dict):
        container[FIELDS[other % len(FIELDS)]] = container.pop(key)
    elif kind == "scale" and isinstance(container[key], int | float) and isinstance(value, int | float):
        container[key] = container[key] * min(max(value, -1e9), 1e9)


def cut(data: bytes, kind: str, where: int, other: int, token: bytes) -> bytes:
    """One damage of the file's bytes."""
    start = where * 37 % (len(data) + 1)
    end = min(len(data), start + other % 300)
    return {
        "cut": data[:start],
        "flip": data[:start] + bytes(byte ^ (1 << other % 8) for byte in data[start : start + 1]) + data[start + 1 :],
        "remove": data[:start] + data[end:],
        "repeat": data[:end] + data[start:],
        "insert": data[:start] + token + data[start:],
    }[kind]


class TooSlow(BaseException):
    """No handler of `Exception` may hide it."""


@contextmanager
def at_most(seconds: float):
    """Stops what uses more processor time than that, so that a busy machine does not matter."""

    def stop(*_):
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Three images; one outside that nothing may touch, and a link to it."""
    place = tmp_path_factory.mktemp("fuzz")
    folder = place / "source"
    (folder / "folder.png").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png"):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / name)
    Image.new("RGB", (WIDTH, HEIGHT)).save(place / "secret.png")
    (folder / "link.png").symlink_to(place / "secret.png")
    return folder


def refusal(work) -> str | None:
    """What `work` refuses with, or None; anything but samtune's own errors passes through."""
    try:
        with at_most(MOST_SECONDS):
            work()
    except SamtuneError as error:
        return str(error)
    return None


@settings(max_examples=CASES, deadline=None, derandomize=CASES <= 300, print_blob=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(changes=st.lists(CHANGES, max_size=6), cuts=st.lists(CUTS, max_size=2))
def test_whatever_a_coco_file_holds(source, changes, cuts):
    document = valid()
    for damage in changes:
        change(document, *damage)
    data = json.dumps(document).encode()
    for damage in cuts:
        data = cut(data, *damage)
    (source / "annotations.json").write_bytes(data)
    out, page = source.parent / "out", source.parent / "page.html"
    issues = []

    def look():
        found = audit(source, "coco")
        issues.extend(found.issues)
        found.to_text().encode()
        json.dumps(found.to_json()).encode()
        render_html(found, page)

    def make():
        report = prepare(source, out, PrepareConfig(on_error="skip", workers=1))
        issues.extend(report.issues)
        json.loads((out / "issues.json").read_bytes())
        "\n".join(report.lines()).encode()
        for image in report.dataset.images:
            assert (out / image.image_path).resolve().is_relative_to(source.resolve())

    for work in (look, make):
        message = refusal(work)
        if message is not None:
            assert "annotations.json" in message or str(source) in message, message
            assert "Traceback" not in message
            message.encode()
    for issue in issues:
        assert issue.file, issue
        assert issue.image or issue.where.startswith((*FIELDS, *Split)), issue
        assert "secret" not in Path(issue.file).name or issue.code == "image-path", issue
    assert {path.name for path in source.parent.iterdir()} <= {"source", "secret.png", "out", "page.html"}
