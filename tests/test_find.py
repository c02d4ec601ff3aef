"""Finding for real, on a tiny random model: a network that learns, a run that gets a finder, files and commands."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from samtune import api
from samtune.api import training as api_training
from samtune.cli.app import main
from samtune.config import (
    CacheConfig,
    EmbedConfig,
    EvalConfig,
    FindConfig,
    FinderConfig,
    FindEvalConfig,
    OptimizerConfig,
    PredictConfig,
    ShardsConfig,
    TrainableConfig,
    TrainConfig,
)
from samtune.data.low_res import LowResTargets
from samtune.data.masks import encode_rle
from samtune.data.table import Dataset, write_table
from samtune.data.views import change_of
from samtune.embeddings.cache import encoder_fingerprint
from samtune.embeddings.dataset import DatasetEmbeddings
from samtune.errors import ConfigError, DataError, ModelError
from samtune.finder import name_training, training
from samtune.finder.calibration import ScoreCalibration
from samtune.finder.evaluation import BASE_GRID, MethodResult, about_grids
from samtune.finder.finding import Looks, answer_boxes, check_fits, find, full_masks, look
from samtune.finder.fitting import choose_lessons, make_finder
from samtune.finder.matching import OperatingPoint
from samtune.finder.measure import FoundImage, judged, read_true, right_finds
from samtune.finder.name_training import learn_to_name, seen_from
from samtune.finder.naming import Namer
from samtune.finder.proposals import propose
from samtune.finder.results import Finder, Quality
from samtune.finder.run import expected_seconds, masks_to_draw
from samtune.finder.storage import load_finder, save_finder
from samtune.finder.targets import read_truth
from samtune.finder.training import box_f1, read_examples, train_head, views_of
from samtune.finder.unlabelled import SURE, UNSURE, label_by_itself
from samtune.finder.verdict import judge
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.studio.models import Models
from samtune.training.run import open_embeddings
from tests.small import make_dataset
from tests.tiny import tiny_sam2

CLASSES = ("large", "small")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Grids of 16 x 16 cells are no work for several threads, which would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", train=10, valid=5, test=3)


@pytest.fixture(scope="module")
def run(dataset, tiny_folder, tmp_path_factory):
    """A run of two steps with a finder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    api.train(dataset.root, TrainConfig(model=str(tiny_folder), out=folder, steps=2), quiet=True)
    assert not (folder / "finder").exists()
    report = api.train_finder(folder, FinderConfig(steps=30, rounds=1, width=16, looks=2), quiet=True)
    assert report.finder.quality is not None and report.finder.quality.objects > 5
    return folder


def embeddings(dataset: Dataset, model) -> DatasetEmbeddings:
    return DatasetEmbeddings.open(dataset, load_model(model), CacheConfig(), torch.device("cpu"), "no")


def test_training_makes_a_finder_on_request(dataset, tiny_folder, tmp_path):
    config = TrainConfig(model=str(tiny_folder), out=tmp_path / "run", steps=1)
    result = api.train(dataset.root, config, finder=FinderConfig(steps=2, width=8), quiet=True)
    assert result.finder is not None and load_finder(tmp_path / "run").about["step"] in (1, 2)
    assert any(line.startswith("finder     not usable") for line in result.lines())
    assert expected_seconds(embeddings(dataset, tmp_path / "run"), FinderConfig(steps=1000, width=8)) > 0


def test_training_goes_on_until_it_has_learned_or_gains_nothing(dataset, tiny_folder, monkeypatch):
    source = embeddings(dataset, tiny_folder)
    low_res = LowResTargets(dataset, source.loaded.mask_size)
    train, valid = (read_examples(dataset.split(name).images, low_res, ()) for name in ("train", "valid"))
    config = FinderConfig(steps=12, width=16, eval_every=12, views=1, rounds=3)

    def history(held_out, **changes):
        return train_head(source, train, held_out, low_res, (), config.model_copy(update=changes)).history

    monkeypatch.setattr(training, "LEARNED", 1.1)
    monkeypatch.setattr(training, "LEAST_GAIN", -1.0)
    every, once = history(valid), history(valid, rounds=1)
    assert [one.step for one in every] == [12, 24, 36] and every[:1] == once
    assert every[2].loss < every[0].loss
    assert len(history(())) == 1
    monkeypatch.setattr(training, "LEAST_GAIN", 1.1)
    assert history(valid) == once
    monkeypatch.setattr(training, "LEAST_GAIN", -1.0)
    monkeypatch.setattr(training, "LEARNED", 0.0)
    assert history(valid) == once


