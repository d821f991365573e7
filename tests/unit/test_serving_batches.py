"""Requests are ranked in batches as they would be alone; the paths that bundles may come from."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.random_bundle import RandomBundle
from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.recommender import load
from recmind_dist.serving.batcher import Batcher
from recmind_dist.serving.bodies import RecommendBody, SimilarBody
from recmind_dist.serving.current import Current, inside, open_served
from recmind_dist.serving.refusal import Refusal
from recmind_dist.serving.served import Served
from recmind_dist.serving.settings import ServeSettings, read_token
from recmind_dist.serving.users import UsersInMemory


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = RandomBundle(num_users=5000, num_items=150, dim=4, history=4)
    return size.write(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def served(path: Path) -> Served:
    return open_served(path)


def plain(results: Any) -> list[list[Any]]:
    """Ids and scores, without the noise of sums in another order."""
    return [
        [(one["item_id"], pytest.approx(one.get("score", 0.0), abs=1e-4)) for one in row["items"]]
        for row in results
    ]


def test_a_penalty_on_popularity_ranks_as_python_does_and_stays_when_bundles_change(
    path: Path,
) -> None:
    penalised = open_served(path, 0.6)
    python = load(path, 0.6).recommend(users=["u7", "u12"], k=8)
    [reply, similar] = penalised.answer(
        [RecommendBody(users=["u7", "u12"], k=8), SimilarBody(item="i5", k=4)]
    )
    assert isinstance(reply, dict)
    assert isinstance(similar, dict)
    expected = [[(one.item_id, one.score) for one in ranking] for ranking in python]
    assert plain(reply["results"]) == expected
    [of_plain] = [one["items"] for one in similar["results"]]
    [without] = open_served(path).answer([RecommendBody(users=["u7", "u12"], k=8)])
    assert isinstance(without, dict)
    assert [one["item_id"] for one in of_plain] == [n.item_id for n in load(path).similar("i5", 4)]
    assert plain(without["results"]) != expected
    current = Current(path, penalised)
    asyncio.run(current.swap(path))
    assert current.served.popularity_penalty == 0.6


def test_a_batch_of_all_kinds_answers_each_as_if_it_were_alone(served: Served) -> None:
    bodies = [
        RecommendBody(user="u7", k=3),
        SimilarBody(item="i5", k=20),
        RecommendBody(users=["u4999", "u0", "u4096"], k=150, seen="include"),
        RecommendBody(user="u1", where="year > 2010", k=6),
        RecommendBody(user="nobody"),
        RecommendBody(history=["i3", "i4"], user="u9"),
        RecommendBody(vector=[0.5] * 9, explain=False),
        RecommendBody(user="u8", items=["i1", "i2"], exclude=["i2"]),
    ]
    together = served.answer(bodies)
    for body, reply in zip(bodies, together, strict=True):
        [alone] = served.answer([body])
        if isinstance(reply, Exception):
            assert isinstance(reply, Refusal)
            assert reply.status == 404
            continue
        assert not isinstance(alone, Exception)
        assert plain(reply["results"]) == plain(alone["results"])
    last = together[-1]
    assert not isinstance(last, Exception)
    assert [item["item_id"] for item in last["results"][0]["items"]] in (["i1"], [])


def test_users_in_memory_are_those_of_the_file(path: Path) -> None:
    bundle = Bundle.open(path)
    memory, rows = UsersInMemory(bundle), np.array([4999, 0, 4096, 0])
    assert (memory.vectors(rows) == bundle.users.vectors(rows)).all()
    assert (memory.base(rows) == bundle.users.base(rows)).all()
    theirs = bundle.users.histories(rows)
    for one, other in zip(memory.histories(rows), theirs, strict=True):
        assert one.tolist() == other.tolist()


def test_what_waits_together_is_one_batch() -> None:
    entered, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def answer(queries: Sequence[int]) -> list[int | Exception]:
        batches.append(list(queries))
        entered.set()
        assert go_on.wait(20)
        return [ValueError("odd") if query % 2 else query * 10 for query in queries]

    async def run() -> list[Any]:
        batcher: Batcher[int, int] = Batcher(answer, batch=3, waiting=5)
        tasks = [asyncio.create_task(batcher.ask(0))]
        await asyncio.to_thread(entered.wait, 20)
        tasks += [asyncio.create_task(batcher.ask(query)) for query in range(1, 7)]
        await asyncio.sleep(0)
        tasks[2].cancel()  # its client has gone
        go_on.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(run())
    assert batches == [[0], [1, 3], [4, 5]]  # at most three, of which one was given up
    assert [answers[0], answers[4]] == [0, 40]
    assert [type(answers[k]) for k in (1, 3, 5)] == [ValueError] * 3
    assert isinstance(answers[2], asyncio.CancelledError)
    assert isinstance(answers[6], Refusal)
    assert answers[6].status == 503


def test_a_defect_of_a_batch_reaches_all_of_it_and_the_next_is_answered() -> None:
    def answer(queries: Sequence[int]) -> list[int | Exception]:
        if 1 in queries:
            raise KeyError("defect")
        return list(queries)

    async def run() -> Any:
        batcher: Batcher[int, int] = Batcher(answer, batch=8, waiting=8)
        first = await asyncio.gather(batcher.ask(1), batcher.ask(1), return_exceptions=True)
        second = await batcher.ask(2)
        batcher.close()
        return first, second

    first, second = asyncio.run(run())
    assert [type(error) for error in first] == [KeyError, KeyError]
    assert second == 2


def test_bundles_come_from_below_the_root_alone(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "new").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    assert inside(root, "new") == root / "new"
    assert inside(root, str(root / "new")) == root / "new"
    for path in ("../outside", str(outside), "link", "\0", "new/../../outside"):
        with pytest.raises(StoreError):
            inside(root, path)


def test_a_link_that_moves_is_followed_and_a_damaged_bundle_is_not(
    path: Path, tmp_path: Path
) -> None:
    small = RandomBundle(num_users=5, num_items=20, dim=4, history=2)
    second = small.write(tmp_path / "second")
    damaged = small.write(tmp_path / "damaged")
    data = bytearray((damaged / "items.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "items.parquet").write_bytes(data)
    link = tmp_path / "current"
    link.symlink_to(path)

    async def run() -> list[int]:
        current = Current(link, open_served(link))
        following = asyncio.create_task(current.follow(0.01))
        sizes = [current.served.num_items]
        for target in (damaged, second):
            point_to(link, target)
            while current.swaps + current.refused < len(sizes):
                await asyncio.sleep(0.01)
            sizes.append(current.served.num_items)
        following.cancel()
        return sizes

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [150, 150, 20]


def point_to(link: Path, target: Path) -> None:
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


def test_tokens_and_hosts_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECMIND_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("RECMIND_TOKEN", "x" * 16)
    assert read_token(None) == "x" * 16
    for content in ("", "two words here and there", "tökens-of-more-letters"):
        (tmp_path / "token").write_text(content)
        with pytest.raises(ConfigError, match="printable ASCII"):
            read_token(tmp_path / "token")
    for host in ("0.0.0.0", "::", "10.0.0.5", "shop.example"):
        with pytest.raises(ConfigError, match="without a token"):
            ServeSettings(tmp_path, tmp_path, host)
        ServeSettings(tmp_path, tmp_path, host, token="x" * 16)
    ServeSettings(tmp_path, tmp_path, "::1")
    assert "x" * 16 not in repr(ServeSettings(tmp_path, tmp_path, token="x" * 16))
