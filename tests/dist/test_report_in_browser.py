"""The report in headless Chromium: on a desktop and a phone, light and dark, by keyboard."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recmind_dist.report_page.write import write_report
from tests.reported_runs import make_reported_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    other = make_reported_run(home, "lightgcn", model={"kind": "lightgcn"})
    write_report([make_reported_run(home), other], home / "report.html", num_examples=2)
    return home / "report.html"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_fits_the_screen_follows_its_scheme_and_asks_for_nothing(
    browser: "Browser", report: Path, width: int, scheme: Any
) -> None:
    viewport: Any = {"width": width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page, said, fetched = context.new_page(), list[str](), list[str]()
    page.on("console", lambda line: said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness < 200) == (scheme == "dark")
    # letters of the smallest drawing as people see them
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => 13 * s.getBoundingClientRect().width"
        " / s.viewBox.baseVal.width)"
    )
    assert min(sizes) > 9
    narrow = page.evaluate(
        "Math.min(...[...document.querySelectorAll('td, th')].filter(c => c.offsetWidth)"
        ".map(c => c.offsetWidth))"
    )
    assert narrow > 25  # no cell is broken into single letters
    page.keyboard.press("Tab")  # to the first link
    assert page.evaluate("document.activeElement.textContent") == "Results"
    summary = page.locator("figure summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure details").first.locator("table").is_visible()
    if folder := os.environ.get("RECMIND_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)
    assert said == []
    assert fetched == [report.as_uri()]
    context.close()


def test_a_screen_reader_hears_what_figures_and_tables_are(
    browser: "Browser", report: Path
) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    drawings = page.get_by_role("img").all()
    names = [drawing.get_attribute("aria-label") for drawing in drawings]
    assert len(drawings) == page.locator("svg").count() == len(set(names))
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("img", name="Recall@20 on validation").count() == 1
    assert page.get_by_role("table", name="Metrics on the test split").count() == 1
    assert page.get_by_role("navigation", name="Sections").count() == 1
    page.close()
