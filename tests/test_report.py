"""The report from two models' answers: whole, self-contained, escaped, and made from files alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from samtune import api
from samtune.config import EvalConfig
from samtune.data.table import Dataset
from samtune.errors import ConfigError, DataError
from samtune.evaluation.fixed_prompts import PromptSet
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.report.build import build_report
from samtune.report.folder import data_curve_in, load_comparisons
from samtune.report.guard_scenes import guard_scenes
from samtune.report.render import MOST_BYTES, write_report
from tests.small import make_dataset
from tests.test_distributed import environment, free_port
from tests.tiny import tiny_sam2

FEW = EvalConfig(jitter=(), mask_prompt=False, clicks=0)
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tiny_folder):
    root = tmp_path_factory.mktemp("compared")
    dataset = make_dataset(root / "set", train=1, valid=1, test=3, seed=1)
    save_model(tiny_sam2(seed=1), root / "other")
    models = [Predictor(load_model(folder)) for folder in (tiny_folder, root / "other")]
    curve = root / "run/metrics.jsonl"
    curve.parent.mkdir()
    steps = [{"step": n, "loss": 1 / (n + 1), "lr": 1e-4, "train_iou": 0.5} for n in range(1, 20)]
    lines = [{"step": 0, "valid/box": 0.4, "best": True}, *steps, {"step": 19, "valid/box": 0.5, "best": True}]
    curve.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 20, "lo')
    (comparison,) = build_report(
        dataset,
        models[0],
        models[1:],
        root / "out",
        EvalConfig(),
        names=("nano", HOSTILE),
        scenes=2,
        runs=[curve.parent],
    )
    return root / "out", comparison, curve


class _Addresses(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


def test_the_page_needs_nothing_outside_itself(compared):
    page = (compared[0] / "report.html").read_text()
    seen = _Addresses()
    seen.feed(page)
    assert sum(address.startswith("data:image/jpeg") for address in seen.addresses) >= 8
    assert all(address.startswith(("data:", "#")) for address in seen.addresses)
    assert not seen.tags & {"iframe", "object", "form", "a"}
    assert page.count("<script") == 1
    assert len(page.encode()) < MOST_BYTES
    assert not re.search(r"url\((?!#)|@import", page)


def test_names_are_escaped_and_the_verdict_stands_there(compared):
    page = (compared[0] / "report.html").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert compared[1].verdict.headline in page
    for guard in compared[1].guards:
        assert guard.title.replace("'", "&#39;") in page
    assert "Training" in page
    for caption in ("simulated annotator", "drawn less exactly", "predicted IoU is right"):
        assert caption in page


def test_the_figures_are_there_for_programs_too(compared):
    content = json.loads((compared[0] / "report.json").read_text())
    assert content["verdict"] == str(compared[1].verdict)
    assert content["settings"]["tuned model"].startswith(HOSTILE)
    assert set(content["calibration"]["tuned"]) == {"box", "point", "box_jitter_0.1", "box_jitter_0.2", "mask"}
    assert [one["target"] for one in content["clicks_needed"]] == [0.85, 0.9]


def test_a_blend_has_its_curve(compared, tmp_path):
    points = [
        {"alpha": a, "gains": {"box": a / 10, "point": -a / 20}, "guards": {"click": -a / 20}} for a in (0, 0.5, 1)
    ]
    (tmp_path / "blend.json").write_text(json.dumps({"alpha": 0.5, "points": points}))
    shutil.copytree(compared[0], tmp_path / "out")
    write_report(tmp_path / "out", blend=tmp_path / "blend.json")
    page = (tmp_path / "out/report.html").read_text()
    assert "This model is a blend" in page
    assert "<h2>Training</h2>" not in page


def test_the_folder_holds_what_the_report_was_made_from(compared):
    folder, comparison, curve = compared
    before = (folder / "report.html").read_bytes()
    write_report(folder, curve=curve)
    assert (folder / "report.html").read_bytes() == before
    content = json.loads((folder / "comparison.json").read_text())
    assert content["verdict"] == str(comparison.verdict)
    images = [image for row in content["gallery"] for image in row["images"]]
    named = {file for image in images for file in image.get("views", {"file": image.get("file")}).values()}
    assert named == {f"gallery/{path.name}" for path in (folder / "gallery").iterdir()}


def test_a_comparison_replaces_nothing_but_a_comparison(compared, tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=0, test=1, empty=0)
    model = Predictor(load_model(tiny_folder))
    (tmp_path / "notes.txt").write_text("mine")
    for out in (dataset.root, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="choose another --out"):
            build_report(dataset, model, [model], out, FEW, names=("a", "b"))
    assert len(Dataset.open(dataset.root).images) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for _ in range(2):
        build_report(dataset, model, [model], tmp_path / "out", FEW, names=("a", "b"))


def test_several_models_are_ranked_and_guards_are_kept(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=0, test=2, empty=0)
    guard = make_dataset(tmp_path / "guard", train=1, valid=0, test=0, empty=0, seed=3)
    save_model(tiny_sam2(seed=1), tmp_path / "other")
    base, other = (Predictor(load_model(folder)) for folder in (tiny_folder, tmp_path / "other"))
    found = build_report(dataset, base, [base, other], tmp_path / "out", FEW, names=("a", "b", "c"), guards=[guard])
    assert {one.tuned.model for one in found} == {"b", "c"}
    assert all(one.models == 2 for one in found)
    assert {guard.name for guard in found[0].guards} >= {"guard/box", "guard/point"}
    lines = found[0].lines()
    assert (lines[0].split(), lines[-1].split()[:2]) == (
        ["best", "of", "2", found[0].tuned.model],
        ["then", f"{found[1].tuned.model}:"],
    )
    again, _, _ = load_comparisons(tmp_path / "out")
    assert [str(one.verdict) for one in again] == [str(one.verdict) for one in found]
    assert again[0].guards == found[0].guards
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [one["model"] for one in content["ranking"]] == [one.tuned.model for one in found]
    assert PromptSet.load(tmp_path / "out/prompts.json").split == "test"


def test_scenes_are_drawn_once_and_again_where_something_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with guard_scenes(1) as drawn:
        assert drawn.root.is_relative_to(tmp_path)
        table = drawn.root / "table.parquet"
        before = table.stat().st_mtime_ns
        pixels = drawn.read_image(drawn.images[0])
    with guard_scenes(1) as again:
        assert table.stat().st_mtime_ns == before
        mask = again.root / again.images[0].objects[0].mask_path
    mask.unlink()
    with guard_scenes(1) as whole:
        assert mask.is_file()
        assert (whole.read_image(whole.images[0]) == pixels).all()


def test_scenes_are_drawn_elsewhere_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with guard_scenes(1) as drawn:
        assert drawn.read_image(drawn.images[0]).any()
    assert not drawn.root.exists()


def test_two_processes_compare_as_one_does(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=1, valid=0, test=3, empty=1)
    save_model(tiny_sam2(seed=1), tmp_path / "other")
    models, config = (str(tiny_folder), str(tmp_path / "other")), EvalConfig(device="cpu", clicks=1)
    api.compare(dataset.root, *models, tmp_path / "one", config, guard_scenes=2, automatic=True, quiet=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command += ["-m", "samtune", "compare", str(dataset.root), "--base", models[0], "--tuned", models[1]]
    command += ["--device", "cpu", "--clicks", "1", "--guard-scenes", "2", "--automatic", "--quiet"]
    command += ["--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact box") == 1
    written = [{file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*")} for name in ("one", "two")]
    assert written[0] == written[1]
    for file in ("comparison.json", "prompts.json", "base.json", "tuned.json", "automatic.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_guards_with_one_name_or_without_objects_are_refused(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=0, test=1, empty=0)
    model = Predictor(load_model(tiny_folder))
    twice = [make_dataset(tmp_path / name / "guard", train=0, valid=0, test=1, empty=0) for name in "ab"]
    with pytest.raises(ConfigError, match="different names"):
        build_report(dataset, model, [model], tmp_path / "out", FEW, names=("a", "b"), guards=twice)
    empty = make_dataset(tmp_path / "empty", train=0, valid=0, test=1, empty=1)
    with pytest.raises(DataError, match="a guard with annotated objects"):
        build_report(dataset, model, [model], tmp_path / "out", FEW, names=("a", "b"), guards=[empty])
    assert not (tmp_path / "out").exists()


def test_one_image_alone_is_no_comparison(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=0, test=2, empty=1)
    with pytest.raises(DataError, match="at least two images with objects in the test split"):
        api.compare(dataset.root, tiny_folder, tiny_folder, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_data_curve_is_named_before_anything_is_measured(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "set", train=0, valid=0, test=1, empty=0)
    for curve, found in ((dataset.root, "no such file"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(DataError, match=found):
            api.compare(dataset.root, tiny_folder, tiny_folder, tmp_path / "out", FEW, curve=curve, quiet=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "curve.json").write_text("{}")
    assert data_curve_in(tmp_path) == tmp_path / "curve.json"


def test_a_folder_that_compare_did_not_write_is_named(tmp_path):
    with pytest.raises(DataError, match=r"comparison\.json"):
        write_report(tmp_path)
