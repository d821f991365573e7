"""Bytes replayed on one rank are the bytes that real ranks send."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.distributed.traffic import KINDS
from recmind_dist.graph import Graph, prepare_rows
from recmind_dist.pipeline.partition_report import judge_partition
from recmind_dist.pipeline.simulated_traffic import simulate_traffic
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.training.loaders import make_loader
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.training_runs import TEXT_DIM, config_of, make_inputs, train_rank

PLAIN = {"embedding_dim": 8, "kind": "lightgcn"}
RECMIND: dict[str, Any] = {
    "kind": "recmind",
    "text_layers": 2,
    "views": "all",
    "recent_decay": 0.6,
    "gate": {"withheld_items": 0.2, "heldout_share": 0.4, "batch_size": 24},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    found = make_inputs(home)
    prepare_rows(found.graph)
    return found


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"kind": "bpr"}, "graph": {"placement": "partitioned"}},
        {"loss": {"kind": "ssm"}, "graph": {"placement": "partitioned"}},
        {"loss": {"kind": "ssm"}, "graph": {"placement": "replicated"}},
    ],
)
def test_replayed_bytes_are_the_measured_ones(
    home: Path, inputs: RunStores, world: int, changes: dict[str, Any]
) -> None:
    config = config_of(
        home,
        f"run{len(list(home.iterdir()))}",
        **changes,
        model=PLAIN,
        alignment={"weight": 0},
        scaling={"num_workers": world},
        train={"batch_size": 64, "epochs": 1, "warmup_epochs": 0},
    )
    run_ranks(train_rank, world, config, RunStores(inputs.graph), "attempt0")
    [measured] = read_metrics(RunDirectory(config.run_dir).metrics, "traffic")
    found = simulate_traffic(config, Graph.open(inputs.graph), world, steps=1000)
    for kind in KINDS:
        assert found.sent[kind] == pytest.approx(measured[f"{kind}_bytes"], abs=1.0), kind
    assert found.pairs > 0


@pytest.mark.parametrize("world", [1, 2, 4])
def test_rows_that_anybody_needs_are_estimated_from_like_degrees(
    home: Path, inputs: RunStores, world: int
) -> None:
    graph = Graph.open(inputs.graph)
    config = config_of(
        home,
        f"owned{world}",
        model=PLAIN,
        alignment={"weight": 0},
        loss={"kind": "bpr"},
        scaling={"num_workers": world},
        train={"batch_size": 16 * world, "epochs": 1, "warmup_epochs": 0},
    )
    loaders = [make_loader(config, graph, "joint", rank, world).batches(0) for rank in range(world)]
    needed = [
        len(set(np.concatenate([batches.main.n_id.numpy() for batches in together]).tolist()))
        for together in islice(zip(*loaders, strict=True), 4)
    ]
    found = simulate_traffic(config, graph, world, steps=4)
    assert found.owned == pytest.approx(np.mean(needed) / world, rel=0.1)
    assert found.owned <= found.nodes * (1 + 1e-9)
    if world == 1:
        assert found.owned == pytest.approx(found.nodes)


def test_views_of_the_alignment_are_counted_too(home: Path, inputs: RunStores) -> None:
    model = {"embedding_dim": 8, "gate": {"learn_on": "train"}}
    config = config_of(
        home,
        "aligned",
        model=model,
        scaling={"num_workers": 2},
        train={"epochs": 1, "warmup_epochs": 0},
    )
    run_ranks(train_rank, 2, config, inputs, "attempt0")
    [measured] = read_metrics(RunDirectory(config.run_dir).metrics, "traffic")
    found = simulate_traffic(config, Graph.open(inputs.graph), 2, steps=1000)
    for kind in ("ids", "rows", "gradients", "queue"):
        assert found.sent[kind] == pytest.approx(measured[f"{kind}_bytes"], rel=0.05), kind


@pytest.mark.parametrize(
    ("world", "placement", "wire_dtype"),
    [
        (2, "partitioned", "bfloat16"),
        (3, "partitioned", "float32"),
        (2, "replicated", "float32"),
    ],
)
def test_gates_content_and_newest_items_are_replayed_to_the_byte(
    home: Path, inputs: RunStores, world: int, placement: str, wire_dtype: str
) -> None:
    config = config_of(
        home,
        f"recmind-{world}-{placement}",
        model=RECMIND,
        alignment={"weight": 0},
        loss={"kind": "ssm"},
        sampler={"hide_batch_edges": placement == "partitioned"},
        graph={"placement": placement},
        scaling={"num_workers": world, "wire_dtype": wire_dtype},
        train={"batch_size": 64, "epochs": 1, "warmup_epochs": 0},
    )
    run_ranks(train_rank, world, config, inputs, "attempt0")
    [measured] = read_metrics(RunDirectory(config.run_dir).metrics, "traffic")
    found = simulate_traffic(config, Graph.open(inputs.graph), world, steps=1000, text_dim=TEXT_DIM)
    for kind in ("ids", "rows", "gradients"):
        assert found.sent[kind] == pytest.approx(measured[f"{kind}_bytes"], abs=1.0), kind
    [step, *_] = read_metrics(RunDirectory(config.run_dir).metrics, "step")
    assert {"rank", "rank_text", "gate"} <= set(step)


def test_the_report_names_cut_balance_and_remote_rows(home: Path, inputs: RunStores) -> None:
    config = config_of(
        home, "report", model=PLAIN, alignment={"weight": 0}, scaling={"num_workers": 2}
    )
    line = str(judge_partition(config, Graph.open(inputs.graph)))
    assert line.startswith("partition: hash, 2 parts: ")
    assert " % of the edges cut" in line
    assert line.endswith("% of a batch's rows are remote")


def test_remote_rows_are_named_where_gates_learn_from_edges_held_out(
    home: Path, inputs: RunStores
) -> None:
    graph, plain = Graph.open(inputs.graph), {"alignment": {"weight": 0}}
    scaling = {"num_workers": 2}
    config = config_of(home, "gates", model=RECMIND, scaling=scaling, **plain)
    assert config.heldout_gates
    line = str(judge_partition(config, graph))
    found = simulate_traffic(config, graph, 2)
    assert line.endswith(f"; {100 * found.remote / found.nodes:.1f} % of a batch's rows are remote")
    whole = {"propagation": "full"}
    config = config_of(home, "full", model=RECMIND, scaling=scaling, sampler=whole, **plain)
    assert "remote" not in str(judge_partition(config, graph))
