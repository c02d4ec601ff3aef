"""EXIF in both frames, planted leaks, hostile images and a page with a hostile class name: proofs for the doctor."""

import io
import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.checks.doctor import audit
from samtune.data.checks.page import draw, render_html
from samtune.data.images import turn_upright
from samtune.data.masks import encode_rle
from samtune.data.prepare.prepare import prepare
from samtune.data.table import Dataset
from samtune.errors import DataError


def scene(seed, h=120, w=160):
    r = np.random.default_rng(seed)
    c = np.full((h, w, 3), r.integers(60, 180), np.uint8)
    for _ in range(12):
        cv2.circle(
            c,
            (int(r.integers(w)), int(r.integers(h))),
            int(r.integers(5, 30)),
            tuple(int(v) for v in r.integers(0, 255, 3)),
            -1,
        )
    return c


def coco(folder, images, name="thing"):
    """images: (file name, width, height, ring)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_annotations.coco.json").write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": n, "width": w, "height": h} for i, (n, w, h, _) in enumerate(images)],
                "categories": [{"id": 1, "name": name}],
                "annotations": [
                    {"id": i, "image_id": i, "category_id": 1, "segmentation": [r], "iscrowd": 0}
                    for i, (_, _, _, r) in enumerate(images)
                ],
            }
        )
    )


RING = [10, 10, 60, 10, 60, 30, 30, 30, 30, 70, 10, 70]


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif(tmp_path, orientation, frame):
    root = tmp_path / "s" / "train"
    root.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene(1)).save(root / "a.jpg", exif=exif)  # stored 160 x 120
    w, h = (160, 120) if frame == "stored" or orientation < 5 else (120, 160)
    coco(root, [("a.jpg", w, h, RING)])
    found = {i.code for i in audit(tmp_path / "s").issues}
    if "exif-orientation-unclear" in found:
        return
    ds = prepare(tmp_path / "s", tmp_path / "d", PrepareConfig(split="1,0,0")).dataset
    entry = Dataset.open(tmp_path / "d").images[0]
    mask = ds.read_mask(entry.objects[0])
    from samtune.data.masks import rasterise
    from samtune.types import Polygons

    want = rasterise(Polygons((tuple(map(float, RING)),)), h, w)
    want = turn_upright(want, orientation) if frame == "stored" else want
    assert mask.shape == want.shape and (mask == want).all()


def planted(source, train=20, unlike=(), rare="rare"):
    """A set with one leak of each kind, images unlike all others, and `rare`, a category that only test has."""
    files = defaultdict(list)

    def put(split, name, pixels, **how):
        path = source / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **how)
        files[split].append((name, pixels.shape[1], pixels.shape[0], RING))

    for number in range(train):
        put("train", f"t{number}.png", scene(number))
    put("train", "src_jpg.rf.0a1b.png", scene(200))
    put("valid", "src_jpg.rf.0c2d.png", scene(201))
    put("valid", "alike.jpg", np.clip(scene(7) * 0.8 + 30, 0, 255).astype(np.uint8), quality=70)
    put("test", "bytes.png", scene(3))
    for split, name, number in unlike:
        put(split, name, scene(number))
    for split, rows in files.items():
        coco(source / split, rows, rare if split == "test" else "thing")
    return source


def test_leaks(tmp_path):
    unlike = [("test", "other.png", 300), ("valid", "fresh.png", 301)]
    s = planted(tmp_path / "s", train=30, unlike=unlike, rare="thing")
    a = audit(s)
    leaks = {(i.code, i.image) for i in a.issues if i.code.startswith("leak")}
    assert leaks == {
        ("leak-same-source", "src_jpg.rf.0c2d.png"),
        ("leak-same-bytes", "bytes.png"),
        ("leak-look-alike", "alike.jpg"),
    }
    assert a.exit_code == 0
    for seed in range(5):
        ds = prepare(s, tmp_path / "d", PrepareConfig(split="0.6,0.2,0.2", seed=seed)).dataset
        where = {Path(e.image_path).name: e.split for e in ds.images}
        for one, other in (
            ("src_jpg.rf.0a1b.png", "src_jpg.rf.0c2d.png"),
            ("t3.png", "bytes.png"),
            ("t7.png", "alike.jpg"),
        ):
            assert where[one] == where[other]


def png(path, w, h):
    def chunk(k, d):
        return struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("bomb.png", "image-too-large"),
        ("x.eps.png", "image-format"),
        ("x.pdf.jpg", "image-format"),
        ("lfs.jpg", "image-lfs-pointer"),
        ("cut.jpg", "image-damaged"),
        ("empty.jpg", "image-file-empty"),
        ("gone.jpg", "image-file-missing"),
    ],
)
def test_hostile_images(tmp_path, name, code):
    s = tmp_path / "s" / "train"
    s.mkdir(parents=True)
    f = s / name
    if name == "bomb.png":
        png(f, 60_000, 60_000)
    elif "eps" in name:
        f.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    elif "pdf" in name:
        f.write_bytes(b"%PDF-1.7\n1 0 obj\n")
    elif name == "empty.jpg":
        f.touch()
    elif name == "lfs.jpg":
        f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif name == "cut.jpg":
        Image.fromarray(scene(0)).save(f)
        f.write_bytes(f.read_bytes()[:-900])
    coco(s, [(name, 160, 120, RING)])
    a = audit(tmp_path / "s")
    assert a.exit_code == 2 and [i.code for i in a.issues] == [code, "unusable-image"]
    assert {i.image for i in a.issues} == {name}


def test_html_escapes(tmp_path):
    s = tmp_path / "s" / "train"
    s.mkdir(parents=True)
    Image.fromarray(scene(0)).save(s / "a.png")
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    coco(s, [("a.png", 160, 120, [10, 10, 60, 60, 60, 10, 10, 60, 10, 200])], evil)
    render_html(audit(tmp_path / "s"), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "<script>" not in page and "<img src=x" not in page and "&lt;script&gt;" in page


def test_text_shows_no_escape_codes(tmp_path):
    s = tmp_path / "s" / "train"
    s.mkdir(parents=True)
    Image.fromarray(scene(0)).save(s / "a.png")
    coco(s, [("a.png", 160, 120, RING)], "\x1b[31mred")
    assert "\x1b" not in audit(tmp_path / "s").to_text()


WHOLE_SET = {"leak-same-bytes", "leak-same-source", "leak-look-alike", "category-not-in-train"}


def test_prepare_finds_what_the_doctor_finds(tmp_path):
    source = planted(tmp_path / "s")
    found = {(issue.code, issue.image, issue.annotation, issue.message) for issue in audit(source).issues}
    report = prepare(source, tmp_path / "d", PrepareConfig())
    assert {(issue.code, issue.image, issue.annotation, issue.message) for issue in report.issues} == found
    assert {code for code, *_ in found} == WHOLE_SET
    listed = {issue["code"] for issue in json.loads((tmp_path / "d/issues.json").read_text())["issues"]}
    assert listed == WHOLE_SET
    assert all(any(f"1 x {code}" in line for line in report.lines()) for code in WHOLE_SET)


def test_no_leak_survives_a_new_split(tmp_path):
    source = planted(tmp_path / "s")
    for seed in range(5):
        report = prepare(source, tmp_path / "d", PrepareConfig(split="0.6,0.2,0.2", seed=seed))
        assert not {issue.code for issue in report.issues if issue.code.startswith("leak")}


def test_leaks_that_the_asked_grouping_leaves_are_told(tmp_path):
    (source := tmp_path / "s").mkdir()
    for number in range(6):
        Image.fromarray(scene(number)).save(source / f"a_jpg.rf.{number}.png")
    coco(source, [(f"a_jpg.rf.{number}.png", 160, 120, RING) for number in range(6)])
    config = PrepareConfig(split="0.5,0.25,0.25", group_by=r"rf\.(\d)")
    report = prepare(source, tmp_path / "d", config)
    leaks = [issue for issue in report.issues if issue.code == "leak-same-source"]
    assert len(leaks) >= 2
    assert "--group-by source" in leaks[0].repair


def test_one_image_file_in_two_splits_is_a_leak(tmp_path):
    (source := tmp_path / "s").mkdir()
    Image.fromarray(scene(0)).save(source / "a.png")
    for split in ("train", "val"):
        coco(source, [("a.png", 160, 120, RING)])
        (source / "_annotations.coco.json").rename(source / f"instances_{split}.json")
    report = prepare(source, tmp_path / "d", PrepareConfig())
    assert report.images == {"train": 1, "valid": 1, "test": 0}
    assert [issue.code for issue in report.issues] == ["leak-same-bytes"]
    new = prepare(source, tmp_path / "d", PrepareConfig(split="0.5,0.5,0"))
    assert not [issue for issue in new.issues if issue.code.startswith("leak")]


def crowd_of_runs(source):
    """A set with one finding about run lengths."""
    coco(source / "train", [("a.png", 160, 120, RING)])
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(source / "train/a.png")
    file = source / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    runs = {"size": [120, 160], "counts": list(encode_rle(mask).counts)}
    content["annotations"].append(content["annotations"][0] | {"id": 7, "segmentation": runs, "iscrowd": 1})
    file.write_text(json.dumps(content))
    return source


def test_findings_about_run_lengths_are_outlined(tmp_path):
    found = audit(crowd_of_runs(tmp_path / "s"))
    (example,) = [example for example in found.examples if example.issue.code == "crowd"]
    pixels = np.asarray(Image.open(io.BytesIO(draw(example.images[0]))).convert("RGB")).astype(int)
    red = pixels[:, :, 0] - pixels[:, :, 1] > 80
    assert red[28:33, 50:110].any(axis=0).all()
    assert red[40:80, 38:43].any(axis=1).all()
    assert not red[40:80, 50:110].any()
    assert not red[:20].any()


def test_an_archive_is_named_and_shown_after_its_folder_is_gone(tmp_path):
    source = crowd_of_runs(tmp_path / "s")
    shutil.make_archive(str(tmp_path / "a"), "zip", source)
    found = audit(tmp_path / "a.zip")
    render_html(found, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert page.count("<img src=") == sum(issue.image is not None for issue in found.issues) >= 1
    assert f"samtune studio {tmp_path / 'a.zip'} --image {found.examples[0].issue.image}" in page
    report = prepare(tmp_path / "a.zip", tmp_path / "d", PrepareConfig(split="1,0,0"))
    for issues in (found.issues, report.issues):
        assert all(issue.file.startswith(str(tmp_path / "a.zip")) for issue in issues)
    (source / "train/_annotations.coco.json").write_text("{")
    shutil.make_archive(str(tmp_path / "b"), "zip", source)
    for work in (audit, lambda archive: prepare(archive, tmp_path / "d2", PrepareConfig())):
        with pytest.raises(DataError, match=r"b\.zip/train/_annotations\.coco\.json, line 1"):
            work(tmp_path / "b.zip")


def test_what_the_reader_finds_is_shown_too(tmp_path):
    (tmp_path / "s/train").mkdir(parents=True)
    Image.fromarray(scene(0)).save(tmp_path / "s/train/a.png")
    coco(tmp_path / "s/train", [("a.png", 160, 120, [1, 2, 3, 4])])
    examples = {example.issue.code: example for example in audit(tmp_path / "s").examples}
    assert draw(examples["polygon-points"].images[0])


def test_the_doctor_works_where_torch_is_broken(tmp_path):
    """None in `sys.modules` makes an import fail; what takes long to load is not loaded either."""
    s = tmp_path / "s"
    (s / "train").mkdir(parents=True)
    Image.fromarray(scene(0)).save(s / "train/a.png")
    coco(s / "train", [("a.png", 160, 120, RING)])
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'polars', 'cv2', 'matplotlib']));"
        "from samtune.cli import main; main(['doctor', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", code, s], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train  1 image, 1 object\n" in done.stdout
