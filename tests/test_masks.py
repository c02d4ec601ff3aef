"""Masks: equal to the COCO mask API in every pixel, and hostile numbers stopped before any native code."""

from __future__ import annotations

import io
import math
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from samtune.data.checks.crossing import crossing_rings
from samtune.data.masks import (
    SegmentationError,
    components_of,
    decode_rle,
    encode_rle,
    format_counts,
    mask_box,
    parse_counts,
    rasterise,
    rasterise_region,
    read_mask_file,
    region_of,
    write_mask_file,
)
from samtune.data.masks.files import file_region
from samtune.data.masks.large import read_label_runs
from samtune.data.masks.palette import davis_palette
from samtune.errors import DataError
from samtune.types import MaskFile, Polygons, RunLengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

SIDE = st.integers(1, 70)
COORDINATE = st.one_of(st.floats(-30, 100, allow_nan=False), st.integers(-300, 1000).map(lambda tenths: tenths / 10))
RING = st.integers(3, 12).flatmap(lambda points: st.lists(COORDINATE, min_size=2 * points, max_size=2 * points))


def reference(rings, height, width):
    return coco.decode(coco.merge(coco.frPyObjects([list(ring) for ring in rings], height, width))).astype(bool)


@settings(max_examples=300, deadline=None)
@given(st.lists(RING, min_size=1, max_size=3), SIDE, SIDE)
def test_polygons_equal_the_mask_api(rings, height, width):
    shape = Polygons(tuple(tuple(ring) for ring in rings))
    mask = rasterise(shape, height, width)
    assert np.array_equal(mask, reference(rings, height, width))
    region = rasterise_region(shape, height, width)
    assert (region.box if region else None) == mask_box(mask)
    assert (region.area if region else 0) == mask.sum()


def test_holes_are_cut_out():
    outer, hole = (5.0, 5, 25, 5, 25, 25, 5, 25), (10.0, 10, 20, 10, 20, 20, 10, 20)
    mask = rasterise(Polygons((outer,), (hole,)), 30, 30)
    assert np.array_equal(mask, reference([outer], 30, 30) & ~reference([hole], 30, 30))


def test_a_bridge_between_polygons_covers_no_pixel():
    """YOLO exporters join an object's polygons by a line there and back."""
    one, other = [5.0, 5, 15, 5, 15, 15, 5, 15], [30.0, 30, 40, 30, 40, 40, 30, 40]
    bridged = (*one, 5.0, 5.0, *other, 30.0, 30.0, 5.0, 5.0)
    assert np.array_equal(rasterise(Polygons((bridged,)), 50, 50), reference([one, other], 50, 50))


masks = st.tuples(SIDE, SIDE, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0])).map(
    lambda drawn: np.random.default_rng(drawn[2]).random((drawn[0], drawn[1])) < drawn[3]
)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_run_lengths_round_trip_and_equal_the_mask_api(mask):
    runs = encode_rle(mask)
    assert np.array_equal(decode_rle(runs), mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert format_counts(runs) == theirs
    assert parse_counts(theirs, *mask.shape) == runs


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("PQRo0123O", max_size=60)), SIDE, SIDE)
def test_any_text_is_counts_of_the_size_or_refused(text, height, width):
    try:
        runs = parse_counts(text, height, width)
    except SegmentationError:
        return
    assert sum(runs.counts) == height * width
    assert min(runs.counts) >= 0


HOSTILE = {
    "NaN": Polygons(((math.nan, 1, 5, 5, 9, 1),)),
    "infinity": Polygons(((math.inf, 1, 5, 5, 9, 1),)),
    "1e30": Polygons(((1e30, 1, 5, 5, 9, 1),)),
    "long outline": Polygons(((0.0, 0, 9e5, 9e5) * 40,)),
    "two points": Polygons(((1.0, 1, 5, 5),)),
    "odd count": Polygons(((1.0, 1, 5, 5, 9, 9, 2),)),
    "no ring": Polygons(()),
    "counts too short": RunLengths((5,), 40, 60),
    "counts too long": RunLengths((2400, 5), 40, 60),
    "negative counts": RunLengths((-5, 2405), 40, 60),
    "other size": RunLengths((2400,), 60, 40),
    "huge counts": RunLengths((2**63, -(2**63) + 2400), 40, 60),
}


