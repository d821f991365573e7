"""`recmind report`: what the page says is what the runs' files say, also of runs at work."""

import json
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from recmind_dist.cli import main
from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.report.run_directory import SCHEMA
from recmind_dist.report_page.runs import read_runs, settings_beside_defaults
from recmind_dist.report_page.svg import Axes, _ticks, bar_chart, line_chart
from recmind_dist.report_page.training import MOST_POINTS, losses_section
from recmind_dist.report_page.vectors import alignment_and_uniformity
from recmind_dist.report_page.write import write_report
from tests.report_pages import Page
from tests.reported_runs import HOSTILE, make_reported_run

LIGHTGCN = {"model": {"kind": "lightgcn"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("reported")
    return [make_reported_run(home), make_reported_run(home, "lightgcn", **LIGHTGCN)]


@pytest.fixture(scope="module")
def source(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "new" / "report.html"
    size = write_report(runs, out, num_examples=12)
    assert size == out.stat().st_size < 3e6
    return out.read_text(encoding="utf-8")


def test_the_tables_have_the_results_files_numbers(source: str, runs: list[Path]) -> None:
    rows = Page(source).rows
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in runs)
    [recall] = [row for row in rows if row[0] == "Recall@20" and len(row) == 3]
    for cell, results in zip(recall[1:], (ours, theirs), strict=True):
        assert cell.startswith(f"{results['metrics']['recall@20']:.4f} ± 0.")
    [gain] = [row for row in rows if row[:2] == ["recmind over lightgcn", "Recall@20"]]
    expected = ours["metrics"]["recall@20"] / theirs["metrics"]["recall@20"] - 1
    assert gain[2] == f"{100 * expected:+.1f} %"
    stratum = ours["strata"]["1-3"]
    found = [row for row in rows if row[:2] == ["1-3", str(stratum["users"])]]
    assert found[0][2] == f"{stratum['recall@20']:.4f}"
    assert ["recmind", "user", "0", "-0.5000", "–", "–", "27"] in rows  # γ against degree


def test_groups_stand_with_their_users_and_intervals(source: str, runs: list[Path]) -> None:
    of_run = [json.loads((run / "results.json").read_text())["groups"] for run in runs]
    cells = [
        f"{groups['users']['gender']['F']['metrics']['recall@20']['mean']:.4f} ± 0.1000"
        for groups in of_run
    ]
    assert ["F", "30", *cells] in Page(source).rows
    assert "NDCG@20 by genre of the items" in source
    assert "Drama &lt;b&gt;" in source


def test_alignment_and_uniformity_are_those_of_all_pairs(runs: list[Path], source: str) -> None:
    bundle = Bundle.open(RunDirectory(runs[0]).bundle)
    rows, columns = np.arange(60), bundle.views[-1].stop
    users, items = bundle.users.vectors(rows)[:, :columns], bundle.item_vectors[:, :columns]
    users, items = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (users, items))
    pairs = [(u, i) for u, history in enumerate(bundle.users.histories(rows)) for i in history]
    apart = [((users[u] - items[i]) ** 2).sum() for u, i in pairs]
    spread = [
        np.log(np.mean([np.exp(-2 * ((x - y) ** 2).sum()) for x, y in permutations(side, 2)]))
        for side in (users, items)
    ]
    found = alignment_and_uniformity(bundle.path)
    assert found[0] == pytest.approx(np.mean(apart), rel=1e-5)
    assert found[1:] == pytest.approx(spread, abs=0.03)  # of drawn pairs
    assert ["recmind", *(f"{value:.4f}" for value in found)] in Page(source).rows


def test_every_figure_has_a_title_named_axes_and_its_numbers(source: str) -> None:
    figures = re.findall(r"<figure>(<svg.*?</svg>)(.*?)</figure>", source, re.S)
    assert len(figures) > 10
    for drawing, rest in figures:
        svg = ElementTree.fromstring(drawing)  # well formed
        title, about = svg.findtext("title"), svg.findtext("desc")
        assert title
        assert about
        y, x = about.partition(". ")[0].split(" against ")
        assert {x, y} <= {text.text for text in svg.iter("text")}
        assert "<details><summary" in rest
        assert "<table>" in rest


def test_lines_never_run_backwards(source: str) -> None:
    lines = re.findall(r'<polyline[^>]* points="(.*?)"', source)
    assert len(lines) > 15
    for line in lines:
        xs = [float(point.split(",")[0]) for point in line.split()]
        assert xs == sorted(set(xs))


def test_nothing_is_loaded_nothing_runs_and_titles_are_text(source: str) -> None:
    page = Page(source)
    assert not {"script", "img", "link", "iframe", "b"} & set(page.tags)
    assert "http" not in source.replace("http-equiv", "")
    assert "&lt;img src=x onerror" in source
    assert HOSTILE not in source
    assert sorted(page.ids) == sorted(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} == set(page.ids)


def test_settings_beside_their_defaults(runs: list[Path], source: str) -> None:
    found = settings_beside_defaults(read_runs(runs[:1])[0].config)
    assert found["train.seed"] == (0, 5)
    assert found["dataset.items.path"] == (None, "items.csv")
    assert "train.patience" not in found
    assert ["train.seed", "0", "5", "5"] in Page(source).rows


def test_a_run_that_is_training_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    run = make_reported_run(tmp_path, evaluated=False)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "kind": "st')  # being written
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "in training, epoch 2 of 3" in page
    assert "No run is evaluated yet." in page
    assert "loss, joint phase" in page
    assert "a run without a bundle" in page


def test_a_step_done_again_counts_once_and_long_runs_are_thinned(tmp_path: Path) -> None:
    run = make_reported_run(tmp_path, evaluated=False)
    at = {"phase": "joint", "epoch": 0, "epochs": 1, "total": 3000}
    with MetricsLog(run / "metrics.jsonl") as log:
        for step in range(1, 3001):
            log.log("step", **at, step=step, loss=2.0)
    [read] = read_runs([run])
    joint = [record for record in read.records["step"] if record["phase"] == "joint"]
    losses = {record["step"]: record["loss"] for record in joint}
    assert len(losses) == len(joint) == 3000
    assert set(losses.values()) == {2.0}
    lines = re.findall(r'points="(.*?)"', losses_section([read]))
    assert 100 < max(len(line.split()) for line in lines) <= MOST_POINTS


def no_metrics(home: Path) -> list[Path]:
    run = make_reported_run(home, evaluated=False)
    (run / "metrics.jsonl").unlink()
    return [run]


def another_version(home: Path) -> list[Path]:
    run = make_reported_run(home, evaluated=False)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(f"schema: {SCHEMA}", "schema: 9"))
    return [run]


