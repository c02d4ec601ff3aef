"""Many images on a Ray cluster: the same masks as without Ray, errors that stay ours. Skipped where Ray is missing."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
from PIL import Image

import samtune
from samtune.config import PredictConfig, ShardsConfig
from samtune.errors import DataError, UsageError

SHARDS = ShardsConfig(shard_images=2, threads=1)
CONFIG = PredictConfig(box=("2,3,20,21",))


@pytest.fixture
def images(tmp_path):
    """Five images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_ray_is_named(images, tmp_path):
    with pytest.raises(UsageError, match=r"samtune\[ray\]"):
        samtune.predict_on_ray(images, "nano", tmp_path / "job", CONFIG, workers=2)


def test_no_worker_is_refused(images, tmp_path):
    with pytest.raises(UsageError, match="at least one worker"):
        samtune.predict_on_ray(images, "nano", tmp_path / "job", CONFIG, workers=0)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_tasks_do_what_one_process_does(tiny_folder, images, tmp_path):
    alone = samtune.predict_many(images, tiny_folder, tmp_path / "alone", CONFIG, SHARDS, quiet=True)
    report = samtune.predict_on_ray(images, tiny_folder, tmp_path / "job", CONFIG, SHARDS, workers=2, cpus=0.5)
    assert (report.images, report.objects, report.damaged) == (alone.images, alone.objects, alone.damaged) == (5, 5, 0)
    rows = []
    for folder in ("alone", "job"):
        files = sorted((tmp_path / folder / "shards").glob("*.masks.parquet"))
        rows.append(pl.concat([pl.read_parquet(file) for file in files]).sort("number"))
    assert rows[0].equals(rows[1])
    with pytest.raises(DataError, match="boxes"):
        config = PredictConfig(boxes=tmp_path / "boxes.json")
        samtune.predict_on_ray(images, tiny_folder, tmp_path / "other", config, SHARDS, workers=1, cpus=0.5)
    assert not (tmp_path / "other").exists()