@pytest.mark.parametrize("shape", HOSTILE.values(), ids=HOSTILE)
def test_hostile_shapes_are_refused_by_name(shape):
    with pytest.raises(SegmentationError, match="expected") as caught:
        rasterise(shape, 40, 60)
    assert caught.value.code != SegmentationError.code


@pytest.mark.parametrize("size", [(2**31, 2**31), (0, 5), (5, -1), (60_000, 60_000)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(SegmentationError, match=r"size|pixels"):
        rasterise(Polygons(((1.0, 1, 5, 5, 9, 1),)), *size)
    with pytest.raises(SegmentationError):
        parse_counts("0", *size)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_png_masks_come_back_exactly_and_the_same_bytes(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("mask") / "m.png"
    write_mask_file(path, mask)
    first = path.read_bytes()
    assert np.array_equal(read_mask_file(path), mask)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first))), mask)
    write_mask_file(path, mask)
    assert path.read_bytes() == first


def test_gray_masks_are_read_at_half(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask_file(tmp_path / "m.png").tolist() == [[False, False, True, True]]
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="one channel"):
        read_mask_file(tmp_path / "c.png")


def test_mask_files_by_value_and_component(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[2:5, 20:25] = 3
    labels[5, 25] = 3  # touches by a corner: the same component
    labels[10:15, 2:6] = 3
    labels[17:19, 10:12] = 7
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    assert components_of(MaskFile(path, 3)) == 2
    assert components_of(MaskFile(path, None)) == 3
    assert np.array_equal(rasterise(MaskFile(path, 7), 20, 30), labels == 7)
    first = rasterise(MaskFile(path, 3, 1), 20, 30)
    assert mask_box(first) == (20, 2, 26, 6)
    assert np.array_equal(first | rasterise(MaskFile(path, 3, 2), 20, 30), labels == 3)
    with pytest.raises(SegmentationError) as caught:
        rasterise(MaskFile(path, 3), 21, 30)
    assert caught.value.code == "mask-size"


def test_mask_files_by_colour(tmp_path):
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[1:3, 1:3] = (255, 0, 10)
    colours[5:7, 5:7] = (9, 9, 9)
    path = tmp_path / "colours.png"
    Image.fromarray(colours).save(path)
    assert mask_box(rasterise(MaskFile(path, (255, 0, 10)), 8, 8)) == (1, 1, 3, 3)
    assert mask_box(rasterise(MaskFile(path, 9), 8, 8)) == (5, 5, 7, 7)


def crosses_exactly(ring):
    """Whether two edges cross inside both, in whole numbers, edge by edge."""
    points = [(ring[place], ring[place + 1]) for place in range(0, len(ring), 2)]
    edges = list(zip(points, points[1:] + points[:1], strict=True))

    def side(a, b, p):
        turn = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        return (turn > 0) - (turn < 0)

    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for place, (a, b) in enumerate(edges)
        for c, d in edges[place + 1 :]
    )


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=14),
    st.booleans(),
    st.integers(0, 3),
)
def test_a_ring_crosses_itself_or_not_as_an_exact_search_says(points, around, closed):
    if around:  # points in order of their angle: rings that go around once, which are told without a search
        middle = (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
        points = sorted(points, key=lambda point: math.atan2(point[1] - middle[1], point[0] - middle[0]))
    ring = [value for point in points + points[:1] * closed for value in point]
    other = [0, 0, 9, 9, 9, 0, 0, 9]
    assert crossing_rings([other, ring, other[:6]]) == [True, crosses_exactly(ring), False]


def test_long_outlines_cross_themselves_or_not():
    ridge = [(x, 50 + 7 * x % 40) for x in range(300)] + [(299, 0), (0, 0)]
    swapped = [*ridge[:100], ridge[120], *ridge[101:120], ridge[100], *ridge[121:]]
    rings = [[value for point in points for value in point] for points in (ridge, swapped)]
    assert crossing_rings(rings) == [False, True] == [crosses_exactly(ring) for ring in rings]


def test_a_region_does_not_keep_the_mask_it_was_cut_from():
    """Thousands of small regions of large masks are held at once when a sheet is predicted in tiles."""
    mask = np.zeros((500, 400), bool)
    mask[10:20, 30:35] = True
    region = region_of(mask)
    assert region is not None and (region.x0, region.y0, region.mask.shape) == (30, 10, (10, 5))
    assert region.mask.base is None and region.mask.all()


@pytest.mark.parametrize("place", [(0, 0), (0, 411), (700, 3), (793, 400), (350, 200)])
def test_a_mask_file_is_a_whole_png(tmp_path, place):
    """Its stream is put together from parts, rows of zeros around the object's, and must end with the check of all."""
    top, left = place
    whole = np.zeros((800, 419), bool)
    whole[top : top + 7, left : left + 8] = np.random.default_rng(top).random((7, 8)) > 0.5
    path = tmp_path / "mask.png"
    write_mask_file(path, whole)
    content = path.read_bytes()
    start = content.index(b"IDAT")
    stream = content[start + 4 : start + 4 + int.from_bytes(content[start - 4 : start], "big")]
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(800, 1 + 53)
    assert not rows[:, 0].any()
    assert np.array_equal(np.unpackbits(rows[:, 1:], axis=1)[:, :419].astype(bool), whole)
    assert np.array_equal(read_mask_file(path), whole)
    assert zlib.crc32(content[start : start + 4] + stream) == int.from_bytes(content[-16:-12], "big")


def large_labels() -> np.ndarray:
    """More pixels than are read whole, three objects: one of a row across all portions, two that touch at a corner."""
    labels = np.zeros((12_000, 12_000), np.uint8)
    labels[:, 7_000] = 3
    labels[100:200, 50:90] = 1
    labels[200:230, 90:95] = 1
    labels[11_990:, 11_995:] = 200
    return labels


@pytest.mark.parametrize("kind", ["palette.png", "gray.tif"])
def test_label_images_beyond_what_is_read_whole(tmp_path, kind):
    labels, path = large_labels(), tmp_path / kind
    if kind == "gray.tif":
        tifffile.imwrite(path, labels, tile=(1024, 1024), compression="zlib")
    else:
        image = Image.fromarray(labels)
        image.putpalette(davis_palette().tobytes())
        image.save(path, compress_level=1)
    found = {value: file_region(MaskFile(path, value), 12_000, 12_000) for value in (1, 2, 3, 200)}
    assert found.pop(2) is None
    for value, region in found.items():
        x0, y0, x1, y1 = region.box
        assert np.array_equal(region.mask, labels[y0:y1, x0:x1] == value)
        assert region.area == np.count_nonzero(labels == value)
    assert components_of(MaskFile(path, 1)) == 1
    assert components_of(MaskFile(path)) == 3
    assert file_region(MaskFile(path, component=1), 12_000, 12_000).box == (7_000, 0, 7_001, 12_000)
    with pytest.raises(SegmentationError):
        file_region(MaskFile(path, 1), 12_000, 11_999)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.2, 0.5, 0.8]))
def test_runs_of_labels_are_the_pixels(tmp_path_factory, seed, height, width, share):
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 4, (height, width)) * (rng.random((height, width)) < share)).astype(np.uint8)
    path = tmp_path_factory.mktemp("runs") / "labels.png"
    Image.fromarray(labels).save(path)
    runs = read_label_runs(path)
    assert runs.present == np.unique(labels).tolist()
    for value in (None, 1, 2, 3):
        count = components_of(MaskFile(path, value))
        assert runs.component_count(value) == count
        for component in (None, *range(1, count + 1)):
            region, wanted = runs.region(value, component), file_region(MaskFile(path, value, component), height, width)
            assert (region is None) == (wanted is None)
            assert region is None or (region.box == wanted.box and np.array_equal(region.mask, wanted.mask))


def test_large_label_images_in_colours_are_refused_by_name(tmp_path):
    path = tmp_path / "colours.png"
    Image.new("RGB", (12_000, 12_000), (9, 9, 9)).save(path, compress_level=1)
    with pytest.raises(DataError, match="colours"):
        file_region(MaskFile(path, 1), 12_000, 12_000)
