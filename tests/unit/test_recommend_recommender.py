"""The recommender from Python: many users, filters, similar items, and reasons that add up."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from benchmarks.random_bundle import RandomBundle
from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.explain import shares_of
from recmind_dist.recommend.fold_in import Histories
from recmind_dist.recommend.profiles import Profiles
from recmind_dist.recommend.recommender import Recommender, load

USERS = ["u3", "u59", "u0"]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    path: Path = tmp_path_factory.mktemp("recommender") / "bundle"
    return load(RandomBundle(60, 40, dim=4, history=5).write(path))


def history_of(recommender: Recommender, user_id: str) -> list[str]:
    bundle = recommender.bundle
    [history] = bundle.users.histories(np.array([bundle.users.position[user_id]]))
    return [bundle.item_ids[item] for item in history]


@pytest.mark.parametrize(
    "users",
    [USERS, np.array(USERS), pa.array(USERS), pl.Series(USERS), iter(USERS)],
    ids=["list", "array", "arrow", "polars", "iterator"],
)
def test_many_users_are_ranked_as_one_by_one(recommender: Recommender, users: object) -> None:
    rankings = recommender.recommend(users=users, k=4)  # type: ignore[call-overload]
    assert rankings.user_ids == USERS
    for ranking in rankings:
        alone = recommender.recommend(ranking.user_id, 4)
        assert [item.item_id for item in ranking] == [item.item_id for item in alone]
        assert [item.score for item in ranking] == pytest.approx([item.score for item in alone])
        assert ranking.gates == pytest.approx(alone.gates)
    table = rankings.to_arrow()
    assert table["user"].to_pylist() == [user for user in USERS for _ in range(4)]
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 3
    assert table["item"].to_pylist()[:4] == [item.item_id for item in rankings[0]]


def test_more_users_than_rows_are_taken_one_by_one(recommender: Recommender) -> None:
    everybody = recommender.bundle.users.ids[::-1] + ["u5"] * 10
    rankings = recommender.recommend(users=everybody, k=2)
    assert rankings.user_ids == everybody
    assert [one.item_id for one in rankings[-1]] == [
        one.item_id for one in recommender.recommend("u5", 2)
    ]


def test_unknown_users_are_left_out_with_the_reason(recommender: Recommender) -> None:
    rankings = recommender.recommend(users=["u1", "x", 7, "u2"])
    assert rankings.user_ids == ["u1", "u2"]
    assert rankings.left_out == {"x": "not in random", "7": "not in random"}
    nobody = recommender.recommend(users=["x"])
    assert (len(nobody), nobody.to_arrow().num_rows) == (0, 0)


def test_filters_hold_for_all_and_history_is_shown_where_asked_for(
    recommender: Recommender,
) -> None:
    seen = history_of(recommender, "u3")
    shown = {item.item_id for item in recommender.recommend("u3", 40)}
    assert not shown & set(seen)
    assert len(shown) == 40 - len(seen)
    everything = recommender.recommend("u3", 40, seen="include")
    assert {item.item_id for item in everything} == shown | set(seen)
    kids = recommender.recommend("u3", 40, where='category == "Kids"', seen="include")
    assert [item.item_id for item in kids] == [
        item.item_id for item in everything if int(item.item_id[1:]) % 5 == 2
    ]
    some = recommender.recommend("u3", items=["i1", "i2", "none"], exclude=["i2"], seen="include")
    assert [item.item_id for item in some] == ["i1"]
    assert len(recommender.recommend("u3", where="degree < 0")) == 0
    with pytest.raises(DataError, match="items: none of them is in random"):
        recommender.recommend("u3", items=["none"])


def test_shares_add_up_and_the_nearest_are_of_the_history(recommender: Recommender) -> None:
    bundle, history = recommender.bundle, history_of(recommender, "u7")
    ranking = recommender.recommend("u7", 5)
    vectors = bundle.item_vectors[:, :-1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for item in ranking:
        assert sum(item.shares.values()) == pytest.approx(item.score, abs=1e-5)
        at = bundle.item_position[item.item_id]
        cosines = {one: float(unit[at] @ unit[bundle.item_position[one]]) for one in history}
        expected = sorted(cosines, key=lambda one: -cosines[one])[:3]
        assert [near.item_id for near in item.nearest] == expected
        assert item.nearest[0].cosine == pytest.approx(max(cosines.values()), abs=1e-5)
        assert item.shares["bias"] == pytest.approx(float(bundle.item_vectors[at, -1]))
    shown = recommender.recommend("u7", 40, seen="include")
    [own] = [item for item in shown if item.item_id == history[0]]
    assert history[0] not in [near.item_id for near in own.nearest], "not near itself"


def test_gates_are_those_that_made_the_users_vector(recommender: Recommender) -> None:
    """γ weighs each view: a vector made of the views at unit length has them as lengths."""
    bundle, row = recommender.bundle, np.array([4])
    fold_in, histories = recommender.fold_in, Histories.of(bundle.users.histories(row))
    base = bundle.users.base(row)
    gates = recommender.recommend("u4", 1).gates
    assert sum(gates.values()) == pytest.approx(1)
    graph = fold_in._graph_view(histories, base)
    text = fold_in._text_view(histories, None)
    feature = fold_in.degree_feature(histories.count)
    views = [graph, text]
    mixed = fold_in.gates.mix("users", views, feature, views)[0]  # newest as all: ρ is no matter
    lengths = [float(np.linalg.norm(mixed[view.start : view.stop])) for view in bundle.views]
    assert list(gates.values()) == pytest.approx([x / sum(lengths) for x in lengths], abs=1e-5)
    new = recommender.recommend(history=history_of(recommender, "u4"), k=1).gates
    assert new != pytest.approx(gates), "a new user has no row of their own"


def test_similar_items_are_by_cosine_without_the_bias(recommender: Recommender) -> None:
    vectors = recommender.bundle.item_vectors[:, :-1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    cosines[4] = -np.inf
    found = recommender.similar("i4", 3)
    assert [one.item_id for one in found] == [f"i{at}" for at in np.argsort(-cosines)[:3]]
    assert found[0].cosine == pytest.approx(cosines.max(), abs=1e-5)
    kids = recommender.similar("i4", 40, where='category == "Kids"', exclude=["i2"])
    assert {int(one.item_id[1:]) % 5 for one in kids} == {2}
    assert "i2" not in {one.item_id for one in kids}


def test_a_text_is_ranked_by_its_vector_and_a_user_says_what_is_seen(
    recommender: Recommender,
) -> None:
    bundle = recommender.bundle
    vector = bundle.users.vectors(np.array([9]))
    heard: list[str] = []

    def text_query(texts: object) -> np.ndarray:  # type: ignore[type-arg]
        heard.extend(texts)  # type: ignore[arg-type]
        return vector

    reads = Recommender(bundle, text_query)
    found = reads.recommend(text="a lamp", k=40)
    assert (heard, len(found), found.gates, found[0].nearest) == (["a lamp"], 40, {}, ())
    assert [item.item_id for item in found] == [
        item.item_id for item in recommender.recommend("u9", 40, seen="include")
    ]
    beside = reads.recommend("u9", 40, text=vector[0])
    assert [item.item_id for item in beside] == [
        item.item_id for item in recommender.recommend("u9", 40)
    ]
    assert sum(beside[0].shares.values()) == pytest.approx(beside[0].score, abs=1e-5)
    with pytest.raises(DataError, match="a vector of 9 finite numbers"):
        reads.recommend(text=np.full(9, np.nan, np.float32))


def test_profiles_of_several_requests_are_ranked_at_once(recommender: Recommender) -> None:
    known, new = recommender.profile("u1"), recommender.profile(history=["i1", "i2"])
    rankings = recommender.rank(Profiles.joined([known, new]), 3)
    assert rankings.user_ids == ["u1", None]
    for ranking, alone in zip(
        rankings,
        (recommender.recommend("u1", 3), recommender.recommend(history=["i1", "i2"], k=3)),
        strict=True,
    ):
        assert [item.item_id for item in ranking] == [item.item_id for item in alone]
        assert ranking.gates == pytest.approx(alone.gates)


def test_what_cannot_be_ranked_is_refused(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="k: 0: ask for one item at least"):
        recommender.recommend("u1", 0)
    with pytest.raises(DataError, match="nobody to rank for: give user_id, history or text"):
        recommender.recommend()
    with pytest.raises(DataError, match="users: stands alone"):
        recommender.recommend("u1", users=["u2"])  # type: ignore[call-overload]
    with pytest.raises(DataError, match="seen: 'maybe': choose exclude or include"):
        recommender.recommend("u1", seen="maybe")  # type: ignore[call-overload]
    with pytest.raises(DataError, match="item 'lamp' is not in random"):
        recommender.similar("lamp")
    assert len(recommender.recommend("u1", 10**9, seen="include")) == 40


def test_what_items_have_learnt_is_not_called_text_where_no_text_is_read(
    recommender: Recommender,
) -> None:
    bundle, parts = recommender.bundle, [("graph", 4), ("text", 2), ("content", 2)]
    reads = Bundle(bundle.path, {**bundle.manifest, "views": parts, "text": {"prompt": None}})
    reads_none = Bundle(bundle.path, {**reads.manifest, "text": None})
    vector, item = bundle.users.vectors(np.array([3])), np.array([[7]])
    by_text, learnt = (shares_of(one, vector, item)[0][0] for one in (reads, reads_none))
    assert list(by_text) == ["graph", "text", "content", "bias"]
    assert list(learnt) == ["graph", "learnt_propagated", "learnt", "bias"]
    assert list(learnt.values()) == list(by_text.values())
    assert [view.name for view in reads_none.views] == ["graph", "text", "content"], "of the file"
