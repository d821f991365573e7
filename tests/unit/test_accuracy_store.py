"""benchmarks/accuracy_store.py: results survive being stored, and settings belong to their runs."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks import accuracy_store
from benchmarks.accuracy_page import PAGE, write_page
from benchmarks.accuracy_store import AccuracyStore, settings_hash
from benchmarks.measure import RESULTS
from recmind_dist.errors import DataError, LockedError
from recmind_dist.storage import directory_lock, write_bytes


def run_of(bench: str, model: str = "recmind", seed: int = 0, rate: float = 0.01) -> dict[str, Any]:
    """A record with everything that a run may have or lack."""
    settings = {"table": {"learning_rate": rate, "eps": 1e-08}, "train": {"epochs": 30}}
    gate = {"layer": 1, "side": "item", "spearman": -0.5, "count": 12}
    return {
        "bench": bench,
        "model": model,
        "seed": seed,
        "role": "gated",
        "settings_hash": settings_hash(settings),
        "settings": settings,
        "commit": None,
        "train_seconds": 1.1,
        "epoch": None,
        "norm_exponent": 0.3,
        "validation": 0.1 + seed / 7,
        "metrics": {"recall@20": 1 / 3, "ndcg@20": 0.1},
        "strata": {
            "cold": {"users": 3, "pairs": 4, "recall@20": 0.25, "ndcg@20": 1e-17},
            "0": {"users": 0, "pairs": 0, "recall@20": None, "ndcg@20": None},
        },
        "macro_recall@20": None,
        "gate": [{**gate, "spearman_low": None, "spearman_high": -0.25}],
    }


def compared_of(gain: float | None, verdict: str) -> dict[str, Any]:
    means = {"a": 0.2, "b": 0.1, "gain": gain, "low": gain, "high": gain, "p": 0.04}
    return {**means, "seeds": 3, "users": 9, "significant": True, "verdict": verdict}


@pytest.fixture
def store(tmp_path: Path) -> AccuracyStore:
    return AccuracyStore(tmp_path / "results")


def test_a_result_comes_back_as_it_was_stored(store: AccuracyStore) -> None:
    runs = [run_of("beauty", seed=0), run_of("beauty", seed=1, rate=0.02)]
    # in the order of the page, which is not that of names
    comparisons = {
        "xsimgcl": {"role": "graph", "users recall@20": compared_of(0.1, "p = 0.04")},
        "alpharec": {"role": "text", "cold recall@20": compared_of(None, "above nothing")},
    }
    store.replace_bench("beauty", runs, comparisons)
    other = run_of("yelp") | {"metrics": {"recall@10": 0.5}, "strata": {"0": {"users": 1}}}
    store.replace_bench("yelp", [other], {})
    assert store.runs() == [*runs, other]
    assert list(store.comparisons("beauty").items()) == list(comparisons.items())
    assert store.comparisons("yelp") == {}


def test_settings_are_kept_once_and_go_with_their_last_run(store: AccuracyStore) -> None:
    seeds = [run_of("beauty", seed=seed) for seed in range(3)]
    store.replace_bench("beauty", [*seeds, run_of("beauty", "other", rate=0.5)], {})
    store.replace_bench("yelp", [run_of("yelp")], {})
    common, other = (settings_hash(run_of("", rate=rate)["settings"]) for rate in (0.01, 0.5))
    names = {path.stem for path in store.settings_folder.iterdir()}
    assert names == {common, other}
    store.replace_bench("beauty", [], {})
    assert [path.stem for path in store.settings_folder.iterdir()] == [common]
    assert store.runs() == [run_of("yelp")]


def test_a_result_whose_settings_are_missing_is_refused(store: AccuracyStore) -> None:
    store.replace_bench("beauty", [run_of("beauty")], {})
    file = store.settings_folder / f"{run_of('beauty')['settings_hash']}.json"
    file.unlink()
    with pytest.raises(DataError, match=rf"{file.name}: missing, but runs in .* restore it"):
        store.runs()


def test_a_result_whose_settings_were_changed_is_refused(store: AccuracyStore) -> None:
    store.replace_bench("beauty", [run_of("beauty")], {})
    file = store.settings_folder / f"{run_of('beauty')['settings_hash']}.json"
    file.write_text(json.dumps(run_of("beauty", rate=0.02)["settings"]))
    with pytest.raises(DataError, match=rf"{file.name}: settings have the hash .* not {file.stem}"):
        store.runs()


def test_a_result_under_another_hash_is_not_stored(store: AccuracyStore) -> None:
    store.replace_bench("beauty", [run_of("beauty")], {})
    wrong = run_of("beauty") | {"settings_hash": "0123456789ab"}
    with pytest.raises(DataError, match="not 0123456789ab"):
        store.replace_bench("beauty", [wrong], {})
    assert store.runs() == [run_of("beauty")]


def test_the_order_of_writing_does_not_change_the_files(tmp_path: Path) -> None:
    beauty = [run_of("beauty", model, seed) for model in ("recmind", "best") for seed in range(3)]
    comparisons = {"best": {"role": "graph", "users recall@20": compared_of(0.1, "p = 0.04")}}
    one, two = AccuracyStore(tmp_path / "one"), AccuracyStore(tmp_path / "two")
    one.replace_bench("beauty", beauty, comparisons)
    one.replace_bench("yelp", [run_of("yelp")], comparisons)
    two.replace_bench("yelp", [run_of("yelp", "replaced", rate=9.0)], {})
    two.replace_bench("yelp", [run_of("yelp")], comparisons)
    two.replace_bench("beauty", beauty[::-1], comparisons)
    assert one.runs_file.read_bytes() == two.runs_file.read_bytes()
    assert one.comparisons_file.read_bytes() == two.comparisons_file.read_bytes()


def test_two_benches_stored_at_once_are_both_kept(
    store: AccuracyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = threading.Thread(target=store.replace_bench, args=("yelp", [run_of("yelp")], {}))
    second_waits = threading.Event()

    @contextmanager
    def lock(folder: Path) -> Iterator[None]:
        try:
            with directory_lock(folder):
                yield
        except LockedError:
            second_waits.set()
            raise

    def write_after_second_has_come(path: Path, data: bytes) -> None:
        if second.ident is None:
            second.start()
            assert second_waits.wait(60), "the second did not wait for the first"
        write_bytes(path, data)

    monkeypatch.setattr(accuracy_store, "directory_lock", lock)
    monkeypatch.setattr(accuracy_store, "write_bytes", write_after_second_has_come)
    store.replace_bench("beauty", [run_of("beauty")], {})
    second.join()
    assert store.runs() == [run_of("beauty"), run_of("yelp")]


def test_a_writer_that_waits_too_long_says_who_has_the_store(
    store: AccuracyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_store, "LOCK_WAIT_S", 0.0)
    with store.lock(), pytest.raises(LockedError, match="in use by process"):
        store.replace_bench("beauty", [run_of("beauty")], {})
    assert store.runs() == []


def test_a_damaged_file_is_named(store: AccuracyStore) -> None:
    store.replace_bench("beauty", [run_of("beauty")], {})
    store.runs_file.write_bytes(store.runs_file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"accuracy\.parquet: cannot be read: restore it"):
        store.runs()


def test_the_page_of_the_repository_is_made_from_its_results(tmp_path: Path) -> None:
    copy = AccuracyStore(Path(shutil.copytree(RESULTS, tmp_path / "results")))
    write_page(copy, tmp_path / "accuracy.md")
    assert (tmp_path / "accuracy.md").read_text() == PAGE.read_text()
    # no file that is not needed
    named = set(pl.read_parquet(copy.runs_file).get_column("settings_hash"))
    assert {path.stem for path in copy.settings_folder.iterdir()} == named
