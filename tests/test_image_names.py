"""Entries of a results list find their images: by name, path, stem or number, and never by a guess."""

from __future__ import annotations

import pytest

from samtune.inference.names import ImageNames

COCO = ("000000000139.jpg", "000000000285.jpg")
SERIES = ("img_0007.png", "img_0012.png", "grün.png")


@pytest.mark.parametrize(
    ("names", "value", "expected"),
    [
        (COCO, 139, "000000000139.jpg"),
        (COCO, "285", "000000000285.jpg"),
        (COCO, "/data/val2017/000000000139.jpg", "000000000139.jpg"),
        (COCO, "000000000139", "000000000139.jpg"),
        (COCO, "C:\\x\\000000000139.JPG", "000000000139.jpg"),
        (COCO, 7, None),
        (COCO, None, None),
        (COCO, True, None),
        (SERIES[:2], 12, "img_0012.png"),
        (SERIES, "gru\u0308n.png", "grün.png"),
        (SERIES, 12, None),
        (("a_1.png", "b_1.png"), 1, None),
        (("a.png", "a.jpg"), "a", None),
        (("a.png", "a.jpg"), "a.png", "a.png"),
        (("a.png",), 10**30, None),
        (("a.png", "b.png"), "a.jpg", "a.png"),
        (("a.png", "b.png"), "data/upload/1f2e3d4c-a.png", "a.png"),
        (("a b.png", "b.png"), "a_b.png", "a b.png"),
        (("a b.png", "a-b.png"), "a_b.png", None),
        (("a b.png", "b.png"), "gs://bucket/a+b.png", "a b.png"),
        (("2024_01_05_007.tif",), 7, "2024_01_05_007.tif"),
    ],
)
def test_an_entry_finds_its_image(names, value, expected):
    assert ImageNames(names).find(value) == expected
