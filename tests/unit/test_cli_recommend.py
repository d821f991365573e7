"""`recmind recommend` and `recmind similar` on a bundle: what is printed, written and refused."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.random_bundle import RandomBundle
from recmind_dist.cli.app import main
from recmind_dist.recommend.recommender import Recommender, load

Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("recommend")
    return str(RandomBundle(60, 40, dim=4, history=5).write(home / "bundle"))


@pytest.fixture(scope="module")
def recommender(source: str) -> Recommender:
    return load(source)


@pytest.fixture
def run(source: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(command: str, *words: str, code: int = 0) -> tuple[str, str]:
        if code:
            with pytest.raises(SystemExit) as stop:
                main([command, source, *words])
            assert stop.value.code == code
        else:
            main([command, source, *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.out, said.err

    return run


def ids_of(out: str) -> list[str]:
    return [line.split()[2] for line in out.splitlines() if line[:3].strip().isdigit()]


def test_a_user_and_a_history_are_ranked_as_from_python(run: Run, recommender: Recommender) -> None:
    out, _ = run("recommend", "--user", "u1", "--k", "4")
    assert out.splitlines()[0] == "for user u1:"
    assert ids_of(out) == [item.item_id for item in recommender.recommend("u1", 4)]
    out, _ = run("recommend", "--history", "i3, i9,,i1", "--k", "4")
    assert out.splitlines()[0] == "for a new user:"
    expected = recommender.recommend(history=["i3", "i9", "i1"], k=4)
    assert ids_of(out) == [item.item_id for item in expected]
    out, _ = run("recommend", "--history", "i3", "--user", "u1", "--k", "4")
    assert out.splitlines()[0] == "for user u1:"
    expected = recommender.recommend("u1", 4, history=["i3"])
    assert ids_of(out) == [item.item_id for item in expected]


def test_unknown_users_are_listed_and_the_others_served(run: Run) -> None:
    out, errors = run("recommend", "--user", "u1", "--user", "nobody", "--user", "u2", "--k", "1")
    assert [line for line in out.splitlines() if line[0] == "f"] == ["for user u1:", "for user u2:"]
    assert errors == "left out, not in random: nobody\n"
    _, errors = run("recommend", "--user", "nobody", "--user", "none", code=2)
    assert errors == "error: nobody to rank for: user 'nobody': not in random\n"
    _, errors = run("recommend", "--user", "nobody", code=2)
    assert errors == (
        "error: user 'nobody' is not in random, whose users have ids like 'u0': give a history\n"
    )


def test_files_of_items_and_conditions_narrow_what_is_ranked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("i1\ni2\n\ni6\ni99\n")
    pl.DataFrame({"item_id": ["i2"], "why": ["sold"]}).write_parquet(tmp_path / "out.parquet")
    kept = ["--items", str(tmp_path / "kept.txt"), "--seen", "include"]
    out, errors = run("recommend", "--user", "u1", *kept)
    assert sorted(ids_of(out)) == ["i1", "i2", "i6"]
    assert errors == "left out, not in random: i99\n"
    out, _ = run("recommend", "--user", "u1", *kept, "--exclude", str(tmp_path / "out.parquet"))
    assert sorted(ids_of(out)) == ["i1", "i6"]
    out, _ = run("recommend", "--user", "u1", *kept, "--where", 'category == "Games"')
    assert sorted(ids_of(out)) == ["i1", "i6"]
    out, _ = run("similar", "--item", "i1", "--items", str(tmp_path / "kept.txt"))
    assert sorted(ids_of(out)) == ["i2", "i6"]


def test_json_has_the_reasons(run: Run, recommender: Recommender) -> None:
    expected = recommender.recommend("u1", 2)
    out, _ = run("recommend", "--user", "u1", "--json", "--k", "2")
    answer = json.loads(out)
    assert answer == {"rankings": [json.loads(json.dumps(expected.to_dict()))], "left_out": {}}
    [ranking] = answer["rankings"]
    assert set(ranking["gates"]) == {"graph", "text"}
    assert set(ranking["items"][0]["shares"]) == {"graph", "text", "bias"}
    out, _ = run("recommend", "--user", "u1", "--user", "u7", "--user", "no", "--json", "--k", "2")
    answer = json.loads(out)
    assert [one["user_id"] for one in answer["rankings"]] == ["u1", "u7"]
    assert answer["left_out"] == {"no": "not in random"}
    out, _ = run("recommend", "--user", "u1", "--k", "2", "--why")
    best = recommender.recommend("u1", 2)[0]
    assert f"graph {best.shares['graph']:.3f}, text {best.shares['text']:.3f}" in out
    assert f"; near {best.nearest[0].title}" in out
    out, _ = run("similar", "--item", "i4", "--k", "2", "--json")
    near = recommender.similar("i4", 2)
    assert json.loads(out)["similar"] == [vars(one) for one in near]


def test_all_users_or_a_list_are_written_to_a_file(
    run: Run, recommender: Recommender, tmp_path: Path
) -> None:
    every, some = tmp_path / "all.parquet", tmp_path / "some.parquet"
    out, _ = run("recommend", "--out", str(every), "--k", "3")
    assert out == f"{every}: 180 recommendations for 60 users\n"
    frame = pl.read_parquet(every)
    assert frame.columns == ["user", "rank", "item", "score"]
    for user_id in ("u0", "u59"):
        rows = frame.filter(pl.col("user").cast(pl.String) == user_id)
        expected = recommender.recommend(user_id, 3)
        assert rows["item"].cast(pl.String).to_list() == [item.item_id for item in expected]
        assert rows["score"].to_list() == pytest.approx([item.score for item in expected])
        assert rows["rank"].to_list() == [1, 2, 3]

    pl.DataFrame({"user": ["u7", "who", "u3"]}).write_parquet(tmp_path / "users.parquet")
    words = ["--users", str(tmp_path / "users.parquet"), "--k", "3", "--where", "year > 2000"]
    out, errors = run("recommend", "--out", str(some), *words)
    assert out == f"{some}: 6 recommendations for 2 users\n"
    assert errors == "left out, not in random: who\n"
    found = recommender.recommend(users=["u3", "u7"], k=3, where="year > 2000")
    written = pl.read_parquet(some).with_columns(pl.col("user", "item").cast(pl.String))
    expected_frame = pl.DataFrame(found.to_arrow()).with_columns(
        pl.col("user", "item").cast(pl.String)
    )
    assert written.equals(expected_frame)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--user", "u1", "--where", "color == 1"], "no column 'color': the items have id, title"),
        (["--history", ""], "the history is empty: give item ids"),
        (["--history", "i1,i99"], "item 'i99' of the history is not in random"),
        (["--text", "a lamp"], "a model of kind recmind that reads no texts"),
        (["--user", "u1", "--items", "none.txt"], "none.txt: no such file"),
        (["--user", "u1", "--where", "(" * 900], "(((…' cannot be read"),
        (["--out", "nowhere/recs.parquet"], "there is no directory nowhere"),
        (["--out", "."], ".: is a directory: give the path of a file"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    run: Run, words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    _, errors = run("recommend", *words, code=2)
    assert errors.startswith("error: ")
    assert len(errors) < 400
    assert sentence in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--user", "u1", "--out", "x"],
        ["--user", "u1", "--users", "x"],
        ["--user", "u1", "--user", "u2", "--history", "i1"],
        ["--user", "u1", "--k", "0"],
        ["--user", "u1", "--seen", "maybe"],
    ],
)
def test_options_that_contradict_each_other_show_the_usage(run: Run, words: list[Any]) -> None:
    _, errors = run("recommend", *words, code=2)
    assert errors.startswith("Usage: ")


def test_files_of_ids_as_editors_leave_them(run: Run, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes("\ufeffi7\r\n\r\ni9\r\n".encode())
    out, errors = run("recommend", "--user", "u1", "--items", str(ids), "--seen", "include")
    assert sorted(ids_of(out)) == ["i7", "i9"]
    assert errors == ""
    broken = ids.rename(tmp_path / "ids.parquet")
    _, errors = run("recommend", "--user", "u1", "--items", str(broken), code=2)
    assert errors == f"error: {broken}: not a Parquet file, or damaged: make it anew\n"


@pytest.fixture(scope="module")
def accents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose first user and first title are not ASCII."""
    to = tmp_path_factory.mktemp("accents") / "bundle"
    return RandomBundle(20, 9, 4, 3, first_title="Größe – 東京", first_user="Zoë 5").write(to)


