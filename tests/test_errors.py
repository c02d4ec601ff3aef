"""Errors keep their four parts, show them in one order, and stay whole on the way between processes."""

from __future__ import annotations

import pickle

import pytest

from samtune import errors
from samtune.data.images import ImageError
from samtune.errors import DataError, SamtuneError

PARTS = {"expected": "a PNG", "found": "a JPEG", "where": "/tmp/x/a.png", "do": "rename /tmp/x/a.png"}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SamtuneError)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_shows_four_parts_in_order(kind):
    error = kind.of(**PARTS)
    assert {name: getattr(error, name) for name in PARTS} == PARTS
    assert str(error).splitlines() == [
        "expected a PNG",
        "found    a JPEG",
        "in       /tmp/x/a.png",
        "to do    rename /tmp/x/a.png",
    ]


def test_parts_that_say_nothing_are_left_out():
    error = DataError.of(expected="a PNG", found="a JPEG")
    assert error.where is None and error.do is None
    assert str(error) == "expected a PNG\nfound    a JPEG"
    assert str(DataError("nothing")) == "found    nothing"


def test_an_error_travels_between_processes():
    error = ImageError.of(**PARTS)
    error.code = "image-cut"
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is ImageError and str(back) == str(error) and back.code == "image-cut" and back.do == error.do


def test_a_folder_is_replaced_in_every_part():
    error = ImageError.of(**PARTS)
    error.code = "image-cut"
    changed = error.replacing("/tmp/x", "export.zip")
    assert (changed.where, changed.do) == ("export.zip/a.png", "rename export.zip/a.png")
    assert changed.code == "image-cut" and error.where == "/tmp/x/a.png"
