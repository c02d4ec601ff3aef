"""TIFF files with bands, pages, deep values and windows, compared with what tifffile reads whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from samtune.data.images import Reading, probe_image, read_image, read_thumbnail
from samtune.data.tiff import open_tiff
from samtune.errors import DataError

RNG = np.random.default_rng(3)
H, W = 70, 90


def deep(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return (RNG.random(shape) * 4000).astype(dtype)


LAYOUTS = {
    "gray": ((H, W), {}, "YX"),
    "bands interleaved": ((H, W, 5), {"photometric": "minisblack", "planarconfig": "contig"}, "YXC"),
    "bands one after the other": ((5, H, W), {"photometric": "minisblack", "planarconfig": "separate"}, "CYX"),
    "pages": ((4, H, W), {"photometric": "minisblack"}, "PYX"),
    "ImageJ": ((3, 2, H, W), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "PCYX"),
    "OME-TIFF": ((2, 3, H, W), {"metadata": {"axes": "TCYX"}, "photometric": "minisblack", "ome": True}, "PCYX"),
    "OME-TIFF, channels first": ((3, 2, H, W), {"metadata": {"axes": "CZYX"}, "ome": True}, "CPYX"),
}
STORED = {
    "as it is": {},
    "in tiles": {"tile": (32, 48)},
    "in deflated tiles": {"tile": (32, 32), "compression": "zlib", "predictor": True},
    "in deflated strips": {"rowsperstrip": 16, "compression": "zlib"},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_page_band_and_window_is_what_tifffile_reads(tmp_path, layout, stored, dtype):
    shape, options, axes = LAYOUTS[layout]
    if layout == "ImageJ" and "tile" in STORED[stored]:
        pytest.skip("ImageJ has no tiles")
    values = (RNG.random(shape) * 250).astype(dtype)
    path = tmp_path / ("a.ome.tif" if options.get("ome") else "a.tif")
    tifffile.imwrite(path, values, **options, **STORED[stored])
    order = [axes.index(name) for name in "PCYX" if name in axes]
    cube = values.transpose(order).reshape(
        shape[axes.index("P")] if "P" in axes else 1, shape[axes.index("C")] if "C" in axes else 1, H, W
    )
    tiff = open_tiff(path)
    assert (tiff.height, tiff.width, tiff.pages, tiff.bands) == (H, W, *cube.shape[:2])
    for page in range(cube.shape[0]):
        bands = tuple(reversed(range(cube.shape[1])))
        assert np.array_equal(tiff.read(page, bands), cube[page, list(bands)].transpose(1, 2, 0))
        found = tiff.read(page, bands, (13, 5, 77, 66))
        assert np.array_equal(found, cube[page, list(bands), 5:66, 13:77].transpose(1, 2, 0))


def test_colours_are_read_as_pillow_reads_them_and_in_windows(tmp_path):
    values = RNG.integers(0, 256, (H, W, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", tile=(32, 32), compression="zlib")
    tiles = Reading(in_tiles=True)
    assert np.array_equal(read_image(tmp_path / "a.tif"), values)
    assert np.array_equal(read_image(tmp_path / "a.tif", reading=tiles, window=(3, 4, 60, 50)), values[4:50, 3:60])


def test_other_formats_are_read_in_windows_too(tmp_path):
    values = RNG.integers(0, 256, (H, W, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", window=(3, 4, 60, 50)), values[4:50, 3:60])
    Image.fromarray(values[::-1]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", window=(0, 0, 9, 9)), values[::-1][:9, :9]), "of the old file"


def test_bands_become_red_green_and_blue(tmp_path):
    values = RNG.integers(0, 256, (6, H, W), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="separate")
    found = read_image(tmp_path / "a.tif", reading=Reading(bands=(4, 3, 2)))
    assert np.array_equal(found, values[[3, 2, 1]].transpose(1, 2, 0))
    gray = read_image(tmp_path / "a.tif", reading=Reading(bands=(6,)))
    assert np.array_equal(gray, np.repeat(values[5][:, :, None], 3, axis=2))


def test_pages_of_one_band_can_be_bands(tmp_path):
    values = RNG.integers(0, 256, (3, H, W), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    found = read_image(tmp_path / "a.tif", reading=Reading(bands=(1, 2, 3)))
    assert np.array_equal(found, values.transpose(1, 2, 0))
    assert np.array_equal(read_image(tmp_path / "a.tif", reading=Reading(page=3))[:, :, 0], values[2])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_deep_values_are_stretched_by_percentiles_of_the_whole_image(tmp_path, dtype):
    values = (RNG.normal(1000, 300, (H, W))).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    low, high = np.percentile(values, (0.1, 99.9))
    expected = ((values.astype(float) - low) * (255 / (high - low))).clip(0, 255)
    found = read_image(tmp_path / "a.tif")[:, :, 0]
    assert np.abs(found - expected).max() <= 0.51
    tile = read_image(tmp_path / "a.tif", window=(10, 10, 20, 20))[:, :, 0]
    assert np.array_equal(tile, found[10:20, 10:20]), "a tile has a stretch of its own"


def test_values_that_are_not_finite_do_not_decide_the_stretch(tmp_path):
    values = RNG.random((H, W), np.float32)
    values[:10], values[10:20] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    found = read_image(tmp_path / "a.tif")[:, :, 0]
    assert (found[:10] == 0).all()
    assert np.median(found[20:]) == pytest.approx(128, abs=8)


REFUSED = {
    "a band too many": (Reading(bands=(4, 3, 7)), "bands 4,3,7"),
    "a page too many": (Reading(page=3), "page 3"),
}


@pytest.mark.parametrize(("reading", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_file_does_not_have_is_named(tmp_path, reading, message):
    tifffile.imwrite(
        tmp_path / "a.tif", deep(2, 6, H, W), photometric="minisblack", metadata={"axes": "ZCYX"}, ome=True
    )
    with pytest.raises(DataError, match=message):
        probe_image(tmp_path / "a.tif", reading)


def test_a_file_cut_off_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, deep(H, W, 5), planarconfig="contig", tile=(32, 32), compression="zlib")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match="a whole image file"):
        read_image(path)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_are_named(tmp_path, seed):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, deep(2, H, W, 4), photometric="minisblack", tile=(32, 32), compression="zlib")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, 400 if seed % 2 else len(data), 12):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    try:
        probe_image(path)
        read_image(path)
        read_thumbnail(path, 16)
    except DataError:
        pass


LARGE = """
import resource, sys, numpy as np
from pathlib import Path
from samtune.data.images import Reading, probe_image, read_image, read_thumbnail
path, reading = Path(sys.argv[1]), Reading(in_tiles=True)
info = probe_image(path, reading)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_thumbnail(path, 16, reading)
for corner in range(0, info.width - 1024, 2048):
    read_image(path, reading=reading, window=(corner, corner, corner + 1024, corner + 1024))
