"""Studies without training: runs compared from their files, claims judged, pages and figures
written, search spaces read.
"""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from optuna.trial import FixedTrial
from scipy import stats

from recmind_dist.errors import StoreError
from recmind_dist.experiments.comparison import (
    compare,
    evidence_of,
    gain_line,
    halves_of_lists,
    halves_of_strata,
    read_users,
    seen,
    spread,
)
from recmind_dist.experiments.figures import draw_bars, draw_bins, draw_curves
from recmind_dist.experiments.findings import Findings, TableOf
from recmind_dist.experiments.space import default_space, load_space
from recmind_dist.report import RunDirectory
from recmind_dist.storage import write_sealed

USERS = 400


def write_users(run: RunDirectory, frame: pl.DataFrame) -> None:
    data = io.BytesIO()
    frame.write_parquet(data)
    write_sealed(run.per_user, data.getvalue())


def run_of(
    home: Path, seed: int, shift: float, cold_shift: float = 0.0, users: int = USERS
) -> RunDirectory:
    """A run directory as an evaluation leaves it: every fourth user's held-out item is cold."""
    run = RunDirectory(home / f"{shift}-{seed}")
    run.create()
    degree = np.tile([2, 5, 9, 40], users // 4)
    base = np.random.default_rng(0).random(users)
    values = (
        base
        + np.random.default_rng(seed).normal(0, 0.02, users)
        + np.where(degree <= 3, cold_shift, shift)
    )
    table = {"user": np.arange(users), "degree": degree, "recall@40": values}
    write_users(run, pl.DataFrame(table))
    nothing = {"users": 0}
    mean = float(np.clip(values.mean(), 0, 1)) if users else 0.0
    results = {
        "dataset": "toy",
        "variant": "recmind",
        "seed": seed,
        "commit": None,
        "split": "test",
        "gate": [],
    }
    strata = {"0": nothing, "1-3": nothing, "cold": {"users": users // 4, "recall@40": 0.25 + seed}}
    run.write_results({**results, "metrics": {"recall@40": mean}, "strata": strata})
    return run


def test_what_is_better_only_on_cold_items_is_seen_there_and_in_the_macro_average(
    tmp_path: Path,
) -> None:
    ours = [run_of(tmp_path / "a", seed, 0.0, cold_shift=0.2) for seed in range(3)]
    theirs = [run_of(tmp_path / "b", seed + 10, 0.0) for seed in range(3)]
    overall, cold, macro = (
        compare(ours, theirs, "recall@40", over) for over in ("users", "cold", "strata")
    )
    assert overall
    assert cold
    assert macro
    assert cold.a - cold.b == pytest.approx(0.2, abs=0.01)
    assert overall.a - overall.b == pytest.approx(0.05, abs=0.01)
    assert macro.a - macro.b == pytest.approx(0.05, abs=0.01)  # four strata, of one of which more
    assert seen(cold, "above") == "yes"
    assert seen(cold, "below") == "no, the opposite"


def test_one_run_over_another_is_said_with_its_interval(tmp_path: Path) -> None:
    ours, theirs = run_of(tmp_path / "a", 0, 0.1, 0.1), run_of(tmp_path / "b", 1, 0.0)
    line = gain_line(ours, theirs, ["recall@40"])
    found = compare([ours], [theirs], "recall@40")
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    interval = f"({100 * found.low:.1f} … {100 * found.high:.1f})"
    assert line.startswith(f"Recall@40 +{100 * (found.a / found.b - 1):.1f} % {interval}: 95 %")
    assert line.endswith("over the same 400 users, one seed")
    nobody = run_of(tmp_path / "c", 0, 0.0, users=0)
    assert gain_line(nobody, nobody, ["recall@40"]) == ""


def test_a_model_is_the_best_of_a_column_only_where_it_is_above_every_other(
    tmp_path: Path,
) -> None:
    runs = {
        "ours": run_of(tmp_path / "a", 0, 0.2),
        "near": run_of(tmp_path / "b", 1, 0.1),
        "far": run_of(tmp_path / "c", 2, 0.0),
    }
    found = evidence_of(runs, ["recall@40"])
    assert found["ours"].best == {"recall@40"}  # on cold items nobody is
    assert not found["near"].best
    values = read_users([runs["ours"]], "recall@40")[0][0]
    half = 1.966 * values.std(ddof=1) / np.sqrt(USERS)
    assert found["ours"].half["recall@40"] == pytest.approx(half, rel=1e-3)
    runs["ours"] = run_of(tmp_path / "d", 3, 0.1)
    assert not any(evidence.best for evidence in evidence_of(runs, ["recall@40"]).values())
    alone = evidence_of({"far": runs["far"]}, ["recall@40"])["far"]
    assert not alone.best
    assert set(alone.half) == {"recall@40", "cold recall@40"}


def test_nobody_is_the_best_over_other_users_or_over_a_single_one(tmp_path: Path) -> None:
    runs = {"ours": run_of(tmp_path / "a", 0, 0.2), "far": run_of(tmp_path / "b", 1, 0.0)}
    frame = pl.read_parquet(runs["far"].per_user)
    write_users(runs["far"], frame.with_columns(pl.col("user") + 1, pl.col("degree") - 2))
    found = evidence_of(runs, ["recall@40"])
    assert not any(evidence.best for evidence in found.values())
    cold = frame.filter(pl.col("degree") <= 5)["recall@40"].to_numpy()
    half = 1.972 * cold.std(ddof=1) / np.sqrt(len(cold))
    assert found["far"].half["cold recall@40"] == pytest.approx(half, rel=1e-3)

    runs = {"ours": run_of(tmp_path / "c", 0, 0.2), "far": run_of(tmp_path / "d", 1, 0.0)}
    for run in runs.values():
        users = pl.read_parquet(run.per_user)
        write_users(run, users.filter((pl.col("degree") > 3) | (pl.col("user") == 0)))
    found = evidence_of(runs, ["recall@40"])
    assert found["ours"].best == {"recall@40"}
    assert found["ours"].half.keys() == {
        "recall@40"
    }  # one user of a cold item says nothing of others


def test_intervals_by_stratum_are_of_its_users(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0, 0.1, 0.2)
    found = halves_of_strata(run, "recall@40")
    values = read_users([run], "recall@40")[0][0]
    assert set(found) == {"1-3", "cold", "4-7", "8-15", "32-63"}  # none has degree 0 or 16 to 31
    low, high = stats.t.interval(0.95, 99, scale=values[1::4].std(ddof=1) / 10)
    assert found["4-7"] == pytest.approx((high - low) / 2)
    assert found["1-3"] == found["cold"]
    assert halves_of_lists(run, ["recall@40", "gini@40"]) == {
        "recall@40": pytest.approx(evidence_of({"a": run}, ["recall@40"])["a"].half["recall@40"])
    }
    several = pl.read_parquet(run.per_user).with_columns(degree=pl.lit(None, pl.Int64))
    write_users(run, several)
    assert halves_of_strata(run, "recall@40") == {}
    run.per_user.write_bytes(b"cut short")
    assert halves_of_lists(run, ["recall@40"]) == {}


def test_two_seeds_are_called_not_significant(tmp_path: Path) -> None:
    ours = [run_of(tmp_path / "a", seed, 0.3, 0.3) for seed in range(2)]
    theirs = [run_of(tmp_path / "b", seed, 0.0) for seed in range(3)]
    assert seen(compare(ours, theirs, "recall@40"), "above") == "not significant (2 of 3 seeds)"
    assert seen(None, "above") == "not measured"


def test_runs_of_other_users_are_refused_by_name(tmp_path: Path) -> None:
    ours, theirs = run_of(tmp_path / "a", 0, 0.0), run_of(tmp_path / "b", 0, 0.0, users=200)
    with pytest.raises(StoreError, match=r"per_user\.parquet: other users than"):
        compare([ours], [theirs], "recall@40")
    with pytest.raises(StoreError, match="other users than"):
        read_users([ours, theirs], "recall@40")
    with pytest.raises(StoreError, match="no ndcg@7 can be read"):
        read_users([ours], "ndcg@7")
    theirs.per_user.unlink()
    with pytest.raises(StoreError, match=f"recmind evaluate {theirs.path}"):
        read_users([theirs], "recall@40")


def test_strata_need_one_held_out_item_a_user(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0, 0.0)
    frame = pl.read_parquet(run.per_user).with_columns(degree=pl.lit(None, pl.Int64))
    write_users(run, frame)
    assert compare([run], [run], "recall@40", "cold") is None
    assert compare([run], [run], "recall@40", "strata") is None
    assert compare([run], [run], "recall@40") is not None


def test_spread_is_mean_and_deviation_over_runs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed, 0.0) for seed in range(2)]
    assert spread(runs, "recall@40", "cold") == (pytest.approx(0.75), pytest.approx(np.sqrt(0.5)))
    assert spread(runs[:1], "recall@40", "cold") == (0.25, None)
    assert spread(runs, "recall@40", "0") == (None, None)
    assert spread(runs, "folded_recall@40") == (None, None)  # a split without validation items


def test_findings_are_a_page_data_and_a_figure(tmp_path: Path) -> None:
    table = TableOf("## A table", ("model", "recall@20"), [["a|b", 0.5], ["c", None]])
    found = Findings("probe", "Title", "up.", "down.", [table], ["a note"])
    bars = {"panel": {"a": (0.1, 0.0, 0.3), "b": (None, None, None), "c": (0.2, None, None)}}
    found.write(tmp_path, lambda: draw_bars(bars, "title", "x"))
    page = (tmp_path / "table.md").read_text()
    assert "| a\\|b | 0.5000 |" in page
    assert "| c | – |" in page
    assert "The paper expects: up." in page
    data = json.loads((tmp_path / "table.json").read_text())
    assert data["tables"][0]["rows"] == [
        {"model": "a|b", "recall@20": 0.5},
        {"model": "c", "recall@20": None},
    ]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_curves_and_bins_are_drawn_where_models_differ_in_length() -> None:
    curves = draw_curves({"a": [(1, 0.1, 0.0), (2, 0.2, 0.1)], "b": [(1, 0.1, 0.0)]}, "t", "x", "y")
    assert len(curves.axes[0].lines) == 2
    points = {"a": [("0", 0.5, 0.4, 0.6), ("1-3", 0.6, 0.5, 0.7)], "b": [("1-3", 0.2, 0.1, 0.3)]}
    bins = draw_bins({f"panel {k}": points for k in range(4)}, "t", "γ")
    assert len(bins.axes) == 4
    assert bins.axes[0].lines[1].get_xdata().tolist() == [1]  # b's only point stands in its own bin


def test_a_space_draws_whole_numbers_floats_and_lists(tmp_path: Path) -> None:
    text = (
        "a.b: {low: 1, high: 9}\nc: {low: 1.0e-3, high: 1, log: true}\n"
        "d: {choices: [[10, 5], null]}\n"
    )
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml")
    trial = FixedTrial({"a.b": 3, "c": 0.5, "d": "[10, 5]"})
    drawn = {key: dimension.suggest(trial, key) for key, dimension in space.items()}  # type: ignore[arg-type]
    assert drawn == {"a.b": 3, "c": 0.5, "d": [10, 5]}
    assert isinstance(drawn["a.b"], int)


def test_the_space_is_the_variants_own_or_the_default_here_or_packaged(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.yaml"
    packaged = default_space(config, "recmind"), default_space(config, "lightgcn")
    assert [path.name for path in packaged] == ["recmind.yaml", "default.yaml"]
    assert all(load_space(path) for path in packaged)
    (tmp_path / "spaces").mkdir()
    for name in ("default", "recmind"):
        (tmp_path / "spaces" / f"{name}.yaml").touch()
    assert default_space(config, "recmind") == tmp_path / "spaces" / "recmind.yaml"
    assert default_space(config, "lightgcn") == tmp_path / "spaces" / "default.yaml"


@pytest.mark.parametrize(
    "variant",
    [
        "recmind",
        "lightgcn",
        "popularity",
        "llm_only",
        "late_fusion",
        "no_alignment",
        "gate_items_only",
    ],
)
def test_the_spaces_of_the_repository_fit_its_configs(variant: str) -> None:
    from recmind_dist.experiments.space import as_word
    from recmind_dist.run_config.load import load_run_config

    name = "paper" if variant == "gate_items_only" else "quickstart"
    config = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    space = load_space(default_space(config, variant))
    words = [as_word(key, dimension.example) for key, dimension in space.items()]
    assert load_run_config(config, words, variant).variant == variant