@pytest.mark.parametrize("most", [4000, 18])
def test_the_masks_that_names_cost_are_counted_beforehand(dataset, tiny_folder, monkeypatch, most):
    """Ten training images in three views each; with `most` 18 one object of each view, with 4000 all of them."""
    monkeypatch.setattr(name_training, "MOST_DRAWN", most)
    source = embeddings(dataset, tiny_folder)
    low_res = LowResTargets(dataset, source.loaded.mask_size)
    config = FinderConfig(steps=1, width=8, views=3)
    lessons = choose_lessons(dataset, 0)
    train, valid = (read_examples(images, low_res, CLASSES) for images in (lessons.train, lessons.valid))
    head = train_head(source, train, valid, low_res, CLASSES, config).head
    drawn = 0
    answer = Predictor.decode

    def counted(self, embedded, prompts, *rest):
        nonlocal drawn
        output = answer(self, embedded, prompts, *rest)
        drawn += len(output.object_score_logits)
        return output

    monkeypatch.setattr(Predictor, "decode", counted)
    learn_to_name(Predictor(source.loaded), source, head, train, valid, low_res, CLASSES, config, 1)
    held_out = sum(len(image.single_objects) for image in lessons.valid)
    unnamed = config.model_copy(update={"classes": "none"})
    assert masks_to_draw(lessons, unnamed) == 2 * held_out
    assert masks_to_draw(lessons, config) - 2 * held_out == drawn > held_out


@pytest.mark.parametrize("learns", ["all", "lora"])
def test_where_the_encoder_learned_the_finder_learns_from_what_it_says_now(
    learns, dataset, tiny_folder, tmp_path, monkeypatch
):
    config = TrainConfig(
        model=str(tiny_folder),
        out=tmp_path / "run",
        steps=2,
        trainable=TrainableConfig(train=learns, lora_rank=2),
        optimizer=OptimizerConfig(encoder_lr=1e-3),
    )
    monkeypatch.setattr(api_training, "_NO_FINDER_BELOW_SECONDS", 0.0)
    result = api.train(dataset.root, config, quiet=True)
    assert result.finder is None and "encoded anew" in result.note
    run = result.folder
    finder = api.train_finder(run, FinderConfig(steps=30, rounds=1, width=16, views=1, looks=1), quiet=True).finder
    before, after = (load_model(model) for model in (tiny_folder, run))
    assert finder.encoder == encoder_fingerprint(after.model) != encoder_fingerprint(before.model)
    with pytest.raises(ModelError, match="another one"):
        check_fits(finder, Predictor(before))
    found = api.evaluate_finder(dataset.root, run, FindEvalConfig(grid=False), base=str(tiny_folder), quiet=True)
    assert [row.name for row in found.rows] == ["finder + tuned", "true boxes + tuned"]
    assert any("another image encoder" in one for one in found.caveats)


def test_a_finder_changes_nothing_else_about_a_run(dataset, tiny_folder, tmp_path):
    files: list[dict[str, object]] = []
    for name, finder in (("with", FinderConfig(steps=1, width=8)), ("without", False)):
        run = tmp_path / name / "run"
        config = TrainConfig(model=str(tiny_folder), out=run, steps=1, cache_dir=tmp_path / "cache")
        api.train(dataset.root, config, finder=finder, quiet=True)
        assert (run / "finder").exists() == (finder is not False)
        kept = {path.relative_to(run): path for path in run.rglob("*") if path.is_file()}
        files.append(
            {
                str(place): _without_times(path.read_bytes())
                for place, path in kept.items()
                if place.parts[0] not in ("finder", "tensorboard")
            }
        )
    assert files[0].keys() == files[1].keys() > {"metrics.jsonl", "config.yaml"}
    differing = {name for name in files[0] if files[0][name] != files[1][name]}
    assert differing == set()


def _without_times(content: bytes) -> bytes:
    """A run's file without what differs between two runs of the same settings: seconds, times, the folder's name."""
    content = re.sub(rb'"?(seconds|started|time)"?: [^,}\n]*', b"", content)
    return content.replace(b"without", b"").replace(b"with", b"")


