"""What benchmarks share: contenders in turn and in processes, ratios, graphs, the last line."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from benchmarks.accuracy_runs import PLAN, config_of
from benchmarks.cluster_model import (
    RECMIND_NODE_BYTES,
    Exchange,
    Machine,
    Model,
    Network,
    Work,
    memory_bytes,
    occasions,
)
from benchmarks.contenders.process import ContenderProcess
from benchmarks.controls import CONTROLS, GraphAlone, mixed_by
from benchmarks.graphs import PowerLaw
from benchmarks.measure import Report, Spread, interleave
from benchmarks.peers import PUBLISHED, published_epochs
from benchmarks.scale_groups import Scale
from recmind_dist.config.yaml import load_yaml
from recmind_dist.distributed.traffic import KINDS
from recmind_dist.errors import RecmindError
from recmind_dist.model.recmind import RecMind
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.pipeline.simulated_traffic import StepTraffic
from recmind_dist.run_config.load import load_run_config


def test_contenders_take_turns_after_a_round_that_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert found["a"].values == (3.0, 5.0)
    assert found["b"].values == (4.0, 6.0)


def test_ratios_are_taken_round_by_round() -> None:
    # a machine that slows down fivefold between rounds changes both contenders and no ratio
    ratio = Spread((10.0, 2.0, 10.0)).over(Spread((5.0, 1.0, 5.0)))
    assert ratio.values == (2.0, 2.0, 2.0)


def test_the_last_line_is_one_object_that_the_file_holds_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("sampler", quick=True)
    report.add("a graph", "recmind", "M edges/CPU-s", Spread((1.0, 3.0, 2.0)), limit=4.0)
    report.figures.update(medges=2.0, vs_pyg=None)
    report.note("vs_pyg is null: no backend")
    report.publish(tmp_path)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(last) == {"benchmark", "commit", "machine", "figures"}
    assert last["figures"] == {"medges": 2.0, "vs_pyg": None}
    kept = json.loads((tmp_path / "sampler.json").read_text())
    assert (
        kept["rows"][0] | {"median": 2.0, "low": 1.0, "high": 3.0, "limit": 4.0} == kept["rows"][0]
    )
    assert kept["notes"] == ["vs_pyg is null: no backend"]
    assert kept["quick"] is True  # such a file is not taken for that of a whole run


def test_a_power_law_graph_has_its_size_and_a_long_tail(tmp_path: Path) -> None:
    graph = PowerLaw(300, 200, 4000).open(tmp_path)
    assert (graph.num_users, graph.num_items, graph.num_edges) == (300, 200, 4000)
    rows = np.repeat(np.arange(graph.num_nodes), graph.degree)
    assert len(np.unique(rows * graph.num_nodes + graph.indices)) == 8000  # no edge twice
    back = np.sort(graph.indices.astype(np.int64) * graph.num_nodes + rows)
    assert (back == np.sort(rows * graph.num_nodes + graph.indices)).all()  # every edge both ways
    items = np.sort(graph.degree[300:])[::-1]
    assert items[:20].sum() > 2 * items[-60:].sum()
    assert (PowerLaw(300, 200, 4000).open(tmp_path / "again").indices == graph.indices).all()


def test_a_contender_answers_in_its_own_process(tmp_path: Path) -> None:
    script = tmp_path / "contender.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path('benchmarks/contenders').absolute())!r})\n"
        "from protocol import serve\n"
        "print('nor is this')\n"
        "def double(order):\n"
        "    print('what libraries print is no answer')\n"
        "    return {'twice': 2 * order['of']}\n"
        "serve(lambda: {'double': double})\n"
    )
    with ContenderProcess(str(script)) as contender:
        answer = contender.ask("double", of=21)
    assert answer["twice"] == 42
    assert answer["peak_mib"] > 1


def test_a_contender_that_dies_says_why(tmp_path: Path) -> None:
    script = tmp_path / "contender.py"
    script.write_text("raise SystemExit('no such package')\n")
    with pytest.raises(RecmindError, match="contender died with exit code 1: no such package"):
        ContenderProcess(str(script))


def test_every_contender_that_a_benchmark_starts_is_there() -> None:
    started = {
        name
        for path in Path("benchmarks").glob("*.py")
        for name in re.findall(r'"(run_\w+\.py)"', path.read_text())
    }
    assert started == {path.name for path in Path("benchmarks/contenders").glob("run_*.py")}


@pytest.mark.parametrize(("epoch", "recall"), PUBLISHED)
def test_published_epochs_go_through_the_published_points(epoch: int, recall: float) -> None:
    assert published_epochs(recall) == pytest.approx(epoch)
    assert published_epochs(0.17) > published_epochs(0.166)


def batch_of(edges: float, nodes: float, **sent: float) -> StepTraffic:
    return StepTraffic(
        {**dict.fromkeys(KINDS, 0.0), **sent}, nodes, nodes / 2, nodes * 0.8, edges, 100.0
    )


def test_the_clusters_model_finds_the_work_that_it_was_given() -> None:
    edges, nodes = [1e5, 3e5, 6e5, 1e6], [4e4, 9e4, 2e5, 3e5]
    seconds = [2e-7 * e + 1e-6 * n + 0.01 for e, n in zip(edges, nodes, strict=True)]
    work = Work.fit(edges, nodes, seconds)
    assert work.seconds(batch_of(5e5, 1.5e5)) == pytest.approx(2e-7 * 5e5 + 1e-6 * 1.5e5 + 0.01)
    assert Work.fit([1.0, 2.0], [1.0, 2.0], [3.0, 3.0]).fixed == pytest.approx(3.0)


def test_bytes_and_workers_cost_time_and_cores_are_shared() -> None:
    model = Model(
        Work(0, 0, 0.2), Work(0, 0, 0.1), 0.0, Exchange(1e-3, 1e-9), Exchange(1e-3, 2e-9), 2, True
    )
    alone, busy = batch_of(1, 1), batch_of(1, 1, rows=5e7, gradients=5e7, ids=2e7)
    assert model.here(alone, 1, 2) == pytest.approx(0.3)
    assert model.here(busy, 2, 2) == pytest.approx(0.3 + (8 + 3) * 1e-3 + 0.12)
    assert model.here(busy, 4, 2) == pytest.approx(2 * model.here(busy, 2, 2))
    network = Network(gbit_s=8, efficiency=1.0, latency_us=0)
    # the sampler's thread has a core of its own
    assert model.there(alone, 1, network) == pytest.approx(0.2)
    assert model.there(busy, 8, network) == pytest.approx(0.2 + 2 * 0.1 + 0.1)
    slow = Network(gbit_s=8, efficiency=1.0, latency_us=100)
    # a group is told sizes in calls of their own; 127 is prime, and below the ranks with two legs
    paths = model.paths(busy, 127, slow)
    assert paths["sampling"] == pytest.approx(0.1 + 0.04 + 0.02 + 126 * 15 * 1e-4)
    assert paths["training"] == pytest.approx(0.2 + 2 * 0.1 + 0.1 + 126 * 3 * 1e-4)
    # 1001 = 77 × 13 ranks send ids and sums along rows and columns
    paths = model.paths(busy, 1001, slow)
    assert paths["sampling"] == pytest.approx(0.1 + 0.04 + 0.02 + 88 * 15 * 1e-4)
    assert paths["training"] == pytest.approx(0.2 + 2 * 0.1 + 0.1 + (1000 * 2 + 88) * 1e-4)


def test_what_happens_beside_steps_is_reckoned() -> None:
    nothing = Network(gbit_s=8, efficiency=1.0, latency_us=0)
    found = occasions(1e6, 2e5, 1e4, 4, 64, 128, 2, nothing, Machine(1.0, 1.0))
    assert found["checkpoint"] == pytest.approx(1e6 * 776 / 4 / 1e9)
    means = 4 * 8 * 1e6 * 128 * 0.75 / 1e9
    assert found["texts"] == pytest.approx(2e5 * 256 / 4 * (1 + 0.75) / 1e9 + means)
    # of two layers of both views; of items newest views, and content for both means
    states = 1e6 * 4 * (2 * 64 + 2 * 64) + 2e5 * 4 * (2 * 64 + 2 * 128)
    passing = (states + 2e5 * (257 + 2) * 4) * 0.75 / 1e9
    assert found["validation"] == pytest.approx(passing + 2 * 1e4 * 2e5 * 257 / 4 / 1e9)
    slow = Network(gbit_s=8, efficiency=1.0, latency_us=1000)
    late = occasions(1e6, 2e5, 1e4, 4, 64, 128, 2, slow, Machine(1.0, 1.0))
    # two blocks of 64 columns; one block of items; to three ranks each
    assert late["texts"] - found["texts"] == pytest.approx((4 * 2 + 1) * 3 * 1e-3)
    assert late["validation"] - found["validation"] == pytest.approx((4 + 2 + 1) * 3 * 1e-3)


def test_errors_of_all_graphs_are_in_one_list() -> None:
    names = ("bytes_errors", "time_errors", "memory_errors")
    small, large = (SimpleNamespace(**{name: [] for name in names}) for _ in range(2))
    small.time_errors.append(0.2)
    Scale.take_errors(cast("Scale", large), cast("Scale", small))
    large.time_errors.append(0.1)
    assert max(large.time_errors) == 0.2


def test_a_row_of_the_table_costs_its_owner_once() -> None:
    model = Model(Work(0, 0, 0.2), Work(0, 0, 0.1), 1e-6, Exchange(0, 0), Exchange(0, 0), 2, True)
    assert model.here(batch_of(1, 1e5), 1, 2) == pytest.approx(0.3 + 0.08)


def test_a_sampler_with_more_work_on_many_ranks_holds_a_step_back() -> None:
    network = Network(gbit_s=8, efficiency=1.0, latency_us=0)
    costs = Exchange(0, 0), Exchange(0, 2e-9)
    model = Model(Work(0, 0, 0.2), Work(0, 0, 0.1), 0.0, *costs, 2, True, batch_growth=2)
    busy = batch_of(1, 1, ids=2e7)
    # of ids, 40 ms of work and 20 ms on the wire
    assert model.paths(busy, 8, network)["sampling"] == pytest.approx(2 * 0.1 + 0.04 + 0.02)
    assert model.there(busy, 8, network) == pytest.approx(0.26)


def test_memory_of_a_rank_falls_with_workers_but_for_what_stands_by_node() -> None:
    one, many = (memory_bytes(1e8, 1e9, world, 64) for world in (1, 100))
    assert one["edges"] == 100 * many["edges"] == 8e9
    assert one["table"] == 100 * many["table"] == 1e8 * (256 + 512 + 8)
    assert many["nodes"] > 28 * 1e8
    recmind = memory_bytes(1e8, 1e9, 100, 64, text_dim=384)
    assert recmind["texts"] == 1e6 * 4 * 2 * 384
    assert recmind["nodes"] - many["nodes"] == pytest.approx(1e8 * RECMIND_NODE_BYTES)


def test_every_model_that_is_planned_is_a_config_of_today() -> None:
    """A plan that names a deleted key or value would end a bench of hours at its first run."""
    plan = load_yaml(PLAN).values
    for name, bench in plan["benches"].items():
        for model, told in plan["models"][bench["models"]].items():
            words = [*bench.get("overrides", []), *told.get("overrides", [])]
            config = load_run_config(config_of(told, bench), words, told.get("variant", "recmind"))
            assert config.trains or told["variant"] in ("text_only", "popularity"), (name, model)
            assert told.get("control") in CONTROLS, (name, model)


def test_the_control_of_the_gates_leaves_the_graph_alone_while_it_stands() -> None:
    settings = RecMindSettings(embedding_dim=4, num_layers=1, views="all")
    with mixed_by(GraphAlone):
        control = RecMind(settings, 6)
    mine = RecMind(settings, 6)
    views, d, is_user = [torch.randn(5, 4) for _ in range(3)], torch.rand(5), torch.arange(5) < 2
    assert bool((control.mix.gamma(views[0], d, is_user) == 1).all())
    assert bool((mine.mix.gamma(views[0], d, is_user) < 1).all())
    h = control.mix(views, [], d, is_user)
    assert bool(h[:, :4].any(1).all())
    assert not h[:, 4:-1].any()
