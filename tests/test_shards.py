"""Many images in shards: claims, what is read, what is written, and workers that are killed."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import samtune
from samtune.config import AutomaticConfig, PredictConfig, ShardsConfig
from samtune.errors import ConfigError, DataError
from samtune.inference.files import predict_files
from samtune.inference.predictor import Predictor
from samtune.inference.shards.claims import DONE, OPEN, TAKEN, Claims, done_shards, machine
from samtune.inference.shards.tables import read_manifest, read_prompts
from samtune.model.io.load import load_model
from samtune.runtime.device import number_of_gpu
from tests.shards_fire import check, draw, under_fire

SHARDS = ShardsConfig(shard_images=3, threads=2)


@pytest.fixture
def images(tmp_path):
    """Seven images of different sizes, in a folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 255, (40 + number, 60 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def manifest(images):
    file = images.parent / "manifest.parquet"
    pl.DataFrame({"path": [f"images/{number:03}.png" for number in range(7)]}).write_parquet(file)
    return file


@pytest.fixture
def boxes(tmp_path):
    """COCO results: two boxes about image 1, one about each of 3 and 6."""
    file = tmp_path / "boxes.json"
    rows = [(1, [5, 5, 20, 20]), (1, [10, 8, 30, 25]), (3, [0, 0, 50, 40]), (6, [20, 20, 20, 20])]
    content = [{"image_id": f"{number:03}", "bbox": box, "category_id": 4, "score": 0.5} for number, box in rows]
    file.write_text(json.dumps(content))
    return file


def merged(folder, format="coco"):
    samtune.merge(folder, folder.parent / "merged.json", format, quiet=True)
    return json.loads((folder.parent / "merged.json").read_text())


def test_the_masks_are_those_of_one_process_and_one_folder(tiny_folder, images, manifest, boxes, tmp_path):
    config = PredictConfig(boxes=boxes, box=("2,3,30,31",), point=("12,13",), chunk=3)
    report = samtune.predict_many(manifest, tiny_folder, tmp_path / "job", config, SHARDS, quiet=True)
    assert (report.images, report.objects, report.damaged) == (7, 18, 0)
    alone = predict_files(images, Predictor(load_model(tiny_folder)), tmp_path / "alone", config)
    known = json.loads((alone.out / "predictions.json").read_text())
    found = merged(tmp_path / "job")
    assert [image["file_name"] for image in found["images"]] == [f"images/{number:03}.png" for number in range(7)]
    assert found["categories"] == [{"id": 1, "name": "1"}, {"id": 4, "name": "4"}]
    key = lambda one: (one["name"], one["bbox"], one["category_id"])  # noqa: E731
    names = {image["id"]: image["file_name"].split("/")[-1] for image in found["images"]}
    ours = sorted(({**one, "name": names[one["image_id"]]} for one in found["annotations"]), key=key)
    theirs = sorted(({**one, "name": one["file_name"]} for one in known), key=key)
    for one, other in zip(ours, theirs, strict=True):
        assert one["segmentation"] == other["segmentation"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["object_score"] == pytest.approx(other["object_score"], abs=1e-4)


def test_batches_and_threads_change_no_mask(tiny_folder, manifest, boxes, tmp_path):
    config = PredictConfig(boxes=boxes)
    contents = []
    for number, shards in enumerate((SHARDS, ShardsConfig(shard_images=7, encode_batch=1, threads=1))):
        folder = tmp_path / f"{number}" / "job"
        samtune.predict_many(manifest, tiny_folder, folder, config, shards, quiet=True)
        contents.append(merged(folder, "results"))
    masks = [[(one["image_id"], one["segmentation"]["counts"]) for one in content] for content in contents]
    assert masks[0] == masks[1]
    assert len(masks[0]) == 4


def test_a_grid_of_clicks_and_a_folder_work_too(tiny_folder, images, tmp_path):
    grid = AutomaticConfig(points_per_side=2, min_iou_score=0.0, min_stability=0.0)
    config = PredictConfig(everything=True, automatic=grid)
    model = load_model(tiny_folder)
    with torch.no_grad():
        model.model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(100.0)
    report = samtune.predict_many(images, Predictor(model), tmp_path / "job", config, SHARDS, quiet=True)
    alone = predict_files(images, Predictor(model), tmp_path / "alone", config)
    assert report.objects == alone.objects > 0


def test_damaged_images_are_listed_and_not_the_end(tiny_folder, images, manifest, tmp_path):
    (images / "002.png").write_bytes((images / "002.png").read_bytes()[:200])
    config = PredictConfig(box=("2,3,30,31",))
    report = samtune.predict_many(manifest, tiny_folder, tmp_path / "job", config, SHARDS, quiet=True)
    assert (report.images, report.objects, report.damaged) == (7, 6, 1)
    assert any("images/002.png" in line for line in report.lines())
    samtune.merge(tmp_path / "job", tmp_path / "out.json", quiet=True)
    assert "images/002.png" in (tmp_path / "out.damaged.csv").read_text()
    assert len(json.loads((tmp_path / "out.json").read_text())["images"]) == 7


def test_a_box_beside_its_image_is_listed_with_it(tiny_folder, manifest, tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("image,x1,y1,x2,y2\n000.png,900,900,950,950\n001.png,3,3,30,30\n")
    config = PredictConfig(boxes=file)
    report = samtune.predict_many(manifest, tiny_folder, tmp_path / "job", config, SHARDS, quiet=True)
    assert (report.objects, report.damaged) == (1, 1)
    assert any("prompts inside the image" in line for line in report.lines())


def test_another_job_on_the_same_folder_is_refused_and_loses_nothing(tiny_folder, manifest, boxes, tmp_path):
    config = PredictConfig(boxes=boxes)
    samtune.predict_many(manifest, tiny_folder, tmp_path / "job", config, SHARDS, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "job").rglob("*")}
    for other, shards in ((PredictConfig(box=("1,1,9,9",)), SHARDS), (config, ShardsConfig(shard_images=2))):
        with pytest.raises(ConfigError, match="another one: different"):
            samtune.predict_many(manifest, tiny_folder, tmp_path / "job", other, shards, quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="a folder with something in it"):
        samtune.predict_many(manifest, tiny_folder, tmp_path / "mine", config, SHARDS, quiet=True)
    again = samtune.predict_many(manifest, tiny_folder, tmp_path / "job", config, SHARDS, quiet=True)
    assert (again.images, again.own_images) == (7, 0)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "job").rglob("*")}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"path": ["images/000.png", "images/gone.png"]}, "1 that are not there: images/gone.png"),
        ({"path": ["images/000.png", "images/000.png"]}, "more than once"),
        ({"path": ["../../etc/passwd"]}, "images below"),
        ({"path": ["/etc/passwd"]}, "images below"),
        ({"names": ["images/000.png"]}, "a column of paths"),
        ({"path": [1, 2]}, "a column of paths"),
        ({"path": ["images/000.png", None]}, "a row without a path"),
        ({"path": ["images/000.png", "images/001.png"], "image_id": [1, 1]}, "image_id of its own"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named_and_nothing_is_written(images, tiny_folder, tmp_path, rows, says):
    file = tmp_path / "manifest.parquet"
    pl.DataFrame(rows).write_parquet(file)
    with pytest.raises(DataError, match=says):
        samtune.predict_many(file, tiny_folder, tmp_path / "job", PredictConfig(box=("1,1,9,9",)), quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["images", "manifest.parquet"]


DETECTIONS = {
    "results.json": json.dumps([{"image_id": 1, "bbox": [5, 6, 10, 20], "category_id": 3, "score": 0.25}]),
    "supervision.json": json.dumps(
        [{"x_min": 5, "y_min": 6, "x_max": 15, "y_max": 26, "class_id": 3, "confidence": 0.25, "file_name": "001.png"}]
    ),
    "supervision.csv": "x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,file_name\n5,6,15,26,3,0.25,,001.png\n",
    "ultralytics.json": json.dumps(
        {
            "images/001.png": [
                {"name": "cat", "class": 3, "confidence": 0.25, "box": {"x1": 5, "y1": 6, "x2": 15, "y2": 26}}
            ]
        }
    ),
    "coco.json": json.dumps(
        {
            "images": [{"id": 77, "file_name": "elsewhere/001.png"}],
            "annotations": [{"id": 1, "image_id": 77, "bbox": [5, 6, 10, 20], "category_id": 3, "score": 0.25}],
            "categories": [{"id": 3, "name": "cat"}],
        }
    ),
}


@pytest.mark.parametrize("name", DETECTIONS)
def test_detections_are_read_in_the_formats_that_detectors_write(manifest, tmp_path, name):
    file = tmp_path / name
    file.write_text(DETECTIONS[name])
    table, names = read_prompts(file, read_manifest(manifest, None))
    assert table.to_dicts() == [
        {"image": 1, "x0": 5, "y0": 6, "x1": 15, "y1": 26, "category_id": 3, "detection_score": 0.25}
    ]
    assert names == ({3: "cat"} if name == "coco.json" else {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{", "detections"),
        ("[1, 2]", "detections"),
        ('[{"image_id": "001"}]', "no boxes"),
        ('[{"image_id": "001", "bbox": [1, 2, 3]}]', "another length"),
        ('[{"image_id": "001", "bbox": [1, 2, 3, 0]}]', "a positive size"),
        ('[{"image_id": "001", "bbox": [1, 2, NaN, 4]}]', "a positive size"),
        ('[{"image_id": "other", "bbox": [1, 2, 3, 4]}]', "about others: other"),
        ('[{"bbox": [1, 2, 3, 4]}]', "name their image"),
        ("[]", "name their image"),
        ('{"annotations": [{"image_id": 5, "bbox": [1, 2, 3, 4]}], "images": []}', "detections"),
    ],
)
def test_detections_that_cannot_be_used_are_named(manifest, tmp_path, text, says):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(DataError, match=says):
        read_prompts(file, read_manifest(manifest, None))


@settings(max_examples=20, deadline=None)
@given(shards=st.integers(1, 12), threads=st.integers(1, 6))
def test_a_shard_is_claimed_once_however_many_ask(tmp_path_factory, shards, threads):
    folder = tmp_path_factory.mktemp("job")
    Claims.create(folder, shards)
    got: list[int] = []

    def claim_all():
        claims = Claims(folder, shards)
        while claim := claims.take():
            got.append(claim.shard)
            claims.finish(claim, {})

    workers = [threading.Thread(target=claim_all) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(got) == list(range(shards)) == done_shards(folder)
    assert Claims(folder, shards).is_complete()


def test_a_dead_owner_is_seen_by_its_process_or_by_its_silence(tmp_path):
    Claims.create(tmp_path, 3)
    mine = Claims(tmp_path, 3)
    gone = _pid_of_the_past()
    alive = f"{machine()}-{os.getpid()}-aa"
    for shard, owner in enumerate((f"{machine()}-{gone}-aa", f"0badcafe-{gone}-aa", alive)):
        (tmp_path / OPEN / f"{shard:05}").rename(tmp_path / TAKEN / f"{shard:05}@{owner}")
    first = mine.take()
    assert first is not None
    assert first.shard == 0
    assert mine.take() is None  # another machine's, which still has its time, and a living one's
    os.utime(tmp_path / TAKEN / f"00001@0badcafe-{gone}-aa", (1, 1))
    second = mine.take()
    assert second is not None
    assert second.shard == 1
    assert mine.take() is None


def test_who_lost_a_shard_leaves_it_to_its_new_owner(tmp_path):
    Claims.create(tmp_path, 1)
    slow, fast = Claims(tmp_path, 1), Claims(tmp_path, 1, stale=-1.0)
    first = slow.take()
    second = fast.take()
    assert first is not None
    assert second is not None
    assert not slow.finish(first, {"images": 1})
    slow.release(first)
    assert list((tmp_path / OPEN).iterdir()) == []
    assert fast.finish(second, {"images": 1})
    assert json.loads((tmp_path / DONE / "00000.json").read_text())["images"] == 1


def test_work_that_fails_gives_its_shard_back(tmp_path):
    Claims.create(tmp_path, 1)
    claims = Claims(tmp_path, 1)
    claim = claims.take()
    assert claim is not None
    with pytest.raises(KeyboardInterrupt), claims.kept(claim):
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / OPEN).iterdir()] == ["00000"]


def test_merge_names_what_is_not_finished(tiny_folder, manifest, boxes, tmp_path):
    with pytest.raises(DataError, match=r"no job\.json"):
        samtune.merge(tmp_path, tmp_path / "out.json")
    samtune.predict_many(manifest, tiny_folder, tmp_path / "job", PredictConfig(boxes=boxes), SHARDS, quiet=True)
    (tmp_path / "job" / DONE / "00001.json").unlink()
    with pytest.raises(DataError, match="1 that are not: 1"):
        samtune.merge(tmp_path / "job", tmp_path / "out.json", quiet=True)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("environment", "count", "expected"),
    [({}, 4, 0), ({"LOCAL_RANK": "2"}, 4, 2), ({"SLURM_LOCALID": "3"}, 4, 3), ({"SLURM_LOCALID": "3"}, 1, 0)],
)
def test_processes_of_a_machine_take_gpus_of_their_own(environment, count, expected):
    assert number_of_gpu(environment, count) == expected


def test_workers_killed_at_random_lose_and_repeat_no_image(tmp_path):
    draw(tmp_path, 300)
    under_fire(tmp_path, shard_images=10, kills=4, workers=2, seed=1, pause=0.2)
    check(tmp_path, 300)


def _pid_of_the_past() -> int:
    """The number of a process that has ended."""
    import subprocess
    import sys

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
