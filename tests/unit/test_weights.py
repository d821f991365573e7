"""`dataset.weights`: what an interaction weighs, from the log to the loss."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.errors import ConfigError, DataError
from recmind_dist.graph import Graph, GraphSettings, prepare_graph
from recmind_dist.ingest import DatasetSettings, ingest_dataset
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.settings import SamplerSettings
from recmind_dist.training.evaluate import evaluate_popularity_run, what_was_read

ROWS = [
    ("a", "x", 1, "view", 2),
    ("a", "y", 2, "view", 5),
    ("a", "x", 3, "buy", 4),
    ("b", "x", 4, "cart", 1),
    ("b", "z", 5, "view", 8),
    ("c", "z", 6, "buy", 3),
]
EVENTS = {"view": 1, "cart": 3, "buy": 10}


def graph_of(home: Path, weights: Any, suffix: str = "csv", split: str = "none") -> Graph:
    names = ("user", "item", "time", "event", "plays")
    lines = [",".join(names), *(",".join(map(str, row)) for row in ROWS)]
    if suffix == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in ROWS]
    log = home / f"log.{suffix}"
    log.write_text("\n".join(lines) + "\n")
    settings = DatasetSettings.model_validate(
        {"name": "w", "interactions": log, "weights": weights}
    )
    dataset = ingest_dataset(settings, home / "cache")
    split_settings = GraphSettings.model_validate({"split": split})
    return Graph.open(prepare_graph(dataset, split_settings, home / "cache"))


def by_pair(graph: Graph) -> dict[str, float]:
    """User and item, as "ax" → weight."""
    assert graph.edge_weight is not None
    users = np.repeat(np.arange(graph.num_users), np.diff(graph.indptr[: graph.num_users + 1]))
    items = graph.indices[: graph.num_edges] - graph.num_users
    names = [
        graph.user_ids[int(u)] + graph.item_ids[int(i)] for u, i in zip(users, items, strict=True)
    ]
    return dict(zip(names, graph.edge_weight.tolist(), strict=True))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({"column": "event", "values": EVENTS}, {"ax": 10, "ay": 1, "bx": 3, "bz": 1, "cz": 10}),
        ({"column": "plays"}, {"ax": 6, "ay": 5, "bx": 1, "bz": 8, "cz": 3}),
        (
            {"column": "plays", "values": "log"},
            {
                k: float(np.log1p(v))
                for k, v in {"ax": 6, "ay": 5, "bx": 1, "bz": 8, "cz": 3}.items()
            },
        ),
    ],
)
def test_edges_weigh_what_their_rows_say(
    tmp_path: Path, suffix: str, weights: Any, wanted: dict[str, float]
) -> None:
    found = by_pair(graph_of(tmp_path, weights, suffix))
    mean = sum(wanted.values()) / len(wanted)
    assert found == pytest.approx({pair: weight / mean for pair, weight in wanted.items()})


def test_without_weights_nothing_changes(tmp_path: Path) -> None:
    assert graph_of(tmp_path, None).edge_weight is None
    settings = DatasetSettings.model_validate({"name": "w", "interactions": "log.csv"})
    assert "weights" not in settings.content()  # or every cached data set would be made anew


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"column": "clicks"}, "no column 'clicks': set dataset.weights.column"),
        ({"column": "event", "values": {"view": 1, "buy": 2}}, "log.csv:5: no number above 0"),
        ({"column": "event"}, "log.csv:2: no number above 0"),
    ],
)
def test_rows_without_a_weight_are_refused(tmp_path: Path, weights: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        graph_of(tmp_path, weights)


@pytest.mark.parametrize("values", [{"view": 0}, {}, {"view": -1}, "square"])
def test_weights_that_are_none_are_refused_by_the_config(values: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        DatasetSettings.model_validate(
            {"name": "w", "interactions": "x.csv", "weights": {"column": "e", "values": values}}
        )


def test_where_weights_are_not_used_they_are_refused() -> None:
    dataset = {"name": "w", "interactions": "x.csv", "weights": {"column": "plays"}}
    with pytest.raises(ValueError, match="weights are not streamed"):
        DatasetSettings.model_validate(dataset | {"memory_mb": 64})
    graph = {"placement": "partitioned"}
    with pytest.raises((ValueError, ConfigError), match=r"set graph\.placement: replicated"):
        RunConfig.model_validate({"dataset": dataset, "graph": graph})


@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_has_the_weights_of_its_pairs(tmp_path: Path, on_device: bool) -> None:
    graph = graph_of(tmp_path, {"column": "plays"})
    settings = SamplerSettings.model_validate({"propagation": "full"})
    options: dict[str, Any] = {"heldout": np.array([2]), "gate_batch_size": 3}
    if on_device:
        loader: NeighborLoader = DeviceLoader(
            graph, settings, 2, device=torch.device("cpu"), **options
        )
    else:
        loader = NeighborLoader(graph, settings, 2, **options)
    wanted, seen = by_pair(graph), 0
    for step in loader.batches(0):
        for batch in filter(None, (step.main, step.gate)):
            assert batch.pair_weight is not None
            users, items = batch.pairs.tolist()
            names = [
                graph.user_ids[u] + graph.item_ids[i - graph.num_users]
                for u, i in zip(users, items, strict=True)
            ]
            assert batch.pair_weight.tolist() == [wanted[name] for name in names]
            seen += len(names)
    assert seen == 4 + 3 * loader.steps_per_epoch


def test_results_keep_what_was_read(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, {"column": "plays"}, split="leave-one-out")
    config = RunConfig.model_validate(
        {
            "variant": "popularity",
            "run_dir": tmp_path / "run",
            "dataset": {"name": "w", "interactions": tmp_path / "log.csv"},
        }
    )
    run = RunDirectory(config.run_dir)
    results = evaluate_popularity_run(config, graph.path, run)
    assert run.read_results()["data"] == results["data"]
    assert results["data"]["counts"]["rows_in"] == len(ROWS)
    assert results["data"]["counts"]["repeats_collapsed"] == 1
    assert results["data"]["columns"]["time"] == "time"
    assert results["data"]["examples"] == {"repeats_collapsed": "row 3: a with x"}
    assert results["data"]["event_unused"] == "event"
    assert results["data"]["warnings"] == []
    shutil.rmtree(graph.dataset)
    assert what_was_read(graph) == {}
