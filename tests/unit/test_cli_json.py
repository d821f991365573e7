"""`--json`: standard output is one JSON object, with the figures that the command would print."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.cli import main
from recmind_dist.cli.results import print_gains, print_groups, print_results, results_json
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.report import RunDirectory
from recmind_dist.report.tables import table_metrics
from tests.reported_runs import make_reported_run

Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config of popularity, which trains nothing, over 30 users and 20 items."""
    drawn = random.Random(3)
    rows = [(u, i, u + k) for u in range(30) for k, i in enumerate(drawn.sample(range(20), 6))]
    lines = ["user,item,time", *(f"u{u},i{i},{time}" for u, i, time in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"run_dir: {tmp_path}/run\ncache_dir: {tmp_path}/cache\nvariant: popularity\n"
        f"dataset: {{name: shop, interactions: {tmp_path}/log.csv}}\n"
        "evaluation: {ks: [5], metric: ndcg@5}\n"
    )
    return str(path)


@pytest.fixture
def answer(capfd: pytest.CaptureFixture[str]) -> Answer:
    def answer(*words: str) -> dict[str, Any]:
        capfd.readouterr()
        main([*words, "--json"])
        found: dict[str, Any] = json.loads(capfd.readouterr().out)  # one value, and nothing else
        return found

    return answer


def test_intervals_stars_and_gains_are_those_of_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        name: RunDirectory(make_reported_run(tmp_path, name)) for name in ("recmind", "lightgcn")
    }
    results = {name: run.read_results() for name, run in runs.items()}
    print_results(results, runs, "toy", "ndcg@20")
    print_gains(runs, 20)
    printed = capsys.readouterr().out

    groups = GroupSettings(users=["gender"], items=["genre"], min_users=2)
    found = results_json(results, runs, "ndcg@20", 20, groups)
    tables, _, of_lists = printed.partition("What the lists are like")
    for name, result in results.items():
        assert found[name].items() >= result.items()
        for metric, half in found[name]["half_intervals"].items():
            mean = metric.removeprefix("cold ") in table_metrics(results, "ndcg@20")
            assert f"±{half:.4f}" in tables if mean else f"±{half:.2g}" in of_lists
        assert {"recall@20", "cold recall@20", "novelty@20"} <= found[name]["half_intervals"].keys()
        by_stratum = found[name]["half_intervals_by_stratum"]
        assert by_stratum.keys() >= {"cold"}
        for half in by_stratum.values():
            assert f"±{half:.4f}" in tables.partition("by degree")[2]
        for metric in found[name]["best"]:
            values = result["strata"]["cold"] if metric.startswith("cold ") else result["metrics"]
            assert f"{values[metric.removeprefix('cold ')]:.4f}*" in printed
    assert "recall@20" in found["recmind"]["best"]
    assert found["lightgcn"]["best"] == []
    assert "gains" not in found["lightgcn"]
    gains = found["recmind"]["gains"]["lightgcn"]
    assert gains.keys() == {"recall@20", "ndcg@20"}
    gain = gains["recall@20"]
    assert gain["gain"] == pytest.approx(gain["a"] / gain["b"] - 1)
    said = f"{100 * gain['gain']:+.1f} % ({100 * gain['low']:.1f} … {100 * gain['high']:.1f})"
    assert f"recmind over lightgcn: Recall@20 {said}" in printed

    print_groups(groups, runs, 20)
    printed = capsys.readouterr().out
    columns = found["recmind"]["group_gains"]["lightgcn"]
    assert [(one["side"], one["column"]) for one in columns] == [
        ("users", "gender"),
        ("items", "genre"),
    ]
    for row in (row for one in columns for row in one["rows"]):
        [line] = [x.strip() for x in printed.splitlines() if x.strip().startswith(row["group"])]
        words = line.removeprefix(row["group"]).split()
        assert words[:2] == [str(row["users"]), f"{row['recall@20']['gap']:+.3g}"]


def test_results_of_run_and_evaluate_are_one_object_by_variant(
    config: str, tmp_path: Path, answer: Answer
) -> None:
    ran = answer("run", config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert ran["popularity"].items() >= {"metrics": results["metrics"], "gains": {}}.items()
    assert ran["popularity"]["group_gains"] == {}
    assert answer("evaluate", str(tmp_path / "run")) == ran


def test_what_validate_looked_at_is_in_its_lines(config: str, answer: Answer) -> None:
    found = answer("validate", config)
    assert (found["variant"], found["dataset"]) == ("popularity", "shop")
    assert any(line.startswith("log: ") for line in found["lines"])


def test_prepare_gives_the_figures_of_the_partition(
    config: str, answer: Answer, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", config, "variant=lightgcn", "scaling.num_workers=2"]
    found = answer(*words)
    assert (found["parts"], Path(found["graph"]).is_dir()) == (2, True)
    assert 0 < found["cut_share"] < 1 <= found["node_balance"]
    main(words)
    [line] = [x for x in capfd.readouterr().out.splitlines() if x.startswith("partition: ")]
    assert f"2 parts: {100 * found['cut_share']:.1f} % of the edges cut" in line
    assert f"{found['edge_balance']:.3f} x the mean of edges" in line
