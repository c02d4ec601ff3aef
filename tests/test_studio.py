"""The studio's server behind a real socket, without a model: objects, sources, exports, faults."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.prepare.prepare import prepare
from samtune.data.table import Dataset
from samtune.errors import ConfigError, DataError, StorageError
from samtune.studio import figures
from samtune.studio.exporting import accepted
from samtune.studio.journal import Journal
from samtune.studio.serve import link_to, opened
from samtune.studio.splitting import split_images
from samtune.studio.store import Store
from samtune.types import Split
from tests.small import make_dataset, write_export
from tests.studio_server import mask_json, no_model, pixels_of, square, visit, write_images
from tests.system import full_disk


def test_what_is_accepted_is_there_after_a_restart(tmp_path):
    write_images(tmp_path / "images")
    mask = square(hole=True)
    for number in range(3):
        with visit(tmp_path / "images") as (_, page):
            if number == 0:
                assert page.objects("1") == {"revision": 0, "objects": []}
                first = page.accept("1", mask_json(mask), clicks=3, seconds=4.5)
                page.change("1", "delete", id=first["id"]).raise_for_status()
                assert page.objects("1")["objects"] == []
                page.change("1", "restore", id=first["id"]).raise_for_status()
                second = page.accept("1", mask_json(square(5)))
                moved = {"category_id": page.post("/api/classes", json={"name": "other"}).json()["id"]}
                page.change("1", "update", id=second["id"], mask=mask_json(square(7)), **moved).raise_for_status()
                page.change("1", "status", status="done").raise_for_status()
            found = page.objects("1")
            assert [one["category_id"] for one in found["objects"]] == [1, 2]
            assert np.array_equal(pixels_of(found["objects"][0]["mask"], 72, 80), mask)
            assert np.array_equal(pixels_of(found["objects"][1]["mask"], 72, 80), square(7))
            assert found["objects"][0]["clicks"] == 3 and found["objects"][0]["seconds"] == 4.5
            assert found["revision"] == 6
            per_object = page.get("/api/stats").json()["per_object"]
            assert [one["clicks"] for one in per_object] == [3, 1]
        if number == 1:  # the table alone, in which the journal is by now, is COCO that others read
            report = prepare(
                tmp_path / "studio/annotations.coco.json",
                tmp_path / "read",
                PrepareConfig(images=tmp_path / "images", workers=1),
            )
            assert sum(len(image.objects) for image in report.dataset.images) == 2


def test_two_pages_do_not_overwrite_each_other(tmp_path):
    write_images(tmp_path / "images")
    with visit(tmp_path / "images") as (_, page):
        body = {"category_id": 1, "mask": mask_json(square()), "clicks": 1, "seconds": 1.0}
        one = page.change("1", "accept", object=body, revision=0)
        assert one.json()["revision"] == 1
        late = page.change("1", "accept", object=body, revision=0)
        assert late.status_code == 409
        assert late.json()["revision"] == 1 and "another page" in late.json()["error"]["found"]
        assert len(page.objects("1")["objects"]) == 1
        assert page.change("2", "accept", object=body, revision=0).status_code == 200, "another image is another matter"


@pytest.mark.parametrize(
    "mask",
    [{"bbox": [0, 0, 0, 0], "png": ""}, {"bbox": [70, 0, 20, 5], "png": ""}, {"bbox": [0, 0, 4, 4], "png": "nonsense"},
     {"bbox": [0, 0, 5, 5], "png": mask_json(square(20))["png"]}, {"bbox": [0, 0, 10**9, 10**9], "png": ""},
     {"bbox": [-1, 0, 20, 20], "png": mask_json(square())["png"]}],
)  # fmt: skip
def test_masks_that_are_none_are_refused(tmp_path, mask):
    write_images(tmp_path / "images", count=1)
    with visit(tmp_path / "images") as (_, page):
        answer = page.change("1", "accept", object={"category_id": 1, "mask": mask})
        assert answer.status_code == 400 and answer.json()["error"]["expected"]
        wrong_class = page.change("1", "accept", object={"category_id": 99, "mask": mask_json(square())})
        assert wrong_class.status_code == 404
        assert page.objects("1") == {"revision": 0, "objects": []}


def test_a_full_disk_is_said_and_nothing_is_pretended(tmp_path):
    write_images(tmp_path / "images", count=1)
    with visit(tmp_path / "images") as (studio, page):
        page.accept("1", mask_json(square()))
        size = (tmp_path / "studio/journal.jsonl").stat().st_size
        with full_disk(size + 100):
            refused = page.change("1", "accept", object={"category_id": 1, "mask": mask_json(square(30))})
        assert refused.status_code == 507 and "journal" in refused.json()["error"]["where"]
        assert (tmp_path / "studio/journal.jsonl").stat().st_size == size
        assert len(page.objects("1")["objects"]) == 1
        page.accept("1", mask_json(square(30)))
    with visit(tmp_path / "images") as (studio, _):
        assert len(studio.store.image("1").kept) == 2
    store = Store(tmp_path / "studio")
    with pytest.raises(StorageError, match="nothing accepted is lost"), full_disk(100):
        store.close()
    with closing(Store(tmp_path / "studio")) as store:
        assert len(store.image("1").kept) == 2


def test_an_unfinished_line_is_cut_off_and_damage_is_named(tmp_path):
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:
        for number in range(3):
            journal.append({"event": "status", "value": number})
    whole, path = (tmp_path / "journal.jsonl").read_bytes(), tmp_path / "cut.jsonl"
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        with closing(Journal(path)) as found:
            assert len(found.events) == whole[:cut].count(b"\n")
            assert found.cut_off == cut - whole[:cut].rfind(b"\n") - 1
            found.append({"event": "more"})
        with closing(Journal(path)) as again:
            assert [event["n"] for event in again.events] == list(range(1, len(found.events) + 2))
    path.write_bytes(whole.replace(b'"n": 2', b'"n": 7'))
    with pytest.raises(DataError, match="line 2"):
        Journal(path)


def test_a_table_with_its_journal_half_taken_in_is_read_once(tmp_path):
    """A power cut between the table and the emptied journal: events are in both."""
    write_images(tmp_path / "images", count=1)
    with visit(tmp_path / "images") as (studio, page):
        page.accept("1", mask_json(square()))
        page.accept("1", mask_json(square(9)))
        journal = (tmp_path / "studio/journal.jsonl").read_bytes()
    (tmp_path / "studio/journal.jsonl").write_bytes(journal)
    with visit(tmp_path / "images") as (studio, _):
        assert [one.area for one in studio.store.image("1").kept] == [400, 81]
        assert studio.store.image("1").revision == 2


def test_what_prepare_reads_is_imported(tmp_path):
    write_export(tmp_path / "export")
    with visit(tmp_path / "export") as (studio, page):
        assert len(studio.store.state.images) == 9
        assert [one["name"] for one in studio.classes()] == ["<b>thing</b>"]
        found = page.objects("1")["objects"]
        assert len(found) == 2 and {one["source"] for one in found} == {"import"}
        entry = studio.source.entries[studio.store.image("1").key]
        for one, known in zip(found, entry.objects, strict=True):
            assert np.array_equal(pixels_of(one["mask"], 64, 64), studio.source.dataset.read_mask(known))
    with visit(tmp_path / "export") as (studio, _):
        assert sum(len(image.kept) for image in studio.store.state.images.values()) == 18, "not imported twice"


@pytest.mark.parametrize(("form", "tolerance"), [("coco", 0.0), ("yolo", 0.0), ("masks", 0.0), ("coco", 1.0)])
def test_an_export_is_what_was_accepted(tmp_path, form, tolerance):
    write_images(tmp_path / "images")
    rng = np.random.default_rng(0)
    ragged = square()
    ragged[10:30, 20:40] &= rng.random((20, 20)) < 0.97
    ragged[50, 60] = True
    masks = {"1": [square(hole=True), square(3)], "2": [ragged]}
    with visit(tmp_path / "images") as (_, page):
        for image, those in masks.items():
            for mask in those:
                page.accept(image, mask_json(mask))
        page.change("3", "status", status="done").raise_for_status()
        told = page.post("/api/export", json={"format": form, "tolerance": tolerance}).raise_for_status().json()
    assert told["objects"] == 3
    if form == "masks":
        read = Dataset.open(told["path"])
    else:
        read = prepare(tmp_path / "studio/exports" / f"{form}-1", tmp_path / "read", PrepareConfig(workers=1)).dataset
    found = {image.image_path.rpartition("/")[2]: image for image in read.images}
    assert sorted(found) == ["image-0.png", "image-1.png", "image-2.png"]
    for number, those in masks.items():
        image = found[f"image-{int(number) - 1}.png"]
        assert len(image.objects) == len(those)
        for one, mask in zip(image.objects, those, strict=True):
            same = (read.read_mask(one) == mask).all()
            assert (
                same if tolerance == 0 or mask is not ragged else (read.read_mask(one) ^ mask).sum() < 0.2 * mask.sum()
            )
    assert found["image-2.png"].objects == ()


def test_sources_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="path"), opened(tmp_path / "none", tmp_path / "a", no_model, quiet=True):
        pass
    with pytest.raises(DataError), opened(tmp_path / "empty", tmp_path / "b", no_model, quiet=True):
        pass
    with pytest.raises(ConfigError, match="inside"), opened(tmp_path / "empty", tmp_path / "empty/c", no_model):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"], "nothing is left behind"
    write_images(tmp_path / "images", count=2)
    write_images(tmp_path / "others", count=1)
    (tmp_path / "images/torn.png").write_bytes((tmp_path / "images/image-0.png").read_bytes()[:200])
    with opened(tmp_path / "images", tmp_path / "c", no_model, quiet=True) as studio:
        assert len(studio.store.state.images) == 2
        assert "torn.png" in str(studio.source.problems[0])
    with pytest.raises(ConfigError, match="images"), opened(tmp_path / "others", tmp_path / "c", no_model, quiet=True):
        pass


def test_a_source_that_changes_underneath_is_named(tmp_path):
    write_images(tmp_path / "images")
    with visit(tmp_path / "images") as (studio, page):
        page.accept("1", mask_json(square()))
        Image.new("RGB", (50, 50)).save(tmp_path / "images/image-0.png")
        (tmp_path / "images/image-1.png").unlink()
        answers = [page.get(f"/api/images/{number}/pixels") for number in (1, 2)]
        assert [one.status_code for one in answers] == [422, 422]
        assert "80 x 72" in answers[0].json()["error"]["expected"]
        assert page.post("/api/export", json={"format": "coco", "tolerance": 0}).status_code in (200, 422)
    (tmp_path / "images/image-9.png").write_bytes((tmp_path / "images/image-2.png").read_bytes())
    with visit(tmp_path / "images") as (studio, page):
        assert sorted(studio.store.state.images) == ["1", "2", "3", "4"], "a new image came, none went"
        gone = page.get("/api/images/2/pixels")
        assert gone.status_code == 404 and "taken out" in gone.json()["error"]["found"]


def test_review_is_filtered_and_sorted(tmp_path, monkeypatch):
    write_images(tmp_path / "images")
    with visit(tmp_path / "images", classes=("a", "b")) as (_, page):
        for size, iou, category in ((20, 0.9, 1), (5, 0.4, 2), (9, None, 1)):
            page.accept("2", mask_json(square(size)), category, iou=iou)
        listed = page.get("/api/review").json()
        assert [one["iou"] for one in listed["objects"]] == [0.4, 0.9, None] and listed["total"] == 3
        monkeypatch.setattr(figures, "MOST_LISTED", 2)
        listed = page.get("/api/review").json()
        assert [one["iou"] for one in listed["objects"]] == [0.4, 0.9] and listed["total"] == 3
        monkeypatch.undo()
        assert [one["area"] for one in page.get("/api/review?sort=size").json()["objects"]] == [25, 81, 400]
        assert [one["object_id"] for one in page.get("/api/review?class=2").json()["objects"]] == ["2"]
        assert len(page.get("/api/review?min_size=50&max_size=100").json()["objects"]) == 1
        assert page.get("/api/review?sort=nonsense").status_code == 400
        means = page.get("/api/stats").json()["by_model"]
        assert means == [{"model": "base", "objects": 3, "clicks": 1.0, "seconds": 1.5}]


def splits_of(studio) -> list[str]:
    return [split.value for split in split_images(studio, accepted(studio)).values()]


def test_what_judged_a_model_never_teaches_another(tmp_path):
    write_images(tmp_path / "images", count=8)
    with visit(tmp_path / "images") as (studio, page):
        for number in (3, 1, 2):
            page.accept(str(number), mask_json(square()))
        with pytest.raises(DataError, match="at least 4 images"):
            splits_of(studio)
        page.accept("5", mask_json(square()))
        assert splits_of(studio) == ["test", "train", "train", "valid"], "in the order of annotation: 3, 1, 2, 5"
    with visit(tmp_path / "images") as (studio, page):
        page.change("3", "delete", id="1")
        for number in (7, 3, 8):
            page.accept(str(number), mask_json(square()))
        assert splits_of(studio) == ["test", "train", "train", "valid", "train", "train"], "7 and 8 are new"


def test_what_a_source_holds_out_stays_held_out(tmp_path):
    with visit(make_dataset(tmp_path / "data").root) as (studio, _):
        images = accepted(studio)
        assert split_images(studio, images) == {one.id: studio.entry(one).split for one in images}
    with visit(make_dataset(tmp_path / "more/data", valid=0).root) as (studio, _):
        found = split_images(studio, accepted(studio))
        for number, split in found.items():
            own = studio.entry(studio.store.image(number)).split
            assert own != "test" or split == "test"
        assert set(found.values()) == set(Split)


def test_a_link_names_one_image(tmp_path):
    for folder in ("a", "b"):
        write_images(tmp_path / "images" / folder, count=2)
    write_images(tmp_path / "images" / "c", count=3)
    with opened(tmp_path / "images", tmp_path / "studio", no_model, quiet=True) as studio:
        keys = {number: image.key for number, image in studio.store.state.images.items()}
        (number,) = (number for number, key in keys.items() if key.startswith("b/image-1.png"))
        assert link_to(studio, "b/image-1.png", "") == f"#image={number}"
        (number,) = (number for number, key in keys.items() if key.startswith("c/image-2.png"))
        assert link_to(studio, "image-2.png", "1,2,3,4") == f"#image={number}&box=1%2C2%2C3%2C4"
        for name, found in (("image-1.png", "3 images have"), ("d.png", "none has")):
            with pytest.raises(DataError, match=found):
                link_to(studio, name, "")
