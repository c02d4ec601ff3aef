"""Report and doctor page in Chromium: nothing requested, no complaints, slider by mouse and keyboard, print."""

from __future__ import annotations

import json
import shutil
import subprocess

import polars as pl
import pytest

from samtune import api
from samtune.config import EvalConfig
from samtune.data.table import Dataset, write_table
from samtune.inference.predictor import Predictor
from samtune.model.io.load import load_model
from samtune.model.io.save import save_model
from samtune.report.build import build_report
from tests.small import make_dataset, write_export
from tests.tiny import tiny_sam2

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
HOSTILE = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"
CURVE_POINT = {"mean": 0.5, "low": 0.4, "high": 0.6}


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_folder, chromium):
    """The addresses of a report and of a doctor page, with a class that is named as HTML in both."""
    root = tmp_path_factory.mktemp("pages")
    dataset = make_dataset(root / "set", train=1, valid=1, test=3, seed=1)
    write_table(dataset.root, dataset.table.with_columns(pl.col("category").replace("large", HOSTILE)))
    issue = {"code": "lost", "severity": "warning", "message": f"An object of {HOSTILE}."}
    (dataset.root / "issues.json").write_text(json.dumps({"format": 1, "issues": [issue]}))
    save_model(tiny_sam2(seed=1), root / "other")
    (root / "other/curve.json").write_text(json.dumps(data_curve()))
    build_report(
        Dataset.open(dataset.root),
        Predictor(load_model(tiny_folder)),
        [Predictor(load_model(root / "other"))],
        root / "out",
        EvalConfig(mask_prompt=False, clicks=1, boundaries=True),
        names=("nano", HOSTILE),
        runs=[root / "other"],
        automatic=True,
    )
    write_export(root / "export")
    file = root / "export/test/_annotations.coco.json"
    file.write_text(file.read_text().replace("<b>thing</b>", HOSTILE.replace('"', '\\"')))
    (root / "export/test/test-1_jpg.rf.00000000000000000000000000000001.jpg").write_bytes(b"broken")
    api.doctor(root / "export", html=root / "doctor.html", quiet=True)
    return {"report": root / "out/report.html", "doctor": root / "doctor.html"}


def data_curve():
    """As `samtune curve` writes it, as far as the report reads it."""
    band = {"images": [0, 10, 20], "fitted": [0.4, 0.5, 0.55], "low": [0.3, 0.4, 0.5], "high": [0.5, 0.6, 0.7]}
    points = [
        {"images": at, "ious": dict.fromkeys(("box", "point"), CURVE_POINT), "seeds": {"box": [0.5], "point": []}}
        for at in (0, 10)
    ]
    ahead = {"images": 10.0, "more": 10, "gain": 0.05, "low": 0.01, "high": 0.1, "band": band}
    return {
        "dataset": HOSTILE,
        "model": "nano",
        "split": "test",
        "points": points,
        "forecasts": {"box": ahead, "point": ahead},
    }


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, pages):
    """Opens a page and, when the test is over, says what it asked for and complained about: nothing."""
    contexts, asked, complaints = [], [], []

    def go(name, width=1400, scheme="light", script=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(pages[name].as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    allowed = ("data:", *(page.as_uri() for page in pages.values()))
    assert [url for url in asked if not url.startswith(allowed)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["report", "doctor"])
def test_it_fits_is_readable_and_names_stay_text(opened, name, width, scheme):
    page = opened(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in page.inner_text("body")
    assert page.title() != "run"
    assert page.locator("img[src='x']").count() == 0
    style = "getComputedStyle(document.body)"
    assert contrast(*page.evaluate(f"[{style}.color, {style}.backgroundColor]")) >= 7


def contrast(first, second):
    """Of two colours as the browser writes them, by WCAG 2."""

    def luminance(color):
        values = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_the_slider_follows_mouse_and_keyboard(opened):
    page = opened("report")
    slider = page.locator(".slider").first
    stack = slider.locator(".stack")

    def cut():
        return stack.evaluate("element => element.style.getPropertyValue('--cut')")

    slider.scroll_into_view_if_needed()
    box = stack.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 10)
    page.mouse.up()
    assert float(cut().removesuffix("%")) == pytest.approx(25, abs=1)
    slider.locator("input").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert float(cut().removesuffix("%")) == pytest.approx(30, abs=1)
    page.keyboard.press("End")
    assert cut() == "100%"


def test_the_gallery_is_filtered_by_category_and_size(opened):
    page = opened("report")
    for name in ("category", "size"):
        select = page.locator(f"select[name={name}]")
        if not select.count():
            continue
        for option in select.locator("option").all_inner_texts()[1:]:
            select.select_option(label=option)
            shown = page.locator("figure[data-category]:visible")
            assert shown.count() > 0
            assert {shown.nth(n).get_attribute(f"data-{name}") for n in range(shown.count())} == {option}
        select.select_option(index=0)
    assert page.locator("select[name=category]").count() == 1


def test_without_script_everything_can_be_read(opened):
    page = opened("report", script=False)
    views = page.locator("figure[data-category]").first.locator("img:visible")
    assert views.count() == 4
    for heading in ("More labels", "Without prompts", "The dataset", "How this was measured"):
        assert page.get_by_role("heading", name=heading).is_visible()


@pytest.mark.parametrize("name", ["report", "doctor"])
def test_nothing_is_cut_on_paper_and_the_ground_is_white(opened, name):
    page = opened(name, 680, "dark")  # A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    wider = "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{wider}.filter(one => one.checkVisibility()).map(one => one.outerHTML.slice(0, 80))") == []
    scrolls = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1)"
    assert page.evaluate(f"{scrolls}.length") == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    assert not any(one.is_visible() for one in page.locator(".slider, .filter").all())


@pytest.mark.parametrize("name", ["report", "doctor"])
def test_it_prints_as_a_pdf(pages, chromium, tmp_path, name):
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer", pages[name].as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
