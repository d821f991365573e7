"""An index of nearest neighbours: what it finds is measured, and refused where it is too little."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recmind_dist.cli.app import main
from recmind_dist.errors import DataError
from recmind_dist.recommend import nearest
from recmind_dist.recommend.bundle import KIND, SCHEMA, Bundle, vector_column
from recmind_dist.recommend.nearest import NearestItems, build_index
from recmind_dist.recommend.parquet_files import write_items, write_users
from recmind_dist.recommend.ranking import top_items
from recmind_dist.serving.bodies import RecommendBody, SimilarBody
from recmind_dist.serving.served import Served
from recmind_dist.storage.manifest import write_manifest

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
pa = pytest.importorskip("pyarrow")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Vectors of very different lengths, where nearest by angle is not best by product."""
    rng, path = np.random.default_rng(0), tmp_path / "bundle"
    path.mkdir()
    items = rng.normal(size=(400, 8)) * rng.lognormal(size=(400, 1))
    users = rng.normal(size=(60, 8))
    ids = pa.array([f"i{k}" for k in range(400)])
    columns = {"title": ids, "degree": pa.array(np.ones(400, np.int64))}
    table = {"id": ids, "vector": vector_column(items), **columns}
    write_items(pa.table(table), path / "items.parquet")
    table = {"id": pa.array([f"u{k}" for k in range(60)]), "vector": vector_column(users)}
    table["history"] = pa.array([[]] * 60, pa.list_(pa.int32()))
    write_users(iter([pa.table(table)]), path / "users.parquet")
    (path / "README.md").write_text("# A card\n")
    content = {"num_users": 60, "num_items": 400, "name": "toy", "text": None}
    content |= {"views": [("graph", 8)], "model": "mf", "fold_in": None}
    write_manifest(path, KIND, SCHEMA, content)
    return Bundle.open(path)


@pytest.mark.parametrize("kind", nearest.KINDS)
def test_an_index_finds_what_it_says_it_finds(
    bundle: Bundle, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", str(bundle.path), "--kind", kind, "--min-recall", "0.3", "--k", "10"])
    indexed = Bundle.open(bundle.path, verify=True)
    recall = indexed.manifest["index"]["recall"]
    assert f"{recall:.4f}" in capsys.readouterr().out
    main(["index", str(bundle.path), "--kind", kind, "--min-recall", "0.3", "--k", "10", "--json"])
    said = {"bundle": str(bundle.path), "kind": kind, "k": 10, "recall": recall}
    assert json.loads(capsys.readouterr().out) == said
    card = (bundle.path / "README.md").read_text()
    assert card.startswith("# A card\n\nNearest neighbours: ")
    assert f"recall@10 {recall:.4f}" in card

    users = indexed.users.vectors(np.arange(60))
    found, scores = NearestItems(indexed).top_items(users, 10)
    exact, best = top_items(users, indexed.item_vectors, 10)
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(shares) == pytest.approx(recall)
    assert (kind != "hnsw") or recall > 0.99
    same = found == exact
    np.testing.assert_allclose(scores[same], best[same], rtol=1e-5)


def test_hidden_items_leave_room_for_others(bundle: Bundle) -> None:
    build_index(bundle)
    indexed = Bundle.open(bundle.path)
    users = indexed.users.vectors(np.arange(5))
    hidden = [row[:4] for row in top_items(users, indexed.item_vectors, 4)[0]]
    found, _ = NearestItems(indexed).top_items(users, 10, hidden)
    expected, _ = top_items(users, indexed.item_vectors, 10, hidden)
    np.testing.assert_array_equal(found, expected)


def test_an_index_that_finds_too_little_is_not_kept(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_SHARE_OF_LISTS", 0.05)
    with pytest.raises(DataError, match=r"ivf finds 0\.\d+ of the exact 20 best"):
        build_index(bundle, "ivf")
    assert Bundle.open(bundle.path, verify=True).manifest == bundle.manifest
    with pytest.raises(DataError, match="recmind index"):
        NearestItems(bundle)


@pytest.fixture
def rough(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose index misses some of the best items."""
    monkeypatch.setattr(nearest, "_SHARE_OF_LISTS", 0.1)
    build_index(bundle, "ivf", min_recall=0.1)
    return Bundle.open(bundle.path)


def test_recommend_asks_the_index_only_where_told_to(
    rough: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = rough.users.vectors(np.arange(60))
    by_index, _ = NearestItems(rough).top_items(users, 5)
    exact, _ = top_items(users, rough.item_vectors, 5)
    [user, *_] = np.flatnonzero((by_index != exact).any(axis=1))

    def printed(*words: str) -> list[str]:
        main(["recommend", str(rough.path), "--user", f"u{user}", "--k", "5", *words])
        return [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]

    assert printed() == [f"i{at}" for at in exact[user]]
    assert printed("--index") == [f"i{at}" for at in by_index[user]]
    assert printed("--index", "--where", "degree == 1") == printed()  # a filter: exact
    out = tmp_path / "all.parquet"
    main(["recommend", str(rough.path), "--out", str(out), "--k", "5", "--index"])
    assert pq.read_table(out)["item"].to_pylist() == [f"i{at}" for at in by_index.ravel()]


def test_a_server_asks_the_index_for_what_it_can_rank(rough: Bundle) -> None:
    bodies = [
        RecommendBody(user="u3", k=5),
        SimilarBody(item="i7", k=5),
        RecommendBody(user="u4", k=5, where="degree == 1"),
        RecommendBody(user="u5", k=2, explain=False),
    ]
    exactly = Served(Bundle.open(rough.path)).answer(bodies[1:3])
    found = Served(Bundle.open(rough.path), indexed=True).answer(bodies)
    users = rough.users.vectors(np.array([3, 5]))
    by_index, _ = NearestItems(rough).top_items(users, 5)
    assert found[1:3] == exactly
    for reply, positions in ((found[0], by_index[0]), (found[3], by_index[1, :2])):
        assert isinstance(reply, dict)
        [ranking] = reply["results"]
        assert [one["item_id"] for one in ranking["items"]] == [f"i{at}" for at in positions]


def test_a_bundle_without_an_index_is_refused_where_one_is_asked_for(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["recommend", "--user", "u1"], ["serve", "--port", "0"]):
        command, *options = words
        with pytest.raises(SystemExit, match="2"):
            main([command, str(bundle.path), *options, "--index"])
        said = capsys.readouterr().err
        assert said == f"error: {bundle.path}: has no index: run `recmind index {bundle.path}`\n"
