"""What `recmind recommend` makes of its options."""

from typing import Any

import pytest

from recmind_dist.cli.app import main
from recmind_dist.recommend.recommender import Recommendation


class Listening:
    """A recommender that keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def recommend(self, user_id: str, k: int) -> list[Recommendation]:
        self.calls.append((user_id, k))
        return [Recommendation("i7", "a lamp", 1.0)]

    def recommend_from(
        self, history: list[str], k: int, user_id: str | None = None
    ) -> list[Recommendation]:
        self.calls.append((history, k, user_id))
        return [Recommendation("i8", "a chair", 1.0)]


@pytest.fixture
def recommender(monkeypatch: pytest.MonkeyPatch) -> Listening:
    found = Listening()
    monkeypatch.setattr("recmind_dist.recommend.recommender.load", lambda run: found)
    return found


@pytest.mark.parametrize(
    ("words", "call", "title"),
    [
        (["--user", "u1"], ("u1", 10), "for user u1:"),
        (["--history", "b, a,,c"], (["b", "a", "c"], 10, None), "for a new user:"),
        (["--history", "a", "--user", "u1", "--k", "3"], (["a"], 3, "u1"), "for user u1:"),
        (["--history", ""], ([], 10, None), "for a new user:"),
    ],
)
def test_a_history_goes_in_its_order_to_the_user_or_a_new_one(
    recommender: Listening,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    call: Any,
    title: str,
) -> None:
    main(["recommend", "run", *words])
    assert recommender.calls == [call]
    assert capsys.readouterr().out.splitlines()[0] == title


def test_neither_user_nor_history_is_a_mistyped_command(
    recommender: Listening, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recommend", "run"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("Usage: ")
    assert "--history" in said
    assert recommender.calls == []
