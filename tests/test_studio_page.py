"""The studio's page in Chromium, against the real server with nano: what a person does, seen from outside."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from PIL import Image

from samtune.config import PrepareConfig
from samtune.data.masks import encode_rle, parse_counts, rasterise
from samtune.data.prepare.prepare import prepare
from samtune.data.table import Dataset
from samtune.inference.thresholds import GridThresholds, write_thresholds
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.studio import tuning
from samtune.studio.models import Models
from samtune.studio.serve import opened
from samtune.synthetic.microscope import microscope_scene
from tests.small import make_dataset
from tests.studio_server import TOKEN, Page, mask_json, pixels_of, served, wait_for, write_images
from tests.system import full_disk

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

HTML = "<img src=x onerror=alert(1)>"
CONTROLS = {
    "button", "checkbox", "combobox", "menuitem", "option", "progressbar", "radio", "searchbox", "slider", "spinbutton",
    "switch", "tab", "textbox", "dialog", "radiogroup", "toolbar", "tablist",
}  # fmt: skip
"""Roles of what must have a name for screen readers."""
PATIENCE = 60_000
"""Milliseconds; a loaded machine answers late."""


@dataclass(frozen=True)
class Cells:
    """Drawn cells under a microscope as an export; the last image comes without objects, `truth` has them."""

    folder: Path
    truth: np.ndarray


@dataclass
class Tab:
    """A tab of the browser on a studio.

    Attributes:
        page: Playwright's.
        address: of the studio.
        noise: what the console said, and requests to elsewhere.
    """

    page: Any
    address: str
    noise: list[str] = field(default_factory=list)

    def go(self, link: str = "") -> None:
        self.page.goto(f"{self.address}/?token={TOKEN}{link}")
        self.page.wait_for_selector("html[data-ready]")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen an image point is."""
        script = "async ([x, y]) => (await import('/js/viewport.js')).toCanvas(x, y)"
        at, stage = self.page.evaluate(script, [x, y]), self.page.locator("#stage").bounding_box()
        return stage["x"] + at["x"], stage["y"] + at["y"]

    def drag(self, box: tuple[int, int, int, int]) -> None:
        self.page.mouse.move(*self.place(*box[:2]))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*box[2:]), steps=3)
        self.page.mouse.up()

    def click(self, x: float, y: float, **how: Any) -> None:
        self.page.mouse.click(*self.place(x, y), **how)

    def answered(self, text: str = "predicted IoU") -> None:
        """Wait for the model's mask."""
        self.page.locator("#draft-bar small", has_text=text).wait_for()

    def saved(self, text: str = "All changes saved") -> None:
        self.page.locator("#saved", has_text=text).wait_for()

    def labels(self) -> list[int]:
        """Of the clicks so far, 1 positive and 0 negative."""
        return self.page.evaluate("async () => (await import('/js/store.js')).app.draft.points.map((one) => one[2])")

    def mask(self) -> np.ndarray:
        """The mask being made, bool `[448, 448]`, as the page has it."""
        script = """async () => {
            const [{ app }, { currentMask }] = [await import('/js/store.js'), await import('/js/draft.js')];
            const { x, y, w, h, bits } = currentMask(app.draft);
            return [x, y, w, h, Array.from(bits)];
        }"""
        x, y, w, h, bits = self.page.evaluate(script)
        mask = np.zeros((448, 448), bool)
        mask[y : y + h, x : x + w] = np.asarray(bits, bool).reshape(h, w)
        return mask


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Cells:
    folder = tmp_path_factory.mktemp("page") / "cells"
    folder.mkdir()
    scenes = [microscope_scene(np.random.default_rng((3, index)), 448) for index in range(6)]
    images, annotations = [], []
    for index, scene in enumerate(scenes):
        name = f"well-{index}.png"
        Image.fromarray(scene.image).save(folder / name)
        images.append({"id": index, "file_name": name, "width": 448, "height": 448})
        for number in range(len(scene.categories) if index < 5 else 0):
            rows, columns = np.nonzero(scene.labels == number + 1)
            if len(rows) < 200:
                continue
            runs = encode_rle(scene.labels == number + 1)
            box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
            annotations.append(
                {"id": len(annotations), "image_id": index, "category_id": 1, "iscrowd": 0, "area": len(rows)}
                | {
                    "bbox": [int(value) for value in box],
                    "segmentation": {"size": [448, 448], "counts": list(runs.counts)},
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    return Cells(folder, scenes[5].labels)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def visited(source: Path, out: Path, browser: Any, model: str = "nano") -> Iterator[tuple[Page, Tab]]:
    """A studio, and a tab that must stay quiet: no error in the console, no request to elsewhere."""
    with (
        opened(source, out, lambda: Models(model, device="cpu"), quiet=True) as studio,
        served(studio) as server,
        browser.new_context(viewport={"width": 1280, "height": 800}) as context,
    ):
        context.set_default_timeout(PATIENCE)
        tab = Tab(context.new_page(), str(server.base_url).rstrip("/"))
        tab.page.on("console", lambda one: one.type in ("error", "warning") and tab.noise.append(one.text))
        tab.page.on("pageerror", lambda error: tab.noise.append(str(error)))
        tab.page.on("request", lambda one: _is_here(one.url) or tab.noise.append(one.url))
        yield server, tab
        assert tab.noise == []


def _is_here(address: str) -> bool:
    return urlsplit(address).scheme in ("blob", "data") or urlsplit(address).hostname == "127.0.0.1"


def test_a_session_from_the_first_box_to_the_export(cells, browser, tmp_path):
    with visited(cells.folder, tmp_path / "studio", browser) as (server, tab):
        tab.go()
        truth = [cells.truth == number for number in _largest(cells.truth)]
        _annotate(tab, server, truth)
        _name_a_class(tab, server)
        _come_back(tab, server)
        _export(tab, server)


@pytest.mark.slow
def test_the_next_model_tuned_judged_and_taken_in_the_page(cells, browser, tmp_path):
    """30 steps of nano take minutes with the verdict; `test_studio_models.py` runs the loop with a tiny model."""
    with visited(cells.folder, tmp_path / "studio", browser) as (server, tab):
        tab.go()
        _tune(tab, server, 30, _box(cells.truth == _largest(cells.truth)[0]))


def test_links_lead_to_an_object_and_a_tiny_model_is_tuned_in_the_page(browser, tmp_path, tiny_folder, monkeypatch):
    """A link by a box, as reports print it; a tuning that is cancelled, and one that comes to its end."""
    monkeypatch.setattr(tuning, "NICENESS", 0)  # among other tests it would wait for all of them
    dataset = make_dataset(tmp_path / "data", train=4, valid=2, test=3)
    with visited(dataset.root, tmp_path / "studio", browser, str(tiny_folder)) as (server, tab):
        page = tab.page
        one = server.objects("2")["objects"][1]
        x, y, w, h = one["mask"]["bbox"]
        tab.go(f"#image=2&box={x - 1},{y},{x + w},{y + h + 1}")
        page.locator("#objects .current").wait_for()
        assert page.evaluate("async () => (await import('/js/store.js')).app.selected") == one["id"]
        page.evaluate("location.hash = '#image=1&box=0,0,2,2'")
        page.locator(".toast", has_text="No object is annotated at this place").wait_for()
        page.click("#tab-model")
        page.fill("[aria-label=Steps]", "100000")
        page.click("#start-tune")
        page.click("#tune [data-key=cancel-tune]")
        page.locator("#tune", has_text="The last run was cancelled").wait_for()
        _tune(tab, server, 2, (10, 10, 40, 40))


def _largest(labels: np.ndarray) -> list[int]:
    numbers, sizes = np.unique(labels[labels > 0], return_counts=True)
    return [int(number) for number in numbers[np.argsort(-sizes)]]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _kept(server: Page, image: str = "6") -> list[np.ndarray]:
    return [pixels_of(one["mask"], 448, 448) for one in server.objects(image)["objects"]]


def _annotate(tab: Tab, server: Page, truth: list[np.ndarray]) -> None:
    """Box, corrections, one of three masks, accept, undo, redo."""
    page = tab.page
    assert "token" not in page.url and page.url.endswith("#image=6"), "the first image that is not done"
    assert page.locator("#image-list .image").count() == 6
    assert page.locator("#saved").inner_text() == "No changes yet"
    tab.drag(_box(truth[0]))
    tab.answered()
    by_box = tab.mask()
    assert _iou(by_box, truth[0]) > 0.6
    rows, columns = np.nonzero(truth[0])
    middle = float(columns[len(columns) // 2]), float(rows[len(rows) // 2])
    tab.click(*middle)
    tab.answered()
    tab.click(3, 3, button="right")
    wait_for(lambda: tab.labels() == [1, 0])
    tab.answered()
    tab.click(3, 3)
    wait_for(lambda: tab.labels() == [1])
    tab.answered()
    page.keyboard.press("z")
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert np.array_equal(tab.mask(), by_box), "three steps back, without asking again"
    page.keyboard.press("Tab")
    page.locator(".thirds").wait_for()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert np.array_equal(tab.mask(), by_box)
    page.keyboard.press("Enter")
    tab.saved()
    kept = _kept(server)
    assert len(kept) == 1 and np.array_equal(kept[0], by_box), "what was shown is what is kept"
    page.keyboard.press("z")
    wait_for(lambda: not _kept(server))
    page.locator("#draft-bar").wait_for()
    page.keyboard.press("y")
    wait_for(lambda: len(_kept(server)) == 1)
    tab.click(*_inside(truth[1]))
    tab.answered()
    page.keyboard.press("Space")
    page.locator("#object-count", has_text="2").wait_for()
    wait_for(lambda: len(_kept(server)) == 2)


def _inside(mask: np.ndarray) -> tuple[float, float]:
    """The point of a mask with the most of it around."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x) + 0.5, float(y) + 0.5


def _name_a_class(tab: Tab, server: Page) -> None:
    """A class with HTML in its name is a name; a digit gives it to the selected object."""
    page = tab.page
    page.fill("#add-class input", HTML)
    page.press("#add-class input", "Enter")
    page.locator("#classes .row", has_text=HTML).wait_for()
    assert page.locator("#classes img").count() == 0
    page.keyboard.press("j")
    page.locator("#objects .current").wait_for()
    page.keyboard.press("2")
    page.locator("#objects .current", has_text=HTML).wait_for()
    assert [one["category_id"] for one in server.objects("6")["objects"]] == [2, 1]


def _come_back(tab: Tab, server: Page) -> None:
    """After a reload all is there, at the object the address names; a brush then mends it."""
    page, before = tab.page, _kept(server)
    assert page.url.endswith("#image=6&object=" + server.objects("6")["objects"][0]["id"])
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.locator("#objects .current", has_text=HTML).wait_for()
    assert page.locator("#objects > .object").count() == 2
    page.keyboard.press("b")
    x0, y0, _, _ = _box(before[0])
    tab.drag((x0, y0, x0 + 6, y0 + 6))
    tab.answered("painted by hand")
    painted = tab.mask()
    assert painted[y0, x0] and (painted & before[0]).sum() == before[0].sum()
    page.keyboard.press("Enter")
    page.locator("#draft-bar").wait_for(state="hidden")
    assert np.array_equal(_kept(server)[0], painted) and np.array_equal(_kept(server)[1], before[1])
    page.keyboard.press("p")
    page.keyboard.press("m")
    wait_for(lambda: server.state()["images"][5]["status"] == "done")


def _export(tab: Tab, server: Page) -> None:
    """What is exported has the masks of the page."""
    page = tab.page
    for name in ("coco", "masks"):
        page.keyboard.press("Shift+E")
        page.check(f"#export input[value={name}]", force=True)
        page.click("#export button[type=submit]")
        path = Path(page.locator("#export .path").inner_text())
        page.keyboard.press("Escape")
        expected = {mask.tobytes() for mask in _kept(server)}
        if name == "coco":
            files = [json.loads(file.read_text(encoding="utf-8")) for file in path.rglob("*.coco.json")]
            ((content, image),) = (
                (file, one["id"]) for file in files for one in file["images"] if "well-5" in one["file_name"]
            )
            runs = [one["segmentation"] for one in content["annotations"] if one["image_id"] == image]
            found = {rasterise(parse_counts(one["counts"], 448, 448), 448, 448).tobytes() for one in runs}
            assert found == expected
        else:
            (entry,) = (one for one in Dataset.open(path).images if "well-5" in one.image_path)
            assert {Dataset.open(path).read_mask(one).tobytes() for one in entry.objects} == expected


def _tune(tab: Tab, server: Page, steps: int, box: tuple[int, int, int, int]) -> None:
    """Some steps, a verdict, the switch, and base beside tuned."""
    page = tab.page
    page.click("#tab-model")
    page.fill("[aria-label=Steps]", str(steps))
    page.click("#start-tune")
    page.locator("#tune .meter").wait_for()
    page.locator("#verdict h3").wait_for(timeout=15 * PATIENCE)
    verdict = server.get("/api/tune").json()["verdict"]
    assert page.locator("#verdict h3").inner_text() == verdict["decision"]
    assert f"{verdict['tuned']:.3f}" in page.locator("#verdict .numbers").inner_text()
    assert page.locator("#tune .chart path.a").count() == 1
    page.click("#use-tuned")
    page.locator("#models [aria-checked=true]", has_text="tuned").wait_for()
    assert server.state()["active"] == server.get("/api/tune").json()["model"]
    page.keyboard.press("Escape")
    tab.drag(box)
    tab.answered()
    page.keyboard.press("x")
    page.locator("#compare-bar .iou").wait_for()
    assert 0 <= float(page.locator("#compare-bar .iou").inner_text().split()[1]) <= 1
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.click("#load-disagreements")
    page.locator("#disagreements button").first.wait_for()


def test_by_keyboard_alone_and_with_keys_of_ones_own(cells, browser, tmp_path):
    with visited(cells.folder, tmp_path / "studio", browser) as (server, tab):
        page = tab.page
        tab.go("#image=6")
        page.keyboard.press("?")
        page.get_by_role("button", name="Accept the mask: Enter or Space. Change").click()
        page.keyboard.press("t")
        page.get_by_role("button", name="Accept the mask: T. Change").wait_for()
        page.keyboard.press("Escape")
        x, y = _inside(cells.truth == _largest(cells.truth)[0])
        page.keyboard.press("ArrowRight")
        for key, count in _presses(page, x, y):
            for _ in range(count):
                page.keyboard.press(key)
        page.keyboard.press("q")
        tab.answered()
        page.keyboard.press("t")
        tab.saved()
        assert len(_kept(server)) == 1
        assert page.locator("#announce").inner_text() == "Saved."
        page.keyboard.press("j")
        _undo_at_once(tab, server)
        page.keyboard.press("a")
        page.locator("#status-image", has_text="well-4").wait_for()
        assert "#image=5" in page.url
        unnamed = "els => els.filter((e) => !(e.hidden || e.textContent.trim() || e.getAttribute('aria-label'))).length"
        assert page.locator("button").evaluate_all(unnamed) == 0, "each button has a name"


def _undo_at_once(tab: Tab, server: Page) -> None:
    """Undo waits for the change before it, however soon it comes: that one is undone, and on the disk too."""
    page, held, changes = tab.page, list[Any](), "**/api/images/*/objects"
    page.route(changes, lambda one: held.append(one))
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    page.evaluate("async () => { window.undone = (await import('/js/history.js')).undo(); }")
    wait_for(lambda: page.evaluate("1") and held)
    page.unroute(changes)  # and what was held goes its way
    page.evaluate("() => window.undone")
    assert len(_kept(server)) == 1, "the deletion was undone, and not the object before it"
    page.keyboard.press("z")
    wait_for(lambda: not _kept(server))
    page.locator("#draft-bar").wait_for()
    page.evaluate("""async () => {
        const [{ accept }, { undo }] = [await import('/js/saving.js'), await import('/js/history.js')];
        accept();
        await new Promise((resume) => setTimeout(resume));
        await undo();
    }""")
    assert not _kept(server) and page.locator("#objects > .object").count() == 0
    page.keyboard.press("Escape")


def _presses(page: Any, x: float, y: float) -> list[tuple[str, int]]:
    at = page.evaluate("async () => (await import('/js/store.js')).app.pointer.at")
    scale = page.evaluate("async () => (await import('/js/viewport.js')).view.scale")
    right, down = round((x - at["x"]) * scale / 12), round((y - at["y"]) * scale / 12)
    return [
        ("ArrowRight" if right > 0 else "ArrowLeft", abs(right)),
        ("ArrowDown" if down > 0 else "ArrowUp", abs(down)),
    ]


def test_what_is_not_saved_is_not_called_saved(cells, browser, tmp_path):
    """A full disk; then another tab on the same image; then a link to an object."""
    with visited(cells.folder, tmp_path / "studio", browser) as (server, tab):
        page, truth = tab.page, cells.truth == _largest(cells.truth)[0]
        tab.go("#image=6")
        tab.drag(_box(truth))
        tab.answered()
        with full_disk((tmp_path / "studio/journal.jsonl").stat().st_size + 40):
            page.keyboard.press("Enter")
            tab.saved("1 object not saved")
            assert "journal" in page.locator(".toast.error").inner_text()
        tab.noise.clear()  # Chromium says itself that an answer was 507
        assert not _kept(server)
        page.locator("#objects .object").hover()
        page.click("[aria-label='Try to save again']")
        tab.saved()
        wait_for(lambda: len(_kept(server)) == 1)
        other = {"category_id": 1, "mask": server.objects("1")["objects"][0]["mask"]}
        server.change("6", "accept", object=other).raise_for_status()
        tab.click(*_inside(cells.truth == _largest(cells.truth)[1]))
        tab.answered()
        page.keyboard.press("Enter")
        page.locator(".toast", has_text="Another tab").wait_for()
        wait_for(lambda: len(_kept(server)) == 3)
        page.locator("#object-count", has_text="3").wait_for()
        tab.noise.clear()  # and that one was 409
        last = server.objects("1")["objects"][-1]["id"]
        page.evaluate(f"location.hash = '#image=1&object={last}'")
        page.locator("#objects .current").wait_for()
        page.keyboard.press("g")
        page.locator(".tile img").first.wait_for()
        assert page.locator(".tile").count() == sum(one["objects"] for one in server.state()["images"])


def test_images_that_cannot_be_read_are_named_and_take_no_clicks(browser, tmp_path):
    """One that is damaged from the start, and one that goes while the page is open."""
    write_images(tmp_path / "images")
    (tmp_path / "images/torn.png").write_bytes((tmp_path / "images/image-0.png").read_bytes()[:200])
    with visited(tmp_path / "images", tmp_path / "studio", browser) as (_, tab):
        page = tab.page
        tab.go()
        page.locator(".toast", has_text="1 image was left out: torn.png").wait_for()
        last = (tmp_path / "images/image-2.png").rename(tmp_path / "image-2.png")
        page.keyboard.press("d")
        page.keyboard.press("d")
        page.locator("#empty", has_text="cannot be shown").wait_for()
        page.locator(".toast.error", has_text="image-2.png").wait_for()
        tab.click(40, 30)
        page.keyboard.press("q")
        last.rename(tmp_path / "images/image-2.png")
        page.click("[data-image='3'] button")  # open it again: it is back
        page.locator("#empty").wait_for(state="hidden")
        assert not page.evaluate("async () => (await import('/js/history.js')).canUndo()"), "no click was taken"
        tab.click(40, 30)
        tab.answered()
        assert [one.split(": ")[0] for one in tab.noise] == ["Failed to load resource"]
        tab.noise.clear()  # that was the image


def test_masks_survive_the_way_to_the_page_and_back(browser, tmp_path):
    """Decoding, outline, bitmap and the PNG that goes back, for masks of noise, against NumPy and Pillow."""
    make_dataset(tmp_path / "dataset")
    script = """async (mask) => {
        const { decode, encode, area, bitmap, covers, outline, stairs } = await import('/js/masks.js');
        const found = await decode(mask);
        stairs(found);
        const { x, y, w, h } = found;
        const context = new OffscreenCanvas(1, 1).getContext('2d');
        const shown = bitmap(found, '#ffffff').getContext('2d').getImageData(0, 0, w, h).data;
        let wrong = 0;
        for (let row = y - 1; row <= y + h; row++)
            for (let column = x - 1; column <= x + w; column++) {
                const isSet = covers(found, column, row);
                if (context.isPointInPath(outline(found), column + 0.5, row + 0.5, 'evenodd') !== isSet) wrong++;
                const inside = column >= x && row >= y && column < x + w && row < y + h;
                if (inside && (shown[4 * ((row - y) * w + column - x) + 3] > 0) !== isSet) wrong++;
            }
        return [area(found), wrong, await encode(found)];
    }"""
    rng = np.random.default_rng(5)
    with visited(tmp_path / "dataset", tmp_path / "studio", browser) as (_, tab):
        tab.go()
        for width, height in ((1, 1), (7, 3), (64, 65), (72, 80)):
            mask = np.zeros((72, 80), bool)
            mask[:height, :width] = (rng.random((height, width)) < 0.5)[:72, :80]
            mask[0, 0] = True
            mask[20:40, 8:40] |= height > 20  # and straight sides
            count, wrong, back = tab.page.evaluate(script, mask_json(mask))
            assert count == mask.sum() and wrong == 0
            assert np.array_equal(pixels_of(back, 72, 80), mask)


def test_what_a_session_seldom_needs(cells, browser, tmp_path):
    """Preview, eraser, proposals, review, YOLO, and a name for everything that can be operated."""
    best = tmp_path / "run/checkpoints/best"
    save_model(load_model("nano"), best)
    grid = {"min_iou_score": 0.2, "min_stability": 0.3, "precision": 0, "recall": 0, "chosen_on": "a test"}
    write_thresholds(
        tmp_path / "run", GridThresholds(**grid)
    )  # with the constants made for SAM 2 nano proposes nothing
    with visited(cells.folder, tmp_path / "studio", browser, str(best)) as (server, tab):
        tab.go("#image=6")
        truth = [cells.truth == number for number in _largest(cells.truth)]
        _assert_all_named(tab, "canvas")
        _preview(tab, server, truth[0])
        _erase(tab, truth[0])
        _propose(tab, server)
        _review(tab, server)
        _export_yolo(tab, server, tmp_path)


def _assert_all_named(tab: Tab, where: str) -> None:
    """Each control has a name for screen readers, as Chromium itself works it out."""
    session = tab.page.context.new_cdp_session(tab.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    shown = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in CONTROLS]
    assert len(shown) > 5, where
    unnamed = [node["role"]["value"] for node in shown if not node.get("name", {}).get("value", "").strip()]
    assert unnamed == [], where


def _hovered(tab: Tab) -> tuple[list[float], np.ndarray] | None:
    """Where the pointer is, and the mask previewed there."""
    script = """async () => {
        const { app } = await import('/js/store.js');
        if (!app.hover) return null;
        const { x, y, w, h, bits } = app.hover;
        return [[app.pointer.at.x, app.pointer.at.y], x, y, w, h, Array.from(bits)];
    }"""
    found = tab.page.evaluate(script)
    if found is None:
        return None
    at, x, y, w, h, bits = found
    mask = np.zeros((448, 448), bool)
    mask[y : y + h, x : x + w] = np.asarray(bits, bool).reshape(h, w)
    return at, mask


def _preview(tab: Tab, server: Page, truth: np.ndarray) -> None:
    """The mask under the pointer is the one a click there would give, unless the person does not want it."""
    page = tab.page
    page.locator("#status-busy", has_text="Preparing").wait_for(state="hidden")
    page.mouse.move(*tab.place(*_inside(truth)))

    def is_shown() -> bool:
        found = _hovered(tab)
        if found is None:
            page.mouse.move(*tab.place(*_inside(truth)))  # the image may not have been ready for the model
            return False
        point = [[round(value, 2) for value in found[0]]]
        answer = server.predict("6", points=point, labels=[1], multimask=True)
        return np.array_equal(pixels_of(answer["masks"][answer["best"]]["mask"], 448, 448), found[1])

    wait_for(is_shown)
    held, questions = list[Any](), "**/api/images/*/predict"
    page.route(questions, lambda one: held.append(one))
    page.mouse.move(*tab.place(5, 5))
    wait_for(lambda: page.evaluate("1") and held)
    page.keyboard.press("?")
    _assert_all_named(tab, "help")
    page.get_by_label("Show a preview of the mask under the pointer").uncheck()
    page.keyboard.press("Escape")
    page.mouse.move(*tab.place(7, 7))
    wait_for(lambda: _hovered(tab) is None)
    with page.expect_response(questions):
        page.unroute(questions)  # the answer comes when nobody wants it any more
    page.evaluate("new Promise((resume) => setTimeout(resume, 200))")
    assert _hovered(tab) is None


def _erase(tab: Tab, truth: np.ndarray) -> None:
    """What a stroke of the eraser covers is taken away, and one step back brings it back."""
    page = tab.page
    tab.drag(_box(truth))
    tab.answered()
    before = tab.mask()
    x0, y0, x1, y1 = _box(truth)
    page.keyboard.press("e")
    page.keyboard.press(".")
    tab.drag((x0, (y0 + y1) // 2, x1, (y0 + y1) // 2))
    tab.answered("painted by hand")
    radius = page.evaluate("async () => (await import('/js/store.js')).app.pointer.radius")
    y, x = np.mgrid[:448, :448] + 0.5
    along = np.clip(x, x0, x1)
    distance = np.hypot(x - along, y - (y0 + y1) // 2)
    sure = np.abs(distance - radius) > 0.05  # the pointer stands on whole pixels of the screen
    assert np.array_equal(tab.mask()[sure], (before & (distance > radius))[sure])
    page.keyboard.press("z")
    assert np.array_equal(tab.mask(), before)
    page.keyboard.press("Escape")
    page.keyboard.press("p")


def _scores(tab: Tab) -> list[float]:
    return tab.page.evaluate("async () => (await import('/js/store.js')).app.proposals.map((one) => one.score)")


def _slide(tab: Tab, threshold: float) -> None:
    """Set the least score of a proposal."""
    tab.page.locator("[data-key=threshold]").evaluate(
        "(slider, value) => { slider.step = 'any'; slider.value = value; slider.dispatchEvent(new Event('input')); }",
        threshold,
    )


def _propose(tab: Tab, server: Page) -> None:
    """Proposals: one by a click, all above a threshold by a key, and all of these taken back at once."""
    page = tab.page
    page.keyboard.press("r")
    page.locator("#proposal-bar").wait_for()
    _assert_all_named(tab, "proposals")
    scores = sorted(_scores(tab))
    assert len(scores) > 3
    accept = page.locator("[data-key=all]")
    assert accept.inner_text() == f"Accept {sum(score >= 0.5 for score in scores) or len(scores)}"
    _slide(tab, 1)
    assert accept.inner_text() == "Accept 0"
    page.keyboard.press("r")
    wait_for(lambda: accept.inner_text() == f"Accept {len(scores)}")  # all are below the slider, and shown
    middle = int(np.argmax(np.diff(scores[:-1]))) + 1  # where the next score is farthest, two above it at least
    threshold = (scores[middle - 1] + scores[middle]) / 2
    _slide(tab, threshold)
    above = sum(score >= threshold for score in scores)
    assert 1 < above < len(scores)
    assert accept.inner_text() == f"Accept {above}"
    script = """async () => {
        const [{ app }, { covers }] = [await import('/js/store.js'), await import('/js/masks.js')];
        const [{ mask: { x, y, w, h, bits } }] = app.proposals.filter((one) => one.score >= app.threshold);
        const at = bits.indexOf(1);
        return [x + (at % w) + 0.5, y + Math.floor(at / w) + 0.5];
    }"""
    tab.click(*page.evaluate(script))
    tab.saved()
    wait_for(lambda: len(_kept(server)) == 1)
    assert server.objects("6")["objects"][0]["source"] == "proposal"
    assert len(_scores(tab)) == len(scores) - 1
    page.keyboard.press("Shift+R")
    wait_for(lambda: len(_kept(server)) == above)
    assert len(_scores(tab)) == len(scores) - above, "those below the threshold stay proposals"
    page.keyboard.press("z")
    wait_for(lambda: len(_kept(server)) == 1)
    page.keyboard.press("y")
    wait_for(lambda: len(_kept(server)) == above)
    page.click("[data-key=clear]")
    assert _scores(tab) == []


def _review(tab: Tab, server: Page) -> None:
    """The grid by size and class; a class changed and an object deleted where they are shown."""
    page = tab.page
    areas = sorted(one["area"] for one in server.get("/api/review").json()["objects"])
    page.keyboard.press("g")
    page.locator(".tile").first.wait_for()
    assert page.locator(".tile").count() == len(areas)
    _assert_all_named(tab, "review")
    held, questions = list[Any](), "**/api/review?*"
    page.route(questions, lambda one: held.append(one), times=1)
    page.get_by_label("Order").select_option("size")
    wait_for(lambda: page.evaluate("1") and held)
    least = areas[len(areas) // 2]
    page.get_by_label("Min. area in pixels").fill(str(least))
    page.keyboard.press("Enter")
    expected = [f"{area:,} px" for area in areas if area >= least]
    shown = page.locator(".tile .more span:first-child")
    wait_for(lambda: shown.all_inner_texts() == expected)
    with page.expect_response(questions):
        held[0].continue_()  # the answer to the first question comes after that to the second
    page.evaluate("new Promise((resume) => setTimeout(resume, 200))")
    assert shown.all_inner_texts() == expected
    server.post("/api/classes", json={"name": "other"}).raise_for_status()
    page.click("[aria-label='Close the review']")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("g")
    page.locator(".tile").first.wait_for()
    total = page.locator(".tile").count()
    page.locator(".tile select").first.select_option(label="other")
    wait_for(lambda: [one["category_id"] for one in server.get("/api/review").json()["objects"]].count(2) == 1)
    page.get_by_label("Class", exact=True).select_option(label="other")
    page.locator("#review-count", has_text="1 object").wait_for()
    page.locator(".tile [title=Delete]").click()
    page.locator("#review-grid", has_text="No accepted object fits this filter").wait_for()
    assert len(server.get("/api/review").json()["objects"]) == min(total, len(areas)) - 1
    page.click("[aria-label='Close the review']")


def _export_yolo(tab: Tab, server: Page, folder: Path) -> None:
    """YOLO's polygons, read again by `prepare`, are the masks of the page."""
    page = tab.page
    page.keyboard.press("Shift+E")
    _assert_all_named(tab, "export")
    page.check("#export input[value=yolo]", force=True)
    page.click("#export button[type=submit]")
    path = Path(page.locator("#export .path").inner_text())
    page.keyboard.press("Escape")
    again = prepare(path, folder / "again", PrepareConfig(workers=1)).dataset
    (entry,) = (one for one in again.images if "well-5" in one.image_path)
    found = {again.read_mask(one).tobytes() for one in entry.objects}
    assert found == {mask.tobytes() for mask in _kept(server)} and found


def test_an_image_of_ten_thousand_pixels(browser, tmp_path):
    """It is shown small at first and in full where one zooms in; what is accepted has the size of the image."""
    source = tmp_path / "images"
    source.mkdir()
    pixels = np.full((2000, 10_000, 3), 60, np.uint8)
    cv2.circle(pixels, (9000, 1000), 700, (200, 180, 40), -1)
    pixels[980:1020:2, 8980:9020] = 255  # every second row, which only the full image can show
    pixels[981:1020:2, 8980:9020] = 0
    Image.fromarray(pixels).save(source / "large.png", compress_level=1)
    with visited(source, tmp_path / "studio", browser) as (server, tab):
        page = tab.page
        tab.go()
        tab.drag((8250, 250, 9750, 1750))
        tab.answered()
        script = """async () => {
            const [{ app }, { currentMask }] = [await import('/js/store.js'), await import('/js/draft.js')];
            const { x, y, w, h, bits } = currentMask(app.draft);
            return [[x, y, w, h], bits.reduce((sum, bit) => sum + bit, 0)];
        }"""
        place, area = page.evaluate(script)
        page.keyboard.press("Enter")
        tab.saved()
        (kept,) = server.objects("1")["objects"]
        pixels = pixels_of(kept["mask"], 2000, 10_000)
        assert kept["mask"]["bbox"] == place and pixels.sum() == area, "what was shown is what is kept"
        y, x = np.mgrid[:2000, :10_000]
        assert _iou(pixels, (x - 9000) ** 2 + (y - 1000) ** 2 <= 700**2) > 0.5, "and it lies on the disc"
        page.mouse.move(*tab.place(9000.5, 1000.5))
        page.keyboard.press("h")  # no mask over the pixels
        for _ in range(14):
            page.mouse.wheel(0, -400)

        def has_rows() -> bool:
            """In the middle of the canvas a bright row of pixels follows a dark one, 64 pixels of the screen high."""
            shown = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("L"))
            found = shown[::64, shown.shape[1] // 2][2:-2].astype(int)
            return bool((np.abs(np.diff(found)) > 150).all())

        wait_for(has_rows)
        assert page.locator("#status-zoom").inner_text() == "6400 %"
