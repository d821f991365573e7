"""The audit finds a planted disparity at its size, and none where none is planted."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmind_dist.cli import main
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.audit import AuditedLists, item_gaps, mean_history, user_gaps
from recmind_dist.evaluation.groups import Groups, item_degree
from recmind_dist.graph import Graph
from recmind_dist.pipeline.audit import PENALTIES, curve_of
from recmind_dist.storage import write_sealed
from recmind_dist.training.model_shard import ModelShard
from tests.graphs import dataset_of, make_graph, random_pairs
from tests.training_runs import config_of, make_inputs

USERS, ITEMS, K = 600, 60, 10
LABELS = ["new", "old"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Every user has ten items drawn evenly, and one held-out item of the others."""
    drawn = np.random.default_rng(0)
    rows = [drawn.permutation(ITEMS)[:11].tolist() for _ in range(USERS)]
    pairs = [(user, item) for user, items in enumerate(rows) for item in items[:10]]
    test = [(user, items[10]) for user, items in enumerate(rows)]
    return make_graph(tmp_path_factory.mktemp("graph"), pairs, USERS, ITEMS, test=test)


def shown(
    graph: Graph, hit_rates: tuple[float, float], new_share: float, seed: int
) -> AuditedLists:
    """Lists that hold the held-out item with a probability by group of users (even and odd), and
    that are otherwise drawn with a share of items of the first half of the catalogue.
    """
    drawn = np.random.default_rng(seed)
    lists, recall = np.empty((USERS, K), np.int64), np.zeros(USERS)
    for user in range(USERS):
        recall[user] = drawn.random() < hit_rates[user % 2]
        first = drawn.permutation(ITEMS // 2)
        last = ITEMS // 2 + drawn.permutation(ITEMS // 2)
        count = drawn.binomial(K, new_share)
        lists[user] = np.r_[first[:count], last[: K - count]]
    degree = item_degree(graph)
    values = {"recall": recall, "popularity": degree[lists].mean(1)}
    return AuditedLists(np.arange(USERS), lists, values, mean_history(graph, np.arange(USERS)))


def groups_of_users() -> Groups:
    return Groups.of_codes("parity", ["even", "odd"], np.arange(USERS) % 2)


def groups_of_items() -> Groups:
    return Groups.of_codes("age", LABELS, (np.arange(ITEMS) >= ITEMS // 2).astype(np.int64))


def test_a_planted_gap_between_users_is_found_at_its_size(graph: Graph) -> None:
    a = shown(graph, (0.5, 0.3), 0.5, seed=1)
    rows = user_gaps(a, None, groups_of_users(), ("recall", "lift"), 30)
    even = {row["metric"]: row for row in rows if row["group"] == "even"}
    gap = even["recall"]["gap"]
    assert gap.low <= 0.2 <= gap.high
    assert gap.significant
    assert even["recall"]["low"] <= 0.5 <= even["recall"]["high"]
    assert not even["lift"]["gap"].significant
    assert [("gap" in row) for row in rows] == [True, True, False, False]


def test_without_a_planted_gap_tables_with_a_significant_one_are_as_rare_as_said(
    graph: Graph,
) -> None:
    false = missed = 0
    for seed in range(20):
        a = shown(graph, (0.4, 0.4), 0.5, seed)
        of_users = user_gaps(a, None, groups_of_users(), ("recall", "popularity", "lift"), 30)
        of_items = item_gaps(a, None, groups_of_items(), graph, "test", 30)
        tables = [
            [row["gap"] for row in of_users if "gap" in row],
            [row["against_catalogue"] for row in of_items],
        ]
        false += sum(any(gap.significant for gap in table) for table in tables)
        missed += sum(not gap.low <= 0 <= gap.high for table in tables for gap in table)
        if seed == 0:
            assert not false
    assert false <= 5  # of 40 tables, two expected
    assert missed <= 12  # of 100 intervals, five expected


def test_planted_exposure_is_found_against_relevance_and_against_the_catalogue(
    graph: Graph,
) -> None:
    new = item_gaps(shown(graph, (0.4, 0.4), 0.7, 2), None, groups_of_items(), graph, "test", 30)[0]
    assert (new["group"], new["items"], new["catalogue"]) == ("new", 30, 0.5)
    held = np.asarray(graph.held_out("test").indices) - USERS
    assert new["relevance"] == pytest.approx((held < ITEMS // 2).mean())
    planted = {"against_catalogue": 0.2, "against_relevance": 0.7 - new["relevance"]}
    for kind, gap in planted.items():
        assert new[kind].low <= gap <= new[kind].high
        assert new[kind].significant


def test_what_another_run_amplifies_is_the_change_of_the_gap(graph: Graph) -> None:
    a, b = shown(graph, (0.6, 0.2), 0.5, 3), shown(graph, (0.4, 0.4), 0.5, 4)
    row = user_gaps(a, b, groups_of_users(), ("recall",), 30)[0]
    assert not row["gap_against"].significant
    assert row["change"].significant
    assert row["change"].low <= 0.4 <= row["change"].high
    same = user_gaps(a, a, groups_of_users(), ("recall",), 30)[0]["change"]
    assert (same.gap, same.p, same.significant) == (0.0, 1.0, False)


def test_lift_is_the_mean_shown_over_the_mean_of_histories(graph: Graph) -> None:
    a = shown(graph, (0.4, 0.4), 0.5, 5)
    degree = item_degree(graph)
    own = [
        degree[graph.indices[graph.indptr[u] : graph.indptr[u + 1]] - USERS].mean()
        for u in range(USERS)
    ]
    assert a.history == pytest.approx(own)
    everyone = np.ones(USERS, np.bool_)
    lift = a.values["popularity"].mean() / np.mean(own) - 1
    assert a.sample("lift", everyone).mean() == pytest.approx(lift)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of popularity by the command: `whole` and, of another split, `other`."""
    home = tmp_path_factory.mktemp("shop")
    pairs = random_pairs(80, 40, 900, seed=1)
    dataset_of(home, pairs, 80, 40)
    lines = [json.dumps({"id": str(u), "gender": "FM"[u % 2], "of": "x"}) for u in range(80)]
    (home / "users.jsonl").write_text("\n".join(lines) + "\n")
    config = home / "shop.yaml"
    config.write_text(
        f"run_dir: {home}/whole\ncache_dir: {home}/cache\nvariant: popularity\n"
        f"dataset: {{name: toy, interactions: {home}/train.tsv, items: {home}/items.jsonl, "
        f"users: {home}/users.jsonl}}\n"
        "evaluation:\n  ks: [5]\n  metric: ndcg@5\n"
        "  groups: {users: [gender], items: [genre], min_users: 10}\n"
    )
    main(["run", str(config)])
    main(["run", str(config), f"run_dir={home}/other", "graph.split=ratio", "graph.test_share=0.2"])
    return home


def test_the_command_prints_tables_and_writes_them_into_the_run(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shop / "whole")
    main(["audit", run, "--against", run, "--users", "gender", "--users", "activity"])
    out = capsys.readouterr().out
    assert "users by gender: gap to the others" in out
    assert "items by genre: exposure above relevance" in out
    main(["audit", run, "--against", run, "--users", "gender", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((shop / "whole" / "audit.json").read_text())
    results = json.loads((shop / "whole" / "results.json").read_text())
    rows = {(row["group"], row["metric"]): row for row in found["user_groups"]["gender"]}
    assert rows["F", "recall"]["mean"] == pytest.approx(
        results["groups"]["users"]["gender"]["F"]["metrics"]["recall@5"]["mean"]
    )
    assert rows["F", "recall"]["change"]["gap"] == 0  # against itself
    assert sum(row["exposure"] for row in found["item_groups"]["genre"]) == pytest.approx(1)


def test_a_report_shows_the_audit_of_its_results_alone(shop: Path, tmp_path: Path) -> None:
    run, page = shop / "whole", tmp_path / "report.html"
    main(["audit", str(run)])
    main(["report", str(run), "--out", str(page)])
    whole = page.read_text()
    found = json.loads((run / "audit.json").read_text())
    [row] = [row for row in found["item_groups"]["genre"] if row["group"] == "war"]
    assert f"{row['exposure']:.4f}</td>" in whole
    assert "users by gender: gap to the others" in whole
    assert "Recall@5 by gender of the users" in whole
    found["all"][0]["mean"] += 0.1
    (run / "audit.json").write_text(json.dumps(found))
    main(["report", str(run), "--out", str(page)])
    assert "The audit of popularity is of another evaluation" in page.read_text()
    assert "gap to the others" not in page.read_text()


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        ("whole", ["--users", "age"], "no column 'age': the users of toy have gender, of and act"),
        ("whole", ["--users", "of"], "column 'of' has one value, 'x': name one with 2 to 200"),
        ("whole", ["--items", "title", "--users", "gender"], "largest group of title has"),
        ("whole", ["--against", "{home}/other"], "other: on other data or another split than"),
        ("whole", ["--curve"], "whole: variant popularity trains no vectors: leave --curve out"),
        ("none", [], "config.yaml"),
    ],
)
def test_what_cannot_be_audited_ends_in_a_sentence(
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    run: str,
    words: list[str],
    sentence: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["audit", str(shop / run), *(word.format(home=shop) for word in words)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_run_of_a_version_without_lists_is_to_be_evaluated_again(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shop / "whole", tmp_path / "old")
    path = tmp_path / "old" / "per_user.parquet"
    out = io.BytesIO()
    pl.read_parquet(path).drop("items").write_parquet(out)
    write_sealed(path, out.getvalue())
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path / "old")])
    assert "has no column 'items': run `recmind evaluate" in capsys.readouterr().err


def test_groups_are_refused_before_anything_is_trained(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluation.groups.users=[colour]", f"run_dir={shop}/refused"]
    with pytest.raises(SystemExit):
        main(["run", str(shop / "shop.yaml"), *words, "variant=lightgcn"])
    assert "evaluation.groups.users: no column 'colour'" in capsys.readouterr().err
    assert not (shop / "refused" / "checkpoints").exists() or not list(
        (shop / "refused" / "checkpoints").iterdir()
    )


def test_a_curve_goes_from_no_penalty_to_lists_without_popular_items(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, num_tested=50)
    config = config_of(tmp_path, "run", model={"kind": "lightgcn"})
    model = ModelShard(config, inputs, DistContext.alone())
    model.initialise()
    rows = curve_of(model, 0.5, "test", 5)
    assert [row["penalty"] for row in rows] == list(PENALTIES)
    assert rows[0]["ndcg_change"].gap == 0
    popularity = [row["popularity"] for row in rows]
    assert popularity == sorted(popularity, reverse=True)
    assert popularity[-1] < 0.6 * popularity[0]
