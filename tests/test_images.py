"""Images: every mode to RGB, EXIF applied, bombs and other formats refused before anything is decoded."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samtune.data.images import probe_image, read_image, turn_upright
from samtune.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), PIXELS)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    gray = PIXELS[:, :, 0]
    image = {
        "I;16": lambda: Image.fromarray(gray.astype(np.uint16) * 16),
        "I": lambda: Image.fromarray(gray.astype(np.int32)),
        "F": lambda: Image.fromarray(gray.astype(np.float32)),
    }.get(mode, lambda: Image.fromarray(PIXELS).convert(mode))()
    path = tmp_path / "a.tif"
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (6, 9, 3)
    assert pixels.dtype == np.uint8
    if mode in ("I;16", "I", "F"):  # deep values fill the range
        low, high = np.quantile(gray, [0.001, 0.999])
        expected = ((gray - low) * (255 / (high - low))).clip(0, 255)
        assert np.abs(pixels[:, :, 0] - expected).max() <= 0.6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    info = probe_image(tmp_path / "a.png")
    upright = read_image(tmp_path / "a.png")
    assert info.orientation == orientation
    assert info.upright_size == (upright.shape[1], upright.shape[0])
    assert np.array_equal(turn_upright(PIXELS, orientation), upright)
    assert np.array_equal(read_image(tmp_path / "a.png", upright=False), PIXELS)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


WEBP_BOMB = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff" * 6
REFUSED = {
    "bomb.png": (png_header(60_000, 60_000), "pixels"),
    "wide.png": (png_header(2**31 - 1, 1), "side"),
    "bomb.webp": (WEBP_BOMB, "side|pixels"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "another kind"),
    "paper.pdf": (b"%PDF-1.7\n", "another kind"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    "empty.png": (b"", "empty"),
    "text.jpg": (b"hello", "another kind"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "data", "message"), [(name, *rest) for name, rest in REFUSED.items()], ids=REFUSED)
def test_other_files_are_refused_by_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    for read in (probe_image, read_image):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_files_are_told_from_their_end(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(path)
    probe_image(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cut off|truncated|whole"):
        probe_image(path)
    with pytest.raises(DataError):
        read_image(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    """10 GB of pixels: had they been decoded, or only allocated and touched, memory would tell."""
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    code = (
        "import re, sys; from pathlib import Path; from samtune.data.images import read_image\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__,\n"
        "    int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) < 512 * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bomb.png")], capture_output=True, text=True)
    assert done.stdout.split() == ["ImageError", "True"], done.stderr