def other_split(home: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Path]:
    other = make_reported_run(home, "lightgcn", evaluated=False, graph=theirs, **LIGHTGCN)
    return [make_reported_run(home, evaluated=False, graph=ours), other]


def other_files_of_one_name(home: Path) -> list[Path]:
    """The second as a run that trains nothing: only its results say what they are of."""
    ours, theirs = make_reported_run(home), make_reported_run(home, "lightgcn", **LIGHTGCN)
    (theirs / "inputs.json").unlink()
    run = RunDirectory(theirs)
    run.write_results(run.read_results() | {"dataset_key": "0123456789abcdef"})
    return [ours, theirs]


def other_data(home: Path) -> list[Path]:
    data = {"name": "other", "interactions": "log.csv", "items": "items.csv"}
    other = make_reported_run(home, "lightgcn", evaluated=False, dataset=data, **LIGHTGCN)
    return [make_reported_run(home, evaluated=False), other]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda home: [home], "not a run directory: give one that `recmind run` has made"),
        (no_metrics, "metrics.jsonl: no line yet: report the run when it has begun to train"),
        (
            another_version,
            f"schema version 9, this program reads {SCHEMA}: use the version that wrote",
        ),
        (other_data, "of other data (other, leave-one-out) than "),
        (other_files_of_one_name, "of other data (toy, data set 0123456789ab) than "),
        (
            lambda home: other_split(
                home,
                {"split": "ratio", "test_share": 0.1},
                {"split": "ratio", "test_share": 0.2},
            ),
            "of other test items (graph.test_share 0.2) than ",
        ),
        (
            lambda home: other_split(home, {}, {"seed": 1, "withhold_items": 0.1}),
            "of other test items (graph.withhold_items 0.1, graph.seed 1) than ",
        ),
    ],
    ids=[
        "no run",
        "no metrics",
        "another version",
        "other data",
        "other files",
        "other share",
        "withheld",
    ],
)
def test_bad_input_is_one_sentence_and_no_file(
    broken: Callable[[Path], list[Path]],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out" / "report.html"
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, broken(tmp_path)), "--out", str(out)])
    [line] = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert sentence in line
    assert not out.parent.exists()


