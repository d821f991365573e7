"""What the sections of `recmind report` say, held to the runs' files: metrics and who is the best,
groups, cold items, speed, traffic, data, examples.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from recmind_dist.cli.results import print_groups, print_results
from recmind_dist.recommend.recommender import load
from recmind_dist.report import RunDirectory
from recmind_dist.report_page.html import text
from recmind_dist.report_page.write import write_report
from recmind_dist.run_config.load import config_of_run
from recmind_dist.training.evaluate import write_per_user
from tests.report_pages import Page
from tests.reported_runs import make_reported_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("sections")
    other = make_reported_run(home, "lightgcn", model={"kind": "lightgcn"})
    return [make_reported_run(home), other]


@pytest.fixture(scope="module")
def source(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "report.html"
    write_report(runs, out, num_examples=12)
    return out.read_text(encoding="utf-8")


def users_of(run: Path) -> pl.DataFrame:
    return pl.read_parquet(RunDirectory(run).per_user)


def half_of(values: np.ndarray) -> float:
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def test_every_metric_stands_with_its_interval_and_the_best_by_a_star(
    source: str, runs: list[Path]
) -> None:
    tables = Page(source).tables
    [recall] = [row for row in tables["Metrics on the test split"] if row[0] == "Recall@20"]
    assert [cell.endswith("*") for cell in recall[1:]] == [True, False]
    more = {row[0]: row[1:] for row in tables["Other metrics of accuracy on the test split"]}
    assert list(more) == ["metric", "HitRate@20", "MRR@20", "MAP@20", "Precision@20"]
    lists = {row[0]: row[1:] for row in tables["What the lists are like"]}
    for place, run in enumerate(runs):
        users, results = users_of(run), json.loads((run / "results.json").read_text())
        precise = users["precision@20"].to_numpy()
        assert more["Precision@20"][place].removesuffix("*") == (
            f"{precise.mean():.4f} ± {half_of(precise):.4f}"
        )
        assert precise.mean() == pytest.approx(results["metrics"]["precision@20"])
        novelty = users["novelty@20"].to_numpy()
        assert lists["Novelty@20"][place] == f"{novelty.mean():.4g} ± {half_of(novelty):.2g}"
        assert lists["Coverage@20"][place] == f"{results['lists']['coverage@20']:.4g}"
    assert {"Gini@20", "Long tail@20", "Popularity@20", "Serendipity@20", "Miscalibration@20"} < (
        lists.keys()
    )


def test_no_run_is_called_the_best_where_another_has_no_users(
    runs: list[Path], tmp_path: Path
) -> None:
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    (copies[1] / "per_user.parquet").unlink()
    write_report(copies, tmp_path / "report.html", num_examples=0)
    page = Page((tmp_path / "report.html").read_text())
    [recall] = [row for row in page.tables["Metrics on the test split"] if row[0] == "Recall@20"]
    results = json.loads((copies[1] / "results.json").read_text())
    assert "±" in recall[1]
    assert "*" not in recall[1]
    assert recall[2] == f"{results['metrics']['recall@20']:.4f}"
    assert "No intervals of lightgcn: its metrics by user are missing or damaged" in page.text
    assert "No difference of recmind over lightgcn: " in page.text


def test_differences_by_group_are_paired_over_the_users_of_the_group(
    source: str, runs: list[Path]
) -> None:
    tables = Page(source).tables
    ours, theirs = (users_of(run)["recall@20"].to_numpy() for run in runs)
    gender = tables["Differences by gender of the users, the same users in both"]
    genre = tables["Differences by genre of the items, the same users in both"]
    assert [row[1:3] for row in gender[1:]] == [["F", "30"], ["M", "30"]]
    # the held-out items of 20 users are of War: too few
    assert [row[1:3] for row in genre[1:]] == [["Drama <b>", "40"]]
    for row, users in ((gender[1], slice(0, 60, 2)), (genre[1], slice(0, 40))):
        gap = ours[users] - theirs[users]
        low, high = gap.mean() - half_of(gap), gap.mean() + half_of(gap)
        assert row[0] == "recmind over lightgcn"
        assert row[3].rstrip("* ") == f"{gap.mean():+.3g} ({low:+.3g} … {high:+.3g})"


def test_cold_items_are_told_from_warm_ones(source: str, runs: list[Path]) -> None:
    title = "Recall@20 of cold items (degree up to 3) and warm ones"
    header, *rows = Page(source).tables[title]
    assert header == ["run", "cold", "± cold", "warm", "± warm"]
    for row, run in zip(rows, runs, strict=True):
        users = users_of(run)
        parts = [
            users.filter(inside)["recall@20"].to_numpy()
            for inside in (pl.col("degree") <= 3, pl.col("degree") > 3)
        ]
        expected = [f"{x:.4f}" for part in parts for x in (part.mean(), half_of(part))]
        assert row == [run.name, *expected]


def test_where_users_have_several_held_out_items_cold_ones_are_shown_and_warm_ones_explained(
    tmp_path: Path,
) -> None:
    run = RunDirectory(make_reported_run(tmp_path))
    several = pl.when(pl.col("user") == 7).then(None).otherwise(pl.col("degree")).alias("degree")
    write_per_user(users_of(run.path).with_columns(several), run)
    write_report([run.path], tmp_path / "report.html", num_examples=0)
    page = Page((tmp_path / "report.html").read_text())
    title = "Recall@20 of cold items (degree up to 3) and warm ones"
    cold = run.read_results()["strata"]["cold"]["recall@20"]
    assert page.tables[title][1] == ["recmind", f"{cold:.4f}", "–", "–", "–"]
    assert "No value of warm items: users have several held-out items" in page.text


def test_speed_is_of_the_steps_that_were_timed(source: str) -> None:
    tables = Page(source).tables
    # six steps of the second epoch came before a restart
    assert tables["Steps a second, joint phase"][1:] == [
        ["1", "5.0000", "5.0000"],
        ["2", "1.3333", "1.3333"],
        ["3", "2.5000", "2.5000"],
    ]
    assert tables["Steps a second, warm-up"][1:] == [["1", "2.0000", "2.0000"]]
    assert tables["Time spent waiting for batches, warm-up"][1:] == [["1", "9.0000", "9.0000"]]
    assert tables["Peak memory of rank 0, joint phase"][3] == ["3", "512.0", "512.0"]
    header, *rows = tables["Age of the queue's keys, joint phase"]
    assert (header, rows[-1]) == (["step", "recmind"], ["30", "30.0"])  # LightGCN has no queue


def test_traffic_is_a_mean_over_steps(source: str) -> None:
    header, *rows = Page(source).tables["Sent to other ranks in a step, joint phase, kB"]
    kinds = ["ids", "rows", "gradients", "queue", "dense"]
    assert header == ["run", *kinds, "all", "rank that sends most"]
    # dense: 12 kB in twenty steps, 14.4 in four
    sent = ["1.0000", "4,000", "3,000", "0.0000", "12.4", "7,013.4", "9,000"]
    assert rows == [["recmind", *sent], ["lightgcn", *sent]]


def test_the_data_stand_in_numbers_and_by_what_became_of_their_rows(source: str) -> None:
    page = Page(source)
    numbers = {row[0]: row[1] for row in page.tables["The graph in numbers"]}
    assert (numbers["users"], numbers["items"], numbers["test interactions"]) == ("60", "91", "60")
    assert numbers["training interactions"] == "360"
    assert numbers["training interactions of an item, mean"] == f"{360 / 91:.4f}"
    rows = {row[0]: row[1:] for row in page.tables["Rows of the log"]}
    assert rows["read"] == ["483", "–"]
    assert rows["kept"] == ["480", "–"]
    assert rows["by dataset.missing"][0] == "1"
    assert rows["by dataset.missing"][1].endswith("log.csv:3: item is 'NA'")
    quarantined, first = rows["set aside in quarantine.jsonl"]
    assert quarantined == "1"
    assert "log.csv:2: " in first
    assert rows["repeats of a user with an item"][0] == "1"
    assert "columns: user is user; item is item; time is time" in page.text
    assert "60 in the log" in page.text
    assert re.search(r"warning: [^\n]*I85", page.text)


def test_what_was_read_is_known_without_the_graph_and_before_the_evaluation(
    tmp_path: Path,
) -> None:
    gone = make_reported_run(tmp_path / "gone")
    (gone / "inputs.json").unlink()
    training = make_reported_run(tmp_path / "training", evaluated=False)
    for run in (gone, training):
        write_report([run], tmp_path / "report.html", num_examples=0)
        page = Page((tmp_path / "report.html").read_text())
        assert ["read", "483", "–"] in page.tables["Rows of the log"]
        assert ("The graph in numbers" in page.tables) == (run == training)
    assert "Its graph is not where" not in page.text


def test_examples_are_what_each_run_recommends(source: str, runs: list[Path]) -> None:
    shown = re.findall(r"<h3>User (u\d+)</h3>(.*?)</div></div>", source, re.S)
    assert len(shown) == 12
    for user, lists in shown:
        found = {
            title: re.findall(r"<li( class=\"only\")?>(.*?)</li>", items)
            for title, items in re.findall(r"<h4>(.*?)</h4><ol>(.*?)</ol>", lists, re.S)
        }
        best = {
            run.name: [text(one.title) for one in load(run).recommend(user, 10)] for run in runs
        }
        for name, other in (runs[0].name, runs[1].name), (runs[1].name, runs[0].name):
            assert [title for _, title in found[name]] == best[name]
            bold = {title for only, title in found[name] if only}
            assert bold == set(best[name]) - set(best[other])
    assert 'class="only"' in source


def test_the_terminal_prints_intervals_by_stratum_of_lists_and_of_differences_by_group(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directories = {run.name: RunDirectory(run) for run in runs}
    results = {name: run.read_results() for name, run in directories.items()}
    print_results(results, directories, "toy", "ndcg@20")
    config = config_of_run(directories["recmind"].config)
    print_groups(config.evaluation.groups, directories, 20)
    printed = capsys.readouterr().out
    strata = printed.partition("by degree")[2].partition("What the lists are like")[0]
    cold = users_of(runs[0]).filter(pl.col("degree") <= 3)["recall@20"].to_numpy()
    assert f"±{half_of(cold):.4f}" in strata
    novelty = users_of(runs[0])["novelty@20"].to_numpy()
    assert f"±{half_of(novelty):.2g}" in printed.partition("What the lists are like")[2]
    gap = np.subtract(*(users_of(run)["recall@20"].to_numpy()[::2] for run in runs))
    _, _, women = printed.partition("recmind over lightgcn by gender of the users")
    [row] = [line.split() for line in women.splitlines() if line.split()[:2] == ["F", "30"]]
    assert row[2] == f"{gap.mean():+.3g}"
    assert "recmind over lightgcn by genre of the items" in women