def test_the_network_learns_and_repeats(dataset, tiny_folder):
    source = embeddings(dataset, tiny_folder)
    low_res = LowResTargets(dataset, source.loaded.mask_size)
    train, valid = (read_examples(dataset.split(name).images, low_res, CLASSES) for name in ("train", "valid"))
    config = FinderConfig(steps=60, rounds=1, width=16, eval_every=30, views=1, dropout=0.0)
    trained = train_head(source, train, valid, low_res, CLASSES, config)
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.step in (30, 60) and max(one.f1 for one in trained.history) > 0.2
    assert box_f1(trained.head, source, valid, trained.most) == max(one.f1 for one in trained.history)
    config = FinderConfig(steps=3, width=16, views=2)
    first, again, other, whole = (
        train_head(source, train, valid, low_res, CLASSES, config.model_copy(update=change)).head
        for change in ({}, {}, {"seed": 1}, {"dropout": 0.0})
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not any(torch.equal(first.answer.weight, one.answer.weight) for one in (other, whole))


@pytest.mark.parametrize(("images", "steps", "views"), [(10, 1000, 16), (60, 1000, 3), (239, 1000, 1), (10, 100, 4)])
def test_few_images_are_seen_in_more_views(images, steps, views):
    assert views_of(FinderConfig(steps=steps), images) == views
    assert views_of(FinderConfig(steps=steps, views=2), images) == 2


def test_in_every_view_boxes_go_around_the_masks_that_are_seen(dataset, tiny_folder):
    low_res = LowResTargets(dataset, load_model(tiny_folder).mask_size)
    lost = 0
    for image, number in product(dataset.split("train").images, range(6)):
        change = change_of(image, number)
        truth = read_truth(image, low_res, {name: place for place, name in enumerate(CLASSES)}, change)
        assert [CLASSES[place] for place in truth.classes] == [one.category for one in truth.objects]
        for box, mask in zip(truth.boxes, low_res.of(truth.objects, change), strict=True):
            rows, columns = np.nonzero(mask)
            around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(box.numpy() - around).max() <= 1
        for one in set(image.single_objects) - set(truth.objects):
            lost += 1
            assert truth.ignored.numpy()[low_res.of([one], change)[0] > 0].all()
    assert lost > 0


@pytest.mark.parametrize("kind", ["iscrowd", "is_fragment"])
def test_crowds_and_what_another_tile_has_count_neither_way(kind, dataset):
    first = dataset.split("train").images[0].single_objects[0]
    marked = pl.col("annotation_id").eq(first.annotation_id).fill_null(value=False)
    other = replace(dataset, table=dataset.table.with_columns(marked.alias(kind)))
    image, low_res = other.split("train").images[0], LowResTargets(other, 16)
    truth = read_truth(image, low_res, {})
    assert len(truth) == len(image.objects) - 1 == len(image.single_objects)
    assert (truth.ignored.numpy() == (low_res.of([first])[0] > 0)).all() and truth.ignored.any()
    annotated = read_true(other, image, ())
    found = FoundImage(annotated.crowd, np.zeros(1, np.int64), np.ones(1))
    right, counted = right_finds(annotated, found)
    assert not right.any() and not counted.any() and not judged(annotated, found).false.any()


def test_views_that_are_kept_are_not_embedded_again(dataset, tiny_folder):
    api.embed(dataset.root, EmbedConfig(model=str(tiny_folder), views=4), quiet=True)
    source = embeddings(dataset, tiny_folder)
    low_res = LowResTargets(dataset, source.loaded.mask_size)
    examples = read_examples(dataset.split("train").images, low_res, CLASSES)
    plain, seen = (
        train_head(source, examples, (), low_res, CLASSES, FinderConfig(steps=3, width=8, views=views))
        for views in (1, 4)
    )
    assert seen.step == 3 and source.cache is not None and source.cache.counts.encoded == 0
    assert not torch.equal(plain.head.answer.weight, seen.head.answer.weight)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A folder of images that the dataset does not have."""
    return make_dataset(tmp_path_factory.mktemp("more") / "others", train=4, valid=0, test=0, seed=9).root / "images"


@pytest.mark.parametrize("sure_from", [0.0, 0.5, 2.0])
def test_sure_finds_are_learned_from_and_of_the_others_nothing_is_asked(run, unlabelled, tmp_path, sure_from):
    predictor = Predictor(load_model(run))
    source = open_embeddings(run, predictor.loaded)
    files = sorted(unlabelled.iterdir())
    points = (OperatingPoint(sure_from, SURE, 0.5),) if sure_from <= 1 else ()
    finder = replace(load_finder(run), points=points, calibration=ScoreCalibration((1.0, 0.0, 0.0, 0.0), 3.0))
    found = label_by_itself(predictor, source, finder, files, tmp_path)
    assert len(found.images) == 4 and found.embeddings.dataset.images[: -len(files)] == source.dataset.images
    sure = unsure = 0
    for image in found.images:
        finds = find(predictor, seen_from(found.embeddings, image, finder.looks), finder).above(UNSURE)
        learned = [one for one in image.objects if one.is_single]
        assert len(image.objects) == len(finds) and len(learned) == (finds.scores >= max(sure_from, UNSURE)).sum()
        sure, unsure = sure + len(learned), unsure + len(image.objects) - len(learned)
        masks = [found.embeddings.dataset.read_mask(one) for one in image.objects]
        assert [encode_rle(mask) for mask in masks] == full_masks(finds)
        assert [one.category for one in image.objects] == [CLASSES[number] for number in finds.classes]
    assert (found.sure, found.unsure) == (sure, unsure) and sure + unsure > 0
    assert (unsure == 0) == (sure_from == 0.0) and (sure == 0) == (sure_from > 1)


def test_of_finders_with_and_without_unlabelled_images_the_better_on_validation_stays(
    run, dataset, unlabelled, tmp_path, capsys
):
    run = shutil.copytree(run, tmp_path / "run")
    config = ["--steps", "8", "--rounds", "1", "--width", "8", "--views", "1", "--looks", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["find-train", str(run), "--unlabelled", str(unlabelled), *config, "--quiet"])
    assert ended.value.code == 0
    finder = load_finder(run)
    about = finder.about["unlabelled"]
    assert "unlabelled 4 images" in capsys.readouterr().out and str(unlabelled) not in json.dumps(finder.about)
    before, after = about["f1"]
    assert finder.quality is not None and finder.quality.point.f1 == max(before, after)
    assert finder.about["images"] == 10 + 4 * (after > before)
    predictor = Predictor(load_model(run))
    source = open_embeddings(run, predictor.loaded)
    settings = FinderConfig(steps=8, rounds=1, width=8, views=1, looks=1)
    without = make_finder(predictor, source, settings)
    assert without.quality is not None and without.quality.point.f1 == before

    one_image = make_dataset(tmp_path / "one", train=1, valid=0, test=0, empty=0)
    (tmp_path / "none").mkdir()
    for folder, data, error, words in (
        (tmp_path / "none", dataset, DataError, "a folder without any"),
        (dataset.root / "images", dataset, DataError, "all of which are"),
        (unlabelled, one_image, ConfigError, "held-out images"),
    ):
        with pytest.raises(error, match=words):
            if data is dataset:
                api.train_finder(run, settings, unlabelled=folder, quiet=True)
            else:
                make_finder(predictor, replace(source, dataset=data), settings, unlabelled=list(folder.iterdir()))
    assert load_finder(run).about == finder.about


def test_what_a_finder_is_survives_the_disk(run, tmp_path, dataset):
    finder = load_finder(run)
    assert finder.classes == CLASSES and finder.most == 100 and "5 images of the validation" in finder.chosen_on
    save_finder(finder, tmp_path / "copy")
    copy = load_finder(tmp_path / "copy")
    assert {**vars(copy), "head": None, "namer": None} == {**vars(finder), "head": None, "namer": None}
    assert copy.namer.voices == finder.namer.voices and len(copy.namer.voices.usual) == len(CLASSES)
    image = dataset.split("test").images[0]
    predictor = Predictor(load_model(run))
    seen = Looks.by(predictor, dataset.read_image(image), 2)
    first, second = (find(predictor, seen, one) for one in (finder, copy))
    assert len(first) and np.array_equal(first.scores, second.scores) and np.array_equal(first.logits, second.logits)
    assert np.array_equal(first.classes, second.classes) and finder.namer.outline_names is not None
    assert (np.diff(first.scores) <= 0).all() and first.boxes.min() >= 0
    assert len(first.above(0.5)) == (first.scores >= 0.5).sum()


def test_damaged_and_foreign_finders_are_refused(run, tmp_path, dataset, tiny_folder):
    file = run / "finder" / "finder.safetensors"
    (tmp_path / "half.safetensors").write_bytes(file.read_bytes()[:2000])
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("finder"))
    for path, words in (
        (tmp_path / "half.safetensors", "format 1"),
        (bare, "samtune find-train"),
        (tiny_folder, "a model without one(.|\n)*samtune train DATASET --finder"),
        (tmp_path / "none", "no such folder"),
    ):
        with pytest.raises(ModelError, match=words):
            load_finder(path)
    (tmp_path / "images").mkdir()
    shutil.copy(next((dataset.root / "images").glob("test*")), tmp_path / "images")
    save_model(tiny_sam2(seed=5), tmp_path / "other")
    shutil.copytree(run / "finder", tmp_path / "other" / "finder")
    with pytest.raises(ModelError, match="another one"):
        api.find(tmp_path / "images", tmp_path / "other", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_finds_in_files_have_names_scores_and_counts(run, dataset, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in (dataset.root / "images").glob("test*"):
        shutil.copy(path, images)
    report = api.find(images, run, tmp_path / "out", FindConfig(threshold=0.0), quiet=True)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == report.objects > 0
    assert all(row["category"] == CLASSES[row["category_id"] - 1] and 0 <= row["score"] <= 1 for row in rows)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == len(rows)
    with (tmp_path / "out" / "counts.csv").open() as file:
        counted = {row["image"]: sum(int(row[name]) for name in CLASSES) for row in csv.DictReader(file)}
    assert counted == {path.name: sum(row["file_name"] == path.name for row in rows) for path in images.iterdir()}
    assert report.lines()[0].split() == ["image", *CLASSES] and "keep prompting" in " ".join(report.lines())
    with pytest.raises(ConfigError, match="precision"):
        api.find(images, run, tmp_path / "none", FindConfig(precision=1.0, recall=None), quiet=True)


def test_large_images_are_found_in_by_tiles(run, dataset, tmp_path):
    """Two images side by side, each a tile of its own, give what each gives alone."""
    halves = [np.asarray(Image.open(path)) for path in sorted((dataset.root / "images").glob("valid*"))[:2]]
    halves = [np.pad(half, ((0, 8), (0, 0), (0, 0)), mode="edge") for half in halves]
    wish = FindConfig(threshold=0.0)
    expected = []
    for number, half in enumerate(halves):
        Image.fromarray(half).save(tmp_path / f"{number}.png")
        api.find(tmp_path / f"{number}.png", run, tmp_path / "alone", wish, quiet=True)
        expected += rows_of(tmp_path / "alone", 80 * number)
    Image.fromarray(np.concatenate(halves, axis=1)).save(tmp_path / "both.tif")
    look = PredictConfig(tile=80, halo=0)
    report = api.find(tmp_path / "both.tif", run, tmp_path / "both", wish, look=look, quiet=True)
    found = rows_of(tmp_path / "both", 0)
    assert report.objects == len(found) > 2
    assert sorted(found) == sorted(expected)
    assert (tmp_path / "both" / "overlays" / "both.tif.png").exists()


def rows_of(out, shift):
    """Box, area, class and score of every find, boxes moved to the right."""
    rows = json.loads((out / "predictions.json").read_text())
    return [((row["bbox"][0] + shift, *row["bbox"][1:]), row["area"], row["category"], row["score"]) for row in rows]


def test_evaluation_writes_what_pycocotools_reads(run, dataset, tmp_path, tiny_folder):
    config = FindEvalConfig(threshold=0.1)
    found = api.evaluate_finder(dataset.root, run, config, base=str(tiny_folder), out=tmp_path / "out", quiet=True)
    names = [row.name for row in found.rows]
    assert names[-2:] == ["finder + tuned", "true boxes + tuned"] and len(names) == 5
    coco = COCO()
    coco.dataset = json.loads((tmp_path / "out" / "truth.json").read_text())
    coco.createIndex()
    results = json.loads((tmp_path / "out" / "finder-tuned.json").read_text())
    reference = COCOeval(coco, coco.loadRes(results), "segm")
    reference.params.maxDets = [1, 10, 1000]
    reference.evaluate()
    reference.accumulate()
    precision = reference.eval["precision"][:, :, :, 0, 2]
    ours = found.rows[names.index("finder + tuned")].named
    assert ours is not None and ours.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    figures = json.loads((tmp_path / "out" / "find.json").read_text())
    assert set(figures["rows"]) == set(names) and sum(map(sum, figures["confusion"])) >= found.objects
    assert any("true boxes" in line for line in found.lines())
    for more, words in ((0.1, ["no better than the base, grid of clicks"]), (-0.1, [])):
        figures = replace(found.ours.one_class, ap50=found.ours.one_class.ap50 + more)
        grid = MethodResult(BASE_GRID, figures, None, found.matched, ())
        assert [one.partition(", on these")[0] for one in about_grids([grid, found.ours])] == words


def test_a_comparison_measures_the_finder_of_the_run(run, dataset, tmp_path, tiny_folder):
    few = EvalConfig(jitter=(), mask_prompt=False, clicks=0, background_clicks=0)
    out = tmp_path / "out"
    found = api.compare(dataset.root, str(tiny_folder), run, out, few, guard_scenes=0, automatic=True, quiet=True)
    assert found.finds is not None
    assert any(found.finds.in_short() in line for line in found.lines())
    config = FindEvalConfig()
    alone = api.evaluate_finder(dataset.root, run, config, base=str(tiny_folder), quiet=True)
    assert alone.to_json() == found.finds.to_json()
    grid = alone.to_json()["rows"]["base, grid of clicks"]
    assert found.automatic is not None and found.automatic.base.ap == grid["one_class"]["ap"]
    assert found.automatic.base.found == grid["kept"]["finds"]
    content = json.loads((out / "comparison.json").read_text())
    assert content["finds"] == alone.to_json() == json.loads((out / "report.json").read_text())["finds"]
    assert [row["kind"] for row in content["gallery"]][-1] == "finds"
    page = (out / "report.html").read_text()
    right, objects = content["finds"]["right"], content["finds"]["objects"]
    assert f"found {right} of {objects} objects</b> without any prompt" in page
    assert "true boxes + tuned" in page and "nothing there" in page
    without = api.compare(
        dataset.root, str(tiny_folder), run, tmp_path / "two", few, guard_scenes=0, find=False, quiet=True
    )
    assert without.finds is None and "found as" not in (tmp_path / "two" / "report.html").read_text()
    alone = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert {name for name in content if content[name] != alone[name]} == {"finds", "automatic", "gallery"}


def test_a_comparison_on_classes_that_the_finder_does_not_know_leaves_it_out(run, tmp_path, tiny_folder):
    other = make_dataset(tmp_path / "other", train=0, valid=0, test=3)
    write_table(other.root, other.table.with_columns(category=other.table["category"] + " thing"))
    few = EvalConfig(jitter=(), mask_prompt=False, clicks=0, background_clicks=0)
    found = api.compare(other.root, str(tiny_folder), run, tmp_path / "out", few, guard_scenes=0, quiet=True)
    assert found.finds is None and any("none of these objects is of its classes" in line for line in found.lines())


def test_a_finder_made_with_another_decoder_is_named_or_left_out(run, dataset, tmp_path, tiny_folder):
    other = shutil.copytree(run, tmp_path / "run")
    save_finder(replace(load_finder(run), decoder="of other weights"), other / "finder")
    image = next((dataset.root / "images").glob("test*"))
    for model, is_named in ((run, False), (other, True)):
        lines = api.find(image, model, tmp_path / "out", FindConfig(threshold=0.9), quiet=True).lines()
        assert any("another decoder" in line for line in lines) == is_named
    measured = api.evaluate_finder(dataset.root, other, FindEvalConfig(grid=False), quiet=True)
    assert "another decoder" in measured.lines()[-1] and "another decoder" in measured.to_json()["caveats"][0]
    few = EvalConfig(jitter=(), mask_prompt=False, clicks=0, background_clicks=0)
    found = api.compare(dataset.root, str(tiny_folder), other, tmp_path / "compared", few, guard_scenes=0, quiet=True)
    assert found.finds is None and any("made for other weights" in line for line in found.lines())
    exported = api.export(other, tmp_path / "hf", "hf").lines()
    assert not (tmp_path / "hf" / "finder.safetensors").exists() and "left out: it was made for" in exported[-1]
    model = Models(str(other)).start
    assert model.finder is None and "A grid of clicks proposes instead" in model.finder_note
    assert (mine := Models(str(run)).start).finder is not None and mine.finder_note == ""
    shards = ShardsConfig(threads=1)
    many = api.predict_many(
        image.parent, other, tmp_path / "job", PredictConfig(), shards, find=FindConfig(threshold=0.9), quiet=True
    )
    assert "another decoder" in many.lines()[-2] and "not usable" in many.lines()[-1]


def test_a_damaged_finder_stops_a_comparison_before_anything_is_written(run, dataset, tmp_path, tiny_folder):
    broken = shutil.copytree(run, tmp_path / "run")
    (broken / "finder" / "finder.safetensors").write_bytes(b"no finder")
    with pytest.raises(ModelError, match="train it again"):
        api.compare(dataset.root, str(tiny_folder), broken, tmp_path / "out", guard_scenes=0, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", [None, pytest.param("rectlabel", marks=pytest.mark.slow)])
def test_an_exported_finder_in_onnx_answers_as_torch_does(run, dataset, tmp_path, layout):
    """On the features of an image of the dataset, in an ONNX export as the encoder's graph gives them."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    out = tmp_path / "out"
    report = api.export(run, out, "onnx" if layout else "hf", layout=layout)
    assert any("finder.onnx" in line for line in report.lines()) and "finder.onnx" in (out / "README.md").read_text()
    session = onnxruntime.InferenceSession(str(out / "finder.onnx"), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    finder, predictor = load_finder(run), Predictor(load_model(run))
    seen = Looks.by(predictor, dataset.read_image(dataset.split("test").images[0]), finder.looks)
    assert finder.looks == 2 and seen.mirrored is not None
    if layout:
        encoder = onnxruntime.InferenceSession(str(next(out.glob("*_preprocess.onnx"))))
        assert {one.name for one in encoder.get_outputs()} == set(names[:3]) == {name[9:] for name in names[3:]}
    tensors = (*seen.embedded.embeddings.tensors, *seen.mirrored.embeddings.tensors)
    given = dict(zip(names, (tensor.contiguous().numpy() for tensor in tensors), strict=True))
    peaks, boxes, classes = session.run(["peaks", "boxes", "classes"], given)
    output = look(finder.head, seen)
    proposed = propose(output, 0, finder.most)
    assert len(proposed) and classes.shape[1] == len(CLASSES)
    assert np.allclose(classes, output.classes.numpy(), rtol=1e-3, atol=1e-3)
    answers = answer_boxes(predictor, seen.embedded, proposed.boxes)
    namer = onnxruntime.InferenceSession(str(out / "finder_names.onnx"), providers=["CPUExecutionProvider"])
    (names,) = namer.run(["names"], {"classes": classes, "masks": answers.logits.numpy()})
    voices = replace(finder.namer.voices, company=None)
    likely = torch.from_numpy(names).softmax(1).max(1).values
    expected = Namer(finder.namer.outline_names, voices)(output.classes[0], answers.logits, answers.iou_scores)[1]
    assert np.allclose(likely, expected, atol=1e-3)
    about = json.loads(session.get_modelmeta().custom_metadata_map["samtune.finder"])
    assert about["company"] == finder.namer.voices.company and about["threshold"] == finder.threshold
    rows, columns = np.nonzero(peaks[0] >= about["least_objectness"])
    order = np.argsort(-peaks[0, rows, columns], kind="stable")[: about["most_peaks"]]
    found = {tuple(box) for box in boxes[0, rows[order], columns[order]].round(1).tolist()}
    kept = {tuple(box) for box in (proposed.boxes * 4).numpy().round(1).tolist()}
    assert len(kept - found) <= 0.05 * len(kept)  # a rounding may fall on either side


def test_an_export_brings_its_finder_along(run, dataset, tmp_path):
    api.export(run, tmp_path / "hf", "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "finder.safetensors" in card and "large, small" in card and str(tmp_path) not in card
    image = next((dataset.root / "images").glob("test*"))
    wish = FindConfig(threshold=0.0)
    outs = tmp_path / "of run", tmp_path / "of hf"
    for model, out in zip((run, tmp_path / "hf"), outs, strict=True):
        assert api.find(image, model, out, wish, quiet=True).objects
    first, second = ((out / "predictions.json").read_text() for out in outs)
    assert first == second
    assert load_finder(tmp_path / "hf" / "model.pt").points == load_finder(run).points  # as beside an official export
    with pytest.raises(ModelError, match="a run with a finder"):
        load_finder(tmp_path / "model.pt")


def test_commands(run, dataset, tmp_path, capsys):
    image = next((dataset.root / "images").glob("test*"))
    run = shutil.copytree(run, tmp_path / "run")
    for arguments, expected in (
        (["find-train", run, "--steps", "2", "--width", "8", "--find-classes", "none", "--quiet"], "not usable"),
        (
            ["predict", image, "--model", run, "--find", "--threshold", "0.01", "--out", tmp_path / "p", "--quiet"],
            "object",
        ),
        (["evaluate", dataset.root, "--model", run, "--find", "--no-grid", "--quiet"], "true boxes + tuned"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in arguments])
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        assert expected in printed.out
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "predict",
                str(image),
                "--model",
                str(run),
                "--find",
                "--precision",
                "0.9",
                "--recall",
                "0.9",
                "--out",
                "x",
            ]
        )
    assert ended.value.code == 2 and "give one" in capsys.readouterr().err


def test_without_a_validation_split_training_groups_are_lent(tmp_path):
    lessons = choose_lessons(make_dataset(tmp_path / "a", train=10, valid=0), seed=0)
    assert len(lessons.train) == 8 and len(lessons.valid) == 2 and "the decoder did" in lessons.chosen_on
    assert not {one.group for one in lessons.train} & {one.group for one in lessons.valid}
    alone = choose_lessons(make_dataset(tmp_path / "b", train=1, valid=0, empty=0), seed=0)
    assert not alone.valid and alone.chosen_on.startswith("nothing")


def test_a_dataset_of_other_classes_is_refused(run, tmp_path):
    other = make_dataset(tmp_path / "other")
    table = other.table.with_columns(category=other.table["category"] + " thing")
    write_table(other.root, table)
    with pytest.raises(DataError, match="large thing"):
        api.evaluate_finder(other.root, run, FindEvalConfig(grid=False), quiet=True)


def test_classes_that_training_never_shows_are_named(dataset, tiny_folder, tmp_path):
    """Small objects on held-out images alone: the finder says so, and every figure that counts them."""
    other = make_dataset(tmp_path / "other", train=4, valid=3, test=2)
    in_train = (pl.col("split") == "train") & pl.col("category").is_not_null()
    write_table(
        other.root,
        other.table.with_columns(category=pl.when(in_train).then(pl.lit("large")).otherwise(pl.col("category"))),
    )
    api.train(other.root, TrainConfig(model=str(tiny_folder), out=tmp_path / "run", steps=1), quiet=True)
    report = api.train_finder(tmp_path / "run", FinderConfig(steps=2, width=8), quiet=True)
    assert report.finder.classes == ("large",) and "too rare to learn: small, 0 training objects" in " ".join(
        report.lines()
    )
    small = sum(one.category == "small" for image in other.split("valid").images for one in image.single_objects)
    config = FindEvalConfig(split="valid", grid=False)
    found = api.evaluate_finder(other.root, tmp_path / "run", config, quiet=True)
    assert small and f"never learned, whose objects count as not found: small ({small})" in found.lines()[-1]
    renamed = other.table.with_columns(category=other.table["category"] + " thing")
    write_table(other.root, renamed)
    with pytest.raises(DataError, match="objects of the finder's classes: large"):
        api.evaluate_finder(other.root, tmp_path / "run", config, quiet=True)


def test_images_of_a_size_never_seen_are_named(run, dataset, tmp_path):
    assert load_finder(run).sides == ((80, 80), (72, 72))
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(next((dataset.root / "images").glob("test*")), images)
    wish = FindConfig(threshold=0.9)
    assert "unlike" not in " ".join(api.find(images, run, tmp_path / "out", wish, quiet=True).lines())
    Image.new("RGB", (400, 300)).save(images / "large.png")
    words = " ".join(api.find(images, run, tmp_path / "out", wish, quiet=True).lines())
    assert "images of 80 x 72 pixels; 1 of these 2 are unlike them, such as 400 x 300" in words
    assert "look in tiles (--tile 80 --halo 10)" in words
    tiles = PredictConfig(tile=80, halo=10)
    assert "unlike" not in " ".join(api.find(images, run, tmp_path / "out", wish, look=tiles, quiet=True).lines())


def quality(**changed) -> Quality:
    good = {"images": 9, "objects": 99, "point": OperatingPoint(0.5, 0.9, 0.9), "found": 0.9, "outlined": 0.9}
    good |= {"named": 0.9, "train_f1": 0.8, "valid_f1": 0.7, "calibration_error": 0.01}
    return Quality(**{**good, **changed})


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, ""),
        ({"objects": 12}, "too few to know"),
        ({"found": 0.3}, "cannot find"),
        ({"outlined": 0.3}, "cannot outline"),
        ({"named": 0.3}, "cannot name"),
        ({"valid_f1": 0.2}, "overfits"),
        ({"grid_f1": 0.4, "named": None}, "no better than a grid"),
    ],
)
def test_an_honest_word(changed, word):
    poor = {} if word in ("", "too few to know") else {"point": OperatingPoint(0.5, 0.3, 0.3)}
    finder = Finder(
        head=None, classes=CLASSES, most=100, image_size=64, encoder="", decoder="", quality=quality(**poor, **changed)
    )
    verdict = judge(finder)
    assert verdict.is_usable == (word == "") and word in " ".join(verdict.lines())
    assert ("keep prompting" in verdict.lines()[0]) == (word != "")


def test_finds_in_shards_are_those_in_a_folder(run, dataset, tmp_path):
    images = dataset.root / "images"
    wish = FindConfig(threshold=0.0)
    alone = api.find(images, run, tmp_path / "alone", wish, quiet=True)
    shards = ShardsConfig(shard_images=7, threads=1)
    report = api.predict_many(images, run, tmp_path / "job", PredictConfig(), shards, find=wish, quiet=True)
    assert report.objects == alone.objects > 0
    api.merge(tmp_path / "job", tmp_path / "merged.json", quiet=True)
    merged = json.loads((tmp_path / "merged.json").read_text())
    assert merged["categories"] == [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    names = {image["id"]: image["file_name"] for image in merged["images"]}
    known = json.loads((tmp_path / "alone" / "predictions.json").read_text())
    ours = [
        (names[one["image_id"]], one["segmentation"]["counts"], one["category_id"]) for one in merged["annotations"]
    ]
    assert sorted(ours) == sorted(
        (one["file_name"], one["segmentation"]["counts"], one["category_id"]) for one in known
    )
