"""The docs site builds without a warning, holds every page, and asks no other host for anything."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADED = {"src", "srcset", "poster", "data"}  # attributes of what a browser fetches by itself
NOT_LOADED = {"canonical", "next", "prev", "alternate"}  # <link rel=…> that it does not


class Page(HTMLParser):
    """Ids of a page, its links, and what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loaded = set[str](), list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.loaded += [given[name] for name in LOADED if name in given]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in NOT_LOADED:
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("zensical", "mkdocstrings"):
        pytest.importorskip(package, reason="pip install '.[docs]'")
    target = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(ROOT / ".ci" / "site.py"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "No issues found" in said
    assert "arning" not in said
    return target / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    paths = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path.resolve(): Page(path) for path in paths}


def test_links_between_pages_lead_somewhere(pages: dict[Path, Page]) -> None:
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            ids = pages[target].ids if target in pages else {url.fragment}
            if not target.exists() or (url.fragment and unquote(url.fragment) not in ids):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_no_page_asks_another_host(pages: dict[Path, Page], site: Path) -> None:
    foreign = {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        foreign |= set(re.findall(r"url\([\"']?(https?:[^)]*)\)|@import", text))
    assert foreign == set()
    mermaid = [path.name for path in pages if 'class="mermaid"' in path.read_text("utf-8")]
    assert mermaid == []  # the theme's script would fetch its library


def test_docstrings_are_on_the_page_of_the_api(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    for name in ("Pipeline", "load", "Recommender", "NeighborLoader", "LightGCN", "to_hetero_data"):
        assert name in text
    assert "One run, from its files to its results." in text


def pages_of(entry: Any) -> Iterator[str]:
    """Files of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(part)


def test_every_page_of_docs_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    docs = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs").rglob("*.ipynb")}
    assert docs | notebooks == {
        name for name in pages_of(nav) if not name.startswith("benchmarks/")
    }
    titles = [title for entry in nav for title in entry]
    assert titles == [
        *("Home", "Quick start", "Own data", "Concepts", "Cluster", "GPU", "After training"),
        *("Reproduce the figures", "Troubleshooting", "Glossary", "Coming from"),
    ]
