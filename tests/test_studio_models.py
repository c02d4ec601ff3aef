"""The studio's server with a real model behind a real socket: prompts, proposals, two models, the loop."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from samtune.cli.studio import studio as samtune_studio
from samtune.config import StudioConfig
from samtune.errors import ModelError, UsageError
from samtune.studio import tuning
from samtune.studio.models import Models
from samtune.studio.serve import listening_socket, opened
from samtune.synthetic.demo_export import write_demo_export
from samtune.types import Prompt
from tests.conftest import REPO
from tests.small import make_dataset
from tests.studio_server import Page, mask_json, pixels_of, served, square, visit, wait_for, write_images


@pytest.fixture(scope="module")
def models(tiny_folder):
    return Models(str(tiny_folder), device="cpu")


@pytest.fixture
def studio(tmp_path, models):
    write_images(tmp_path / "images")
    with opened(tmp_path / "images", tmp_path / "studio", lambda: models, classes=("disc", "hole"), quiet=True) as one:
        yield one


def test_answers_are_those_of_the_predictor(studio, models):
    loaded = models.start.predictor
    pixels = np.asarray(Image.open(studio.source.dataset.root / "image-0.png"))
    embedded = loaded.embed(pixels)
    with served(studio) as page:
        state = page.state()
        assert [one["name"] for one in state["images"]] == ["image-0.png", "image-1.png", "image-2.png"]
        assert (state["images"][0]["width"], state["images"][0]["height"]) == (80, 72)
        assert page.post("/api/images/1/embed", json={}).json() == {"embedded": True}
        questions = [
            ({"box": [25, 15, 58, 47]}, Prompt.box(25, 15, 58, 47)),
            ({"points": [[40, 30], [5, 5]], "labels": [1, 0]}, Prompt.clicks([(40, 30), (5, 5)], [1, 0])),
        ]
        for multimask in (False, True):
            for asked, prompt in questions:
                answer = page.predict("1", multimask=multimask, **asked)
                expected = loaded.predict(embedded, [prompt], multimask_output=multimask)[0]
                assert len(answer["masks"]) == len(expected.masks) == (3 if multimask else 1)
                for one, mask, score in zip(answer["masks"], expected.masks, expected.iou_scores, strict=True):
                    differing = (pixels_of(one["mask"], 72, 80) ^ mask).mean()
                    assert differing < 0.01, "kept embeddings are stored in bf16"
                    assert one["iou"] == pytest.approx(float(np.clip(score, 0, 1)), abs=0.02)
        first = page.predict("1", box=[25, 15, 58, 47])
        corrected = page.predict("1", box=[25, 15, 58, 47], points=[[40, 30]], labels=[1], previous=first["previous"])
        again = page.predict("1", box=[25, 15, 58, 47], points=[[40, 30]], labels=[1], previous=first["previous"])
        alone = page.predict("1", box=[25, 15, 58, 47], points=[[40, 30]], labels=[1])
        assert corrected["masks"][0]["iou"] == again["masks"][0]["iou"] != alone["masks"][0]["iou"]
        other = {"model": "base", "points": [[4, 4]], "labels": [1], "previous": first["previous"]}
        assert page.post("/api/images/2/predict", json=other).status_code == 400, "a token of another image"
        wait_for(lambda: all(one["embedded"] for one in page.state()["images"]))
        wait_for(lambda: any(one["doubt"] for one in page.state()["images"]))


def test_pixels_are_those_of_the_file(studio):
    with served(studio) as page:
        whole = page.get("/api/images/2/pixels")
        assert whole.headers["content-type"] == "image/png"
        expected = np.asarray(Image.open(studio.source.dataset.root / "image-1.png"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole.content))), expected)
        small = Image.open(io.BytesIO(page.get("/api/images/2/pixels", params={"max": 40}).content))
        assert small.size == (40, 36)
        assert page.get("/api/images/2/pixels", params={"max": 1}).status_code == 400
        assert page.get("/api/images/9/pixels").status_code == 404


def test_proposals_leave_out_what_is_accepted(studio):
    with served(studio) as page:
        before = page.post("/api/images/1/proposals", json={"model": "base"}).raise_for_status().json()["objects"]
        if before:
            page.accept("1", before[0]["mask"])
            after = page.post("/api/images/1/proposals", json={"model": "base"}).json()["objects"]
            assert before[0]["mask"] not in [one["mask"] for one in after]
        assert page.post("/api/images/1/proposals", json={"model": "none"}).status_code == 404
        asked = {"model": "base", "points": [[4, 4]], "labels": [1]}
        assert page.post("/api/images/1/compare", json=asked).status_code == 400, "one model alone"
        assert page.get("/api/disagreements").status_code == 400


def test_the_loop_from_objects_to_another_model(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(tuning, "NICENESS", 0)  # among other tests it would wait for all of them
    data = make_dataset(tmp_path / "data", train=4, valid=2, test=3)
    with visit(data.root, lambda: Models(str(tiny_folder), device="cpu")) as (_, page):
        assert page.get("/api/tune").json()["state"] == "idle"
        assert page.post("/api/tune", json={"steps": 3}).json()["state"] == "running"
        assert page.post("/api/tune", json={"steps": 3}).status_code == 400
        wait_for(lambda: page.get("/api/tune").json()["state"] != "running", 900)
        done = page.get("/api/tune").json()
        assert done["state"] == "done", done["error"]
        assert done["step"] == done["steps"] == 3
        assert [point["step"] for point in done["curve"] if point["loss"] is not None] == [1, 2, 3]
        assert [point["step"] for point in done["curve"] if point["iou"] is not None] == [0, 1, 2, 3]
        assert done["verdict"]["decision"] and done["verdict"]["reasons"]
        assert page.state()["active"] == "base", "the switch is the person's"
        assert page.post("/api/models/active", json={"model": done["model"]}).json() == {"active": "tune-1"}
        asked = {"model": "tune-1", "box": [10, 10, 40, 40]}
        compared = page.post("/api/images/1/compare", json=asked).raise_for_status().json()
        assert 0 <= compared["iou"] <= 1 and compared["model"] == "tune-1"
        damaged = data.root / data.images[2].image_path
        damaged.write_bytes(damaged.read_bytes()[:60])
        wait_for(lambda: page.get("/api/disagreements").json()["waiting"] == 0)
        disagreements = page.get("/api/disagreements").json()["objects"]
        held = {image["id"] for image in page.state()["images"] if image["objects"]}
        assert {one["image_id"] for one in disagreements} == held - {"3"}, "all but the damaged one"
        assert [one["iou"] for one in disagreements] == sorted(one["iou"] for one in disagreements)
    with visit(data.root, lambda: Models(str(tiny_folder), device="cpu")) as (_, page):
        assert page.state()["active"] == "tune-1"


def test_too_few_images_are_no_loop(studio):
    with served(studio) as page:
        page.accept("1", mask_json(square()))
        refused = page.post("/api/tune", json={"steps": None})
        assert refused.status_code == 422 and "at least 4 images" in refused.json()["error"]["expected"]


def test_a_model_that_is_none_is_named(tmp_path):
    write_images(tmp_path / "images")
    with pytest.raises(ModelError):
        Models(str(tmp_path / "images"), device="cpu")


def test_a_taken_port_is_said_before_anything_is_written(tmp_path, tiny_folder):
    write_images(tmp_path / "images", count=1)
    with listening_socket(0) as taken, pytest.raises(UsageError, match="taken"):
        config = StudioConfig(port=taken.getsockname()[1], out=tmp_path / "studio", browser=False, device="cpu")
        samtune_studio(tmp_path / "images", model=str(tiny_folder), config=config)
    assert not (tmp_path / "studio").exists()


def test_the_command_serves_and_ends_well(tmp_path, tiny_folder):
    """From the printed address to SIGTERM: what was accepted is in the table, and the journal is empty."""
    write_images(tmp_path / "images", count=1)
    command = [sys.executable, "-m", "samtune", "studio", str(tmp_path / "images"), "--model", str(tiny_folder)]
    command += ["--out", str(tmp_path / "studio"), "--no-browser", "--device", "cpu", "--classes", "disc"]
    path = os.pathsep.join(filter(None, (str(REPO / "src"), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        port, token = address.removeprefix("http://127.0.0.1:").split("/?token=")
        with Page(int(port), token) as page:
            assert [one["name"] for one in page.state()["classes"]] == ["disc"]
            answer = page.predict("1", points=[[40, 30]], labels=[1])
            assert len(answer["masks"]) == 1
            page.accept("1", mask_json(square()))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "studio/journal.jsonl").read_bytes() == b""
    table = json.loads((tmp_path / "studio/annotations.coco.json").read_text())
    assert [one["area"] for one in table["annotations"]] == [400]


@pytest.mark.slow
def test_thirty_steps_with_nano_on_the_demos_images(tmp_path):
    write_demo_export(tmp_path / "export", 0, lambda done, total: None)
    with visit(tmp_path / "export", lambda: Models("nano", device="cpu")) as (studio, page):
        assert page.post("/api/tune", json={"steps": 30}).json()["state"] == "running"
        wait_for(lambda: page.get("/api/tune").json()["state"] != "running", 1200)
        done = page.get("/api/tune").json()
        assert done["state"] == "done" and done["step"] == 30, done["error"]
        assert 0 < done["verdict"]["base"] < 1 and 0 < done["verdict"]["tuned"] < 1
        assert len([point for point in done["curve"] if point["iou"] is not None]) >= 10
        page.post("/api/models/active", json={"model": done["model"]}).raise_for_status()
        one = page.objects("1")["objects"][0]
        x, y, w, h = one["mask"]["bbox"]
        answer = page.predict("1", model=done["model"], box=[x, y, x + w, y + h])
        image = studio.store.image("1")
        found, truth = (
            pixels_of(mask, image.height, image.width) for mask in (answer["masks"][0]["mask"], one["mask"])
        )
        assert (found & truth).sum() / (found | truth).sum() > 0.5


def test_a_tuning_that_is_cancelled_leaves_the_model_in_use(tmp_path, tiny_folder):
    data = make_dataset(tmp_path / "data", train=4, valid=2, test=3)
    with visit(data.root, lambda: Models(str(tiny_folder), device="cpu")) as (_, page):
        page.post("/api/tune", json={"steps": 100_000}).raise_for_status()
        done = page.post("/api/tune/cancel", json={}).json()
        assert done["state"] == "cancelled" and done["model"] is None
        assert [one["key"] for one in page.state()["models"]] == ["base"]
