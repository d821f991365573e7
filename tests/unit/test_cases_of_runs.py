"""Runs that were moved, results at other cut-offs, output that is not UTF-8, long folders of
temporary files.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.cli import main
from recmind_dist.errors import ConfigError, DataError, StoreError
from recmind_dist.launch import cluster
from recmind_dist.pipeline.run import Pipeline, held_out_line, long_lists, nothing_held_out
from recmind_dist.report import RunDirectory, comparison_table, print_table, strata_table
from recmind_dist.report.tables import table_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed_json
from recmind_dist.training.finished_run import read_inputs
from recmind_dist.training.moved_paths import relocated, relocated_config, relocated_inputs
from recmind_dist.training.run_stores import RunStores
from tests.processes import Program


def run_of(folder: Path) -> tuple[RunDirectory, RunConfig, RunStores]:
    """A run directory, its cache beside it and a file of its own, all empty."""
    run = RunDirectory(folder / "runs" / "x")
    run.create()
    graph = folder / "cache" / "shop" / "graph-1"
    graph.mkdir(parents=True)
    (run.path / "whitening.safetensors").touch()
    config = RunConfig.model_validate(
        {
            "run_dir": run.path,
            "cache_dir": folder / "cache",
            "dataset": {"name": "shop", "interactions": "log.csv"},
        }
    )
    run.write_config(config.model_dump(mode="json"))
    return run, config, RunStores(graph, whitening=run.path / "whitening.safetensors")


@pytest.mark.parametrize("to", ["b", "deeper/still/b"])
def test_a_run_that_was_moved_with_its_cache_finds_its_files(tmp_path: Path, to: str) -> None:
    _, config, inputs = run_of(tmp_path / "a")
    new = tmp_path / to
    new.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a").rename(new)
    moved = RunDirectory(new / "runs" / "x")
    found = relocated_inputs(inputs, moved)
    assert found.graph == new / "cache" / "shop" / "graph-1"
    assert found.whitening == moved.path / "whitening.safetensors"
    assert relocated_config(config, moved).cache_dir == new / "cache"


def test_a_pattern_moves_with_its_folder(tmp_path: Path) -> None:
    _, config, _ = run_of(tmp_path / "a")
    pattern = tmp_path / "a" / "log" / "day=*" / "part-*.parquet"
    (tmp_path / "a" / "log" / "day=1").mkdir(parents=True)
    data = config.dataset.model_dump() | {"interactions": {"path": [pattern]}}
    config = RunConfig.model_validate(config.model_dump() | {"dataset": data})
    (tmp_path / "a").rename(tmp_path / "b")
    found = relocated_config(config, RunDirectory(tmp_path / "b" / "runs" / "x"))
    moved = tmp_path / "b" / "log" / "day=*" / "part-*.parquet"
    assert found.dataset.interactions.paths == [moved]


def test_every_path_of_a_run_moves_with_it(tmp_path: Path) -> None:
    old, new = tmp_path / "a", tmp_path / "b"
    names = ("texts.arrow", "start", "item_vectors", "whitening.safetensors")
    run = RunDirectory(old / "runs" / "x")
    run.create()
    for path in [run.path / name for name in names] + [old / "bert", old / "log.csv", old / "t"]:
        path.touch()
    for folder in ("runs/w", "cache/graph-1", "cache/text"):
        (old / folder).mkdir(parents=True)
    data = {"name": "s", "interactions": [old / "log.csv"], "items": old / "t", "test": old / "t"}
    config = RunConfig.model_validate(
        {
            "run_dir": run.path,
            "cache_dir": old / "cache",
            "dataset": data,
            "text": {"model": str(old / "bert")},
            "update": {"of": old / "runs" / "w"},
        }
    )
    run.write_config(config.model_dump(mode="json"))
    texts, start, vectors, whitening = (run.path / name for name in names)
    stores = RunStores(old / "cache/graph-1", old / "cache/text", whitening, texts)
    stores = replace(stores, start=start, item_vectors=vectors)
    old.rename(new)
    moved = RunDirectory(new / "runs" / "x")
    found = relocated_inputs(stores, moved).to_json()
    there = relocated_config(config, moved).model_dump(mode="json")
    before = json.dumps([stores.to_json(), config.model_dump(mode="json")])
    assert [found, there] == json.loads(before.replace(str(old), str(new)))


def test_a_run_directory_that_was_renamed_keeps_its_cache(tmp_path: Path) -> None:
    run, config, inputs = run_of(tmp_path)
    new = RunDirectory(tmp_path / "runs" / "y")
    run.path.rename(new.path)
    found = relocated_inputs(inputs, new)
    assert (found.graph, found.whitening) == (inputs.graph, new.path / "whitening.safetensors")
    assert relocated_config(config, new).cache_dir == tmp_path / "cache"


@pytest.mark.parametrize("lost", ["cache", "cache/shop", "cache/shop/graph-1"])
def test_a_run_that_was_moved_without_its_cache_says_so(tmp_path: Path, lost: str) -> None:
    run, _, inputs = run_of(tmp_path / "a")
    write_sealed_json(run.path / "inputs.json", inputs.to_json())
    (tmp_path / "a" / lost).rename(tmp_path / "elsewhere")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = RunDirectory(tmp_path / "b" / "runs" / "x")
    with pytest.raises(StoreError, match=r"graph-1: not there, .* take its cache_dir along"):
        read_inputs(moved)


def test_a_copy_reads_its_own_files_and_a_lost_one_keeps_its_name(tmp_path: Path) -> None:
    old, new = tmp_path / "a", tmp_path / "b"
    for folder in (old, new):
        folder.mkdir()
        (folder / "w").touch()
    assert relocated(old / "w", old, new) == new / "w"
    assert relocated(old / "lost", old, new) == old / "lost"


def results(ks: tuple[int, ...], **strata: Any) -> dict[str, Any]:
    values = {f"{name}@{k}": k / 100 for k in ks for name in ("recall", "ndcg", "mrr")}
    return {"m": {"metrics": values, "strata": {"cold": {"users": 3, **values}, **strata}}}


@pytest.mark.parametrize("ks", [(5, 10), (1,), (20, 40), (3, 7, 50)])
def test_tables_show_the_cut_offs_that_were_measured(ks: tuple[int, ...]) -> None:
    found = results(ks)
    assert table_metrics(found) == tuple(f"{n}@{k}" for k in ks for n in ("recall", "ndcg"))
    out = io.StringIO()
    print_table(comparison_table(found), out)
    print_table(strata_table(found), out)
    text = out.getvalue()
    assert f"Recall@{ks[0]} by degree" in text
    assert all(f"NDCG@{k}" in text and f"{k / 100:.4f}" in text for k in ks)
    assert "–" not in text


@pytest.mark.parametrize("chosen", ["mrr@10", "mrr@5", "recall@5", "mrr@7"])
def test_tables_show_the_metric_that_chose(chosen: str) -> None:
    usual = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    more = (chosen,) if chosen in ("mrr@10", "mrr@5") else ()
    assert table_metrics(results((5, 10)), chosen) == usual + more


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("text", ["–", "Zoë 5", "東京", "a │ b", "💡", "±0.1"])
def test_output_is_never_lost_to_an_encoding(encoding: str, text: str) -> None:
    code = (
        "import sys; from recmind_dist.report.printable import print_anywhere\n"
        "print_anywhere(); print(sys.argv[1]); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, text],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    first, end = done.stdout.decode(encoding).split("\n")[:2]
    assert end.strip() == "end"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        assert first.strip()
    else:
        assert first.strip() == text


@pytest.mark.parametrize("words", ["configs list", "import --help", "--help"])
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("> /dev/full", 4, "error: the output or a file: No space left on device"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_nobody_can_take_is_no_traceback(
    words: str, shell: str, code: int, said: str
) -> None:
    script = f"{sys.executable} -c 'from recmind_dist.cli import main; main()' {words} {shell}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_folder_of_temporary_files_is_replaced_by_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    long = tmp_path / ("d" * 60)
    long.mkdir()
    monkeypatch.setenv(name, "/tmp")
    assert cluster.short_folder() is None
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv(name, str(long))
    short = cluster.short_folder()
    assert short is not None
    assert len(short) + cluster.SOCKET_BYTES <= cluster.MAX_SOCKET_BYTES
    monkeypatch.setattr(cluster, "SHORT_FOLDER", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=f"{name}=.*set RAY_TMPDIR to a path of at most"):
        cluster.short_folder()


@pytest.mark.parametrize("inner", ["file", "file/deeper", "/proc/x"])
def test_a_folder_for_ray_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / inner))
    with pytest.raises(ConfigError, match=r"RAY_TMPDIR=.*: cannot be made \("):
        cluster.short_folder()


@pytest.mark.parametrize("split", ["leave-one-out", "ratio", "global-time"])
def test_a_split_that_holds_nothing_out_names_the_way_out(split: str) -> None:
    line = nothing_held_out(split)
    assert split in line
    assert "dataset.test" in line
    assert ("three interactions" in line) == (split == "leave-one-out")


def test_a_run_that_is_to_hold_nothing_out_is_not_warned_of_it() -> None:
    assert not nothing_held_out("none").startswith("warning")


@pytest.mark.parametrize(
    ("ks", "num_items", "said"),
    [
        ((20, 40), 20, "ks 20, 40: there are 20"),
        ((5, 20), 30, "ks 20: there are 30"),
        ((5, 10), 20, ""),
    ],
)
def test_lists_of_more_than_half_of_all_items_are_said(
    ks: tuple[int, ...], num_items: int, said: str
) -> None:
    lines = long_lists(ks, num_items)
    assert len(lines) == bool(said)
    assert said in "".join(lines)


ROWS = [("u1", "i1"), ("u1", "i2"), ("u1", "i3"), ("u1", "i4"), ("u2", "i1"), ("u2", "i5")]
DRAWN = "the log has no column of times: what is held out of each user is drawn, by graph.seed"


def run_says(folder: Path, rows: list[tuple[str, str]], timed: bool, **graph: Any) -> list[str]:
    """What `recmind run` says of a log, where nothing is to be trained."""
    head = "user,item,time" if timed else "user,item"
    lines = [",".join([*row, str(k)] if timed else row) for k, row in enumerate(rows)]
    (folder / "log.csv").write_text("\n".join([head, *lines]) + "\n")
    config = RunConfig.model_validate(
        {
            "variant": "popularity",
            "run_dir": folder / "runs" / "x",
            "cache_dir": folder / "cache",
            "dataset": {"name": "shop", "interactions": folder / "log.csv"},
            "graph": graph,
            "evaluation": {"ks": [1], "metric": "ndcg@1"},
        }
    )
    said: list[str] = []
    Pipeline(config, said.append).run()
    return said


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(
    ("rows", "graph", "line"),
    [
        (
            ROWS,
            {},
            "held out: 1 interactions for validation, 1 for testing, which 1 of 2 users have none "
            "of",
        ),
        (
            ROWS,
            {"split": "ratio", "test_share": 0.5},
            "held out: 0 interactions for validation, 3 for testing, which 0 of 2 users have none "
            "of",
        ),
        (
            ROWS[3:],
            {},
            "warning: graph.split leave-one-out holds nothing out for testing (no user has three "
            "interactions): every metric will be empty: set graph.split to ratio or global-time, "
            "or give dataset.test",
        ),
        (
            ROWS[3:],
            {"split": "ratio", "test_share": 0.2},
            "warning: graph.split ratio holds nothing out for testing: every metric will be empty: "
            "raise graph.test_share, or give dataset.test",
        ),
        (
            ROWS,
            {"split": "none"},
            "held out: nothing, as graph.split none says: there will be no metrics",
        ),
    ],
)
def test_a_run_says_how_much_is_held_out_and_whether_it_is_drawn(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    graph: dict[str, Any],
    line: str,
    timed: bool,
) -> None:
    said = run_says(tmp_path, rows, timed, **graph)
    assert line in said
    split = graph.get("split", "leave-one-out")
    assert (f"graph.split {split}: {DRAWN}" in said) == (not timed and split != "none")


def test_results_keep_the_warnings_and_examples_that_were_said(tmp_path: Path) -> None:
    rows = [*(("NA", f"i{k}") for k in range(5)), ("u1", "i1"), ("u1", "i1")]
    said = run_says(tmp_path, rows, timed=False)
    data = RunDirectory(tmp_path / "runs" / "x").read_results()["data"]
    [warning] = data["warnings"]
    assert "user 'NA' stands on 5 rows" in warning
    assert f"warning: {warning}" in said
    assert data["examples"] == {"repeats_collapsed": "row 7: u1 with i1"}
    assert (data["present"], data["time"]) == (["user", "item"], None)


def test_where_nothing_is_held_out_no_table_of_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_says(tmp_path, ROWS[3:], True)
    main(["evaluate", str(tmp_path / "runs" / "x")])
    said = capsys.readouterr().out
    assert re.search(r"popularity +– +– +– ", said)
    assert "lists" not in said.lower()


def evaluated_in_ascii(home: Path) -> None:
    """For `Program`: `recmind evaluate` where the terminal has no other letters."""
    os.chdir(home)
    sys.stdout.reconfigure(encoding="ascii")  # type: ignore[union-attr]
    main(["evaluate", "runs/x"])


def evaluated_for_nobody(home: Path) -> None:
    """For `Program`: `recmind evaluate runs/x | head -0`."""
    os.chdir(home)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    main(["evaluate", "runs/x"])


def test_evaluate_prints_its_tables_in_any_encoding_and_minds_no_closed_pipe(
    tmp_path: Path,
) -> None:
    run_says(tmp_path, ROWS, True)
    plain, left = Program(evaluated_in_ascii, tmp_path), Program(evaluated_for_nobody, tmp_path)
    assert plain.wait() == 0, plain.stderr
    assert plain.stdout.isascii()
    assert "Recall@1 by degree" in plain.stdout
    # a stratum without users has a dash
    assert re.search(r"\| popularity +\| +0\.0000 \| +- \|", plain.stdout)
    assert (left.wait(), left.stderr) == (141, "")


def test_a_cut_in_time_needs_times(tmp_path: Path) -> None:
    graph = {"split": "global-time", "test_share": 0.5}
    with pytest.raises(DataError, match=r"no column of times: set dataset.interactions.columns"):
        run_says(tmp_path, ROWS, False, **graph)
    assert any("3 for testing" in line for line in run_says(tmp_path, ROWS, True, **graph))


@pytest.mark.parametrize("words", [["recommend", "--user", "u1"], ["export", "--to", "bundle"]])
def test_a_run_that_trains_no_vectors_says_so_where_they_are_asked_for(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_says(tmp_path, ROWS, True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([words[0], "runs/x", *words[1:]])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "runs/x: variant popularity trains no vectors: run another variant to recommend" in said


def test_what_is_held_out_is_counted() -> None:
    counts = {"num_valid": 1, "num_test": 1, "users_without_test": 50, "num_users": 51}
    assert held_out_line(counts) == (
        "held out: 1 interactions for validation, 1 for testing, which 50 of 51 users have none of"
    )