print(info.width, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is measured as Linux counts it")
def test_memory_does_not_grow_with_the_image(tmp_path):
    """An image of 400 million pixels, most of it a hole in the file."""
    path = tmp_path / "large.tif"
    tifffile.memmap(path, shape=(20_000, 20_000), dtype="uint16").flush()
    with pytest.raises(DataError, match="--tile"):
        probe_image(path)
    done = subprocess.run([sys.executable, "-c", LARGE, path], capture_output=True, text=True, check=True)
    width, mebibytes = map(int, done.stdout.split())
    assert width == 20_000
    assert mebibytes < 250, "800 MB of pixels"


def test_avif_is_read(tmp_path):
    values = np.full((H, W, 3), (200, 60, 20), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.avif", quality=95)
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - values).max() <= 6


def test_heif_is_read_with_its_package_and_named_without(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    values = np.full((64, 64, 3), (200, 60, 20), np.uint8)
    heif.from_pillow(Image.fromarray(values)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - values).max() <= 6
    code = (
        "import sys; sys.modules['pillow_heif'] = None; from pathlib import Path; "
        "from samtune.data.images import read_image; read_image(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.heic"], capture_output=True, text=True)
    assert "samtune[heif]" in done.stderr


def test_the_refusal_lists_what_is_read(tmp_path):
    (Path(tmp_path) / "a.psd").write_bytes(b"8BPS" + bytes(100))
    with pytest.raises(DataError, match="JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF"):
        read_image(tmp_path / "a.psd")
