"""docs/findings.md says what is stored; what an experiment left without its data set is refused."""

import json
from pathlib import Path

import pytest

from benchmarks.findings import PAGE, page, read_store, store_findings
from recmind_dist.errors import DataError
from recmind_dist.experiments.figures import draw_bars
from recmind_dist.experiments.findings import Findings, TableOf


def findings(dataset: str) -> Findings:
    table = TableOf("## A table", ("model", "ndcg@20"), [["a|b", 0.5], ["c", None]])
    return Findings("texts", "Title", "up.", "down.", [table], ["a note"], "leave it.", dataset)


def write(found: Findings, home: Path) -> None:
    home.mkdir(exist_ok=True)
    found.write(home, lambda: draw_bars({"x": {"a": (1.0, None, None)}}, "title", "x"))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(read_store()), "run: python benchmarks/findings.py --write"


def test_what_is_stored_is_on_the_page(tmp_path: Path) -> None:
    for dataset in ("toy", "shop"):
        write(findings(dataset), tmp_path / dataset)
        store_findings(tmp_path / dataset, tmp_path / "store")
    found = page(read_store(tmp_path / "store"))
    assert found.index("## Title: shop") < found.index("## Title: toy")
    assert "| Title | toy | down. | leave it. |" in found
    assert "### A table" in found
    assert "| a\\|b | 0.5000 |" in found


def test_findings_without_a_data_set_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(DataError, match=r"table\.json: not there: run `recmind experiment`"):
        store_findings(tmp_path / "none", store)
    write(findings(""), tmp_path / "old")
    with pytest.raises(DataError, match=r"table\.json: no dataset: only what"):
        store_findings(tmp_path / "old", store)
    (tmp_path / "old" / "table.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="no name"):
        store_findings(tmp_path / "old", store)
    assert not store.exists()
    with pytest.raises(DataError, match="nothing is stored"):
        read_store(store)
