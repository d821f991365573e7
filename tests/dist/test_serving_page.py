"""The server's page in headless Chromium: by keyboard alone, in both colour schemes, on a phone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.random_bundle import RandomBundle
from benchmarks.server_process import TOKEN, ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HOSTILE = "<img src=x onerror=document.title='hit'> & <b>bold</b>"
PHONE = {"width": 375, "height": 740}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    size = RandomBundle(60, 400, dim=8, history=6, first_title=HOSTILE)
    bundle = size.write(tmp_path_factory.mktemp("served") / "bundle")
    with ServerProcess(bundle) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page of its own, what its console said and what it fetched."""

    def __init__(self, browser: "Browser", url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda line: self.faults.append(f"{line.type}: {line.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(url)

    def results(self) -> list[str]:
        """Waits for results; their titles."""
        self.page.wait_for_selector("#results > li")
        return self.page.locator("#results .title").all_inner_texts()

    def shot(self, name: str) -> None:
        """A screenshot for people, where RECMIND_SCREENSHOTS names a directory."""
        if folder := os.environ.get("RECMIND_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser: "Browser", server: ServerProcess) -> Iterator[Visit]:
    visit = Visit(browser, server.url)
    yield visit
    visit.context.close()
    assert visit.faults == []
    assert {url.startswith((server.url, "data:")) for url in visit.fetched} == {True}


def test_a_user_is_found_and_ranked_for_by_keyboard_alone(
    visit: Visit, server: ServerProcess
) -> None:
    keys = visit.page.keyboard
    from playwright.sync_api import expect  # whose own waiting needs no eval, which the page bans

    expect(visit.page.locator("#about")).to_contain_text("400")
    keys.press("Tab")  # to the kinds
    keys.press("Tab")  # to the user
    keys.type("u5")
    visit.page.wait_for_selector("#user-list li")
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("Enter")  # takes the second suggestion
    assert visit.page.input_value("#user") == "u50"
    keys.press("Enter")  # asks
    titles = visit.results()
    _, reply = server.ask("/recommend", {"user": "u50", "k": 10})
    expected = reply["results"][0]["items"]
    assert [title.split("\n")[0] for title in titles] == [
        item["title"] + item["item_id"] for item in expected
    ]
    first = visit.page.locator("#results > li").first.inner_text()
    assert f"graph {expected[0]['shares']['graph']:.3f}" in first
    assert expected[0]["nearest"][0]["title"] in first
    assert "γ" in visit.page.inner_text("#gates")
    visit.shot("desktop")


def test_a_history_with_an_unknown_item_and_a_filter(visit: Visit) -> None:
    page = visit.page
    page.check("input[value=history]")
    page.fill("#add", "harbour 1")
    page.wait_for_selector("#add-list li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.input_value("#history").startswith("i")
    page.fill("#history", "i1, gone\ni7")
    page.click("summary")
    page.fill("#where", 'category == "Kids"')
    page.fill("#k", "4")
    page.click("#go")
    assert len(visit.results()) == 4
    assert "left out: gone" in page.inner_text("#message")
    page.locator("#results button").first.click()  # items like this
    from playwright.sync_api import expect

    expect(page.locator("#go")).to_contain_text("similar")
    expect(page.locator(".shares")).to_have_count(0)
    visit.shot("similar")


def test_titles_are_text_whatever_they_hold(visit: Visit) -> None:
    page = visit.page
    page.check("input[value=similar]")
    page.fill("#item", "onerror")
    page.wait_for_selector("#item-list li")
    assert HOSTILE in page.inner_text("#item-list")
    page.keyboard.press("Escape")
    page.check("input[value=history]")
    page.fill("#history", "i0")
    page.click("#go")
    visit.results()
    assert HOSTILE in page.inner_text("#results")  # as the nearest item of the history
    assert page.title() == "recmind"
    assert page.locator("main img, main b").count() == 0


def test_what_is_refused_is_said_on_the_page(browser: "Browser", server: ServerProcess) -> None:
    visit = Visit(browser, server.url)
    visit.page.fill("#user", "nobody")
    visit.page.click("#go")
    visit.page.wait_for_selector("#message.bad")
    assert "'nobody' is not in random" in visit.page.inner_text("#message")
    assert visit.page.is_disabled("input[value=text]")  # the bundle has no language model
    assert [fault for fault in visit.faults if "404" not in fault] == []  # the browser's own line
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: "Browser", server: ServerProcess, scheme: Any
) -> None:
    visit = Visit(browser, server.url, viewport=PHONE, color_scheme=scheme, has_touch=True)
    visit.page.fill("#user", "u7")
    visit.page.click("#go")
    visit.results()
    visit.page.click("summary")
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness < 200) == (scheme == "dark")
    visit.shot(f"phone-{scheme}")
    assert visit.faults == []
    visit.context.close()


def test_a_token_is_asked_for_once(browser: "Browser", tmp_path: Path) -> None:
    bundle = RandomBundle(5, 30, dim=4, history=2).write(tmp_path / "bundle")
    with ServerProcess(bundle, token=TOKEN) as server:
        visit = Visit(browser, server.url)
        visit.page.wait_for_selector("#token")
        assert visit.page.is_hidden("#ask")
        visit.page.keyboard.type(TOKEN)  # it has the focus
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#ask")
        visit.page.reload()
        visit.page.fill("#user", "u1")
        visit.page.click("#go")
        assert len(visit.results()) > 5
        assert visit.faults == []
        visit.context.close()


def test_a_wide_dark_page(browser: "Browser", server: ServerProcess) -> None:
    visit = Visit(browser, server.url, color_scheme="dark")
    visit.page.fill("#user", "u7")
    visit.page.click("#go")
    visit.results()
    colours = "[getComputedStyle(document.body).color, getComputedStyle(go).color]"
    assert visit.page.evaluate(colours) == ["rgb(232, 234, 237)", "rgb(16, 34, 61)"]
    visit.shot("desktop-dark")
    visit.context.close()
