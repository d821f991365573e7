"""benchmarks/accuracy.py: evaluated runs are stored; figures and page come from what is stored."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.accuracy import collect_runs, role_of
from benchmarks.accuracy_page import figures_of, write_page
from benchmarks.accuracy_store import AccuracyStore
from recmind_dist.errors import DataError
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.storage import write_sealed

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
DEGREE = np.tile([0, 2, 5, 9, 40], 60)


def run_of(
    home: Path, model: str, variant: str, seed: int, level: dict[int, float] | float
) -> Path:
    """An evaluated run whose users score `level`, or that of their held-out item's degree, give or
    take a little.
    """
    run = RunDirectory(home / f"{model}-seed{seed}")
    run.create()
    config = load_run_config(CONFIG, [f"train.seed={seed}", f"run_dir={run.path}"], variant)
    run.write_config(config.model_dump(mode="json"))
    noise = np.random.default_rng([seed, *model.encode()]).normal(0, 0.01, len(DEGREE))
    base = (
        np.array([level[d] for d in DEGREE])
        if isinstance(level, dict)
        else np.full(len(DEGREE), level)
    )
    values = base + noise
    users = {"user": np.arange(len(DEGREE)), "degree": DEGREE, **dict.fromkeys(METRICS, values)}
    data = io.BytesIO()
    pl.DataFrame(users).write_parquet(data)
    write_sealed(run.per_user, data.getvalue())
    strata = {name: {"users": 60, "recall@20": 0.1} for name in ("0", "1-3", "cold")}
    results = {
        "dataset": "toy",
        "variant": variant,
        "seed": seed,
        "commit": "c0ffee",
        "split": "test",
        "gate": [],
    }
    means = dict.fromkeys(METRICS, float(values.mean()))
    run.write_results({**results, "metrics": means, "strata": strata, "norm_exponent": 0.5})
    return run.path


@pytest.fixture
def store(collected: Path, tmp_path: Path) -> AccuracyStore:
    """A copy of the collected runs, to write into."""
    shutil.copytree(collected, tmp_path / "store")
    return AccuracyStore(tmp_path / "store")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store of three benches."""
    home = tmp_path_factory.mktemp("collected")
    store = AccuracyStore(home / "store")
    warm = {0: 0.0 + 0.05, 2: 0.1, 5: 0.3, 9: 0.4, 40: 0.5}
    flat = dict.fromkeys(warm, 0.2)
    ours = {0: 0.2, 2: 0.2, 5: 0.3, 9: 0.4, 40: 0.5}
    models = (
        ("recmind", "recmind", ours),
        ("lightgcn_bpr", "lightgcn_bpr", 0.2),
        ("best", "lightgcn", warm),
    )
    for bench in ("beauty", "beauty-cold"):
        extra = (("text", "llm_only", flat),) if bench.endswith("cold") else ()
        runs = [
            run_of(home / bench, *model[:2], seed, model[2])
            for model in (*models, *extra)
            for seed in range(3)
        ]
        collect_runs(
            [*runs, run_of(home / bench, "popularity", "popularity", 0, 0.1)], bench, store
        )
    exact, sampled = (
        run_of(home / "gowalla", m, "lightgcn", 0, level)
        for m, level in (("exact", 0.2), ("sampled", 0.1))
    )
    collect_runs([exact, sampled], "gowalla", store)
    return store.folder


def test_figures_hold_recmind_against_the_best_of_each_kind(store: AccuracyStore) -> None:
    figures = figures_of(store.runs(), store)
    assert figures["beauty_best_baseline"] == "best"
    assert figures["beauty_gain_recall@40"] == pytest.approx(0.32 / 0.27 - 1, abs=0.02)
    assert figures["beauty_over_lightgcn_recall@40"] == pytest.approx(0.32 / 0.2 - 1, abs=0.05)
    assert figures["beauty_p_value"] < 0.01  # type: ignore[operator]
    # degree ≤ 3: the best graph model is lightgcn_bpr with .2; over the strata it is `best` with
    # .27
    assert figures["beauty_cold_ratio"] == pytest.approx(1.0, abs=0.05)
    assert figures["beauty_macro_ratio"] == pytest.approx(0.32 / 0.27, abs=0.02)
    assert figures["gowalla_recall@20"] == pytest.approx(0.2, abs=0.01)
    assert figures["gowalla_sampled_over_exact"] == pytest.approx(0.5, abs=0.02)
    assert figures["yelp_gain_recall@40"] is None
    assert figures["yelp_best_baseline"] is None


def test_the_page_and_the_last_line_come_from_the_store_alone(
    store: AccuracyStore, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_page(store, tmp_path / "accuracy.md")
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(last) == {"benchmark", "commit", "machine", "figures"}
    assert json.loads((store.folder / "accuracy.json").read_text()) == last
    page = (tmp_path / "accuracy.md").read_text()
    assert "| yelp_p_value | not measured |" in page
    assert "c0ffee" in page
    assert "not significant (1 of 3 seeds)" not in page  # popularity has no seed
    kept = [path.read_bytes() for path in store.folder.rglob("*.*") if path.is_file()]
    for home in (tmp_path, collected.parent):
        assert not any(str(home).encode() in data for data in (page.encode(), *kept))


def test_collecting_a_bench_again_replaces_it_and_no_other(
    store: AccuracyStore, tmp_path: Path
) -> None:
    collect_runs([run_of(tmp_path / "beauty", "recmind", "recmind", 0, 0.3)], "beauty", store)
    runs = [(run["bench"], run["model"], run["seed"]) for run in store.runs()]
    assert [run for run in runs if run[0] == "beauty"] == [("beauty", "recmind", 0)]
    assert len([run for run in runs if run[0] == "beauty-cold"]) == 13
    assert store.comparisons("beauty") == {}
    assert set(store.comparisons("beauty-cold")) == {"best", "lightgcn_bpr", "popularity", "text"}


def test_a_run_without_results_is_named(tmp_path: Path) -> None:
    path = run_of(tmp_path, "recmind", "recmind", 0, 0.1)
    RunDirectory(path).per_user.unlink()
    with pytest.raises(DataError, match="not evaluated: run `recmind evaluate"):
        collect_runs([path], "yelp", AccuracyStore(tmp_path / "store"))
    with pytest.raises(DataError, match="no stored results"):
        write_page(AccuracyStore(tmp_path / "store"))


@pytest.mark.parametrize(
    ("variant", "role"),
    [
        ("popularity", "popularity"),
        ("lightgcn", "graph"),
        ("lightgcn_text", "graph"),
        ("llm_only", "text"),
        ("alpharec", "text"),
        ("late_fusion", "fusion"),
        ("recmind", "gated"),
    ],
)
def test_what_kind_of_model_settings_make(variant: str, role: str) -> None:
    assert role_of(load_run_config(CONFIG, None, variant)) == role