@pytest.mark.parametrize(
    ("encoding", "user", "title"),
    [
        ("ascii", r"Zo\xeb 5", r"Gr\xf6\xdfe - \u6771\u4eac"),
        ("latin-1", "Zoë 5", r"Größe - \u6771\u4eac"),
        ("utf-8", "Zoë 5", "Größe – 東京"),
    ],
)
def test_a_terminal_of_any_encoding_gets_an_answer(
    accents: Path, encoding: str, user: str, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr("sys.stdout", out)
    main(["recommend", str(accents), "--user", "Zoë 5", "--k", "9", "--seen", "include"])
    first, *rows = out.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert first == f"for user {user}:"
    assert len(rows) == 9
    assert any(row.endswith(f"i0  {title}") for row in rows)


@pytest.mark.parametrize("words", [["recommend", "--user", "Zoë 5"], ["similar", "--item", "i1"]])
def test_a_reader_that_leaves_is_no_interruption(accents: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "recmind_dist.cli", words[0], str(accents), *words[1:]]
    left = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert left.stdout is not None
    left.stdout.close()  # as `| head -0`
    assert left.stderr is not None
    said = left.stderr.read()
    assert (left.wait(timeout=120), said) == (141, b"")


def test_nothing_left_is_said(run: Run) -> None:
    out, errors = run("recommend", "--user", "u1", "--where", "year > 2999")
    assert out == "for user u1:\n"
    assert errors.startswith("no item is left: ")


def test_k_above_the_catalogue_gives_what_there_is(run: Run) -> None:
    out, _ = run("recommend", "--user", "u1", "--k", "1000", "--seen", "include")
    assert len(ids_of(out)) == 40