def test_other_settings_of_the_graph_are_refused_only_where_they_change_test_items(
    tmp_path: Path,
) -> None:
    timed = other_split(tmp_path / "timed", {}, {"seed": 1})  # seeds draw no items of a timed log
    assert [run.label for run in read_runs(timed)] == ["recmind", "lightgcn"]
    (timed[1] / "inputs.json").unlink()  # so that nothing says which items its seed drew
    with pytest.raises(DataError, match=r"of other test items \(graph\.seed 1\)"):
        read_runs(timed)


def test_runs_are_called_by_variant_else_by_directory_else_by_path(tmp_path: Path) -> None:
    a = make_reported_run(tmp_path / "a", evaluated=False)
    b = make_reported_run(tmp_path / "b", evaluated=False)
    lightgcn = make_reported_run(tmp_path, "lightgcn", evaluated=False, **LIGHTGCN)
    seed = a.rename(tmp_path / "seed1")
    assert [run.label for run in read_runs([seed, lightgcn])] == ["recmind", "lightgcn"]
    assert [run.label for run in read_runs([seed, b])] == ["seed1", "recmind"]
    other = make_reported_run(tmp_path / "c", evaluated=False)
    assert [run.label for run in read_runs([other, b])] == [str(other), str(b)]


def test_runs_whose_nodes_are_parted_otherwise_have_the_same_users(tmp_path: Path) -> None:
    paths = other_split(tmp_path, {}, {"num_parts": 8, "partition": "range"})
    assert [run.label for run in read_runs(paths)] == ["recmind", "lightgcn"]


def test_a_title_that_is_a_whole_description_is_cut(tmp_path: Path) -> None:
    run = make_reported_run(tmp_path, first_title="word " * 10_000)
    write_report([run], tmp_path / "report.html", num_examples=60)
    page = (tmp_path / "report.html").read_text()
    assert f"{('word ' * 20)[:99]}…<" in page
    assert len(page) < 200_000


def test_a_damaged_bundle_costs_the_examples_alone(tmp_path: Path) -> None:
    run = make_reported_run(tmp_path)
    (RunDirectory(run).bundle / "items.parquet").write_bytes(b"")
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "No examples of recmind: " in page
    assert "missing or truncated" in page
    assert '<h2 id="results">' in page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.05, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (20.0, 240.0, [50.0, 100.0, 150.0, 200.0]),
        (-0.03, 0.02, [-0.03, -0.02, -0.01, 0.0, 0.01, 0.02]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)


def test_an_axis_of_shares_has_ticks_between_whole_numbers_and_one_of_epochs_has_none() -> None:
    axes = Axes("title", "x", "y")
    ends = ((0.0, 1.0), (1.0, 2.0))
    of_shares = line_chart(axes, {"a": [(0.25, 5.0), *ends]})
    of_epochs = line_chart(axes, {"a": list(ends)})
    assert ">0.4<" in of_shares
    assert ">0.4<" not in of_epochs


def test_every_group_has_its_name_where_there_is_no_room_beside_each_other() -> None:
    names = ("Children's", "Documentary", "a very long name of a group", *"abcdefghij")
    drawn = ElementTree.fromstring(bar_chart(Axes("title", "x", "y", names), {"a": [1.0] * 13}))
    shown = [text.text for text in drawn.iter("text") if "rotate(-40)" in str(text.attrib)]
    assert shown == ["Children's", "Documentary", "a very long n…", *"abcdefghij"]
    few = bar_chart(Axes("title", "x", "y", ("cold", "warm")), {"a": [1.0, 2.0]})
    assert "rotate(-40)" not in few


def test_a_run_has_one_colour_in_all_figures() -> None:
    drawn = line_chart(Axes("title", "x", "y"), {"a": [], "b": [(1.0, 2.0), (2.0, 3.0)]})
    [line] = re.findall(r'<g class="(s\d)"><polyline', drawn)
    [legend] = re.findall(r'<g class="(s\d)"><line class="line".*?</g><text [^>]*>b<', drawn)
    assert (line, legend) == ("s1", "s1")
    assert ">a<" not in drawn


def test_charts_of_one_point_equal_values_or_none_are_drawn() -> None:
    axes = Axes("title", "x", "y")
    for lines in ({"a": [(1.0, 0.5)]}, {"a": [(1.0, 0.0), (2.0, 0.0)]}, {"a": [], "b": []}):
        ElementTree.fromstring(line_chart(axes, lines))
    groups = Axes("title", "x", "y", ("cold", "warm"))
    drawn = ElementTree.fromstring(bar_chart(groups, {"a": [None, 0.5], "b": [0.1, 0.2]}))
    assert len([bar for bar in drawn.iter("rect") if bar.find("title") is not None]) == 3
