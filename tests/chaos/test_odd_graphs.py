"""Row 18: graphs at the edge of what a graph is. No hang, no NaN, and the same course on one rank
and on two.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.graph import Graph, GraphSettings, prepare_graph
from recmind_dist.ingest import DatasetSettings, ingest_dataset
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler
from recmind_dist.training.run_stores import RunStores
from tests.chaos.conftest import chaos_config
from tests.chaos.group import content, run_to_end
from tests.graphs import make_graph, random_pairs
from tests.training_runs import curve_of

HUB_EDGES = 1_000_000


def odd_pairs() -> list[tuple[int, int]]:
    """60 users, 30 items; users 50 and up and items 25 and up have no edge at all: isolated users,
    cold items.
    """
    return random_pairs(50, 25, 400)


def test_row_18_isolated_nodes_cold_items_and_a_hub_train_alike_on_one_and_two_ranks(
    tmp_path: Path,
) -> None:
    pairs = sorted({*odd_pairs(), *((user, 0) for user in range(49))})
    graph = make_graph(tmp_path, pairs, 60, 30, valid=[(49, 0), (55, 28)], num_parts=2)
    assert (graph.degree == 0).sum() >= 10
    curves = [train(tmp_path, RunStores(graph.path), f"world-{world}", world) for world in (1, 2)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert all(torch.isfinite(value).all() for value in content(tmp_path / "world-2").values())


def test_row_18_a_rank_that_owns_almost_nothing_takes_part(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(3, 3, 5), 3, 3, valid=[], num_parts=4)
    curves = [
        train(tmp_path, RunStores(graph.path), f"world-{world}", world, batch_size=4)
        for world in (1, 4)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def train(
    home: Path, inputs: RunStores, run: str, world_size: int, batch_size: int = 96
) -> list[float]:
    plain = {"kind": "lightgcn"}
    changes: dict[str, Any] = {
        "model": plain,
        "loss": {"kind": "bpr"},
        "alignment": {"weight": 0.0},
        "train": {"batch_size": batch_size, "epochs": 2},
    }
    config = chaos_config(home, run, **changes)
    run_to_end(config, inputs, starts=1, world_size=world_size)
    return [record["loss"] for record in curve_of(config.run_dir)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A million users who all have item 0, and every hundredth another item."""
    home = tmp_path_factory.mktemp("hub")
    rows = [f"{user},0,{user}\n" for user in range(HUB_EDGES)]
    rows += [f"{user},{1 + user // 100 % 50},{user}\n" for user in range(0, HUB_EDGES, 100)]
    (home / "log.csv").write_text("user,item,time\n" + "".join(rows))
    dataset = ingest_dataset(
        DatasetSettings(name="hub", interactions=home / "log.csv"), home / "cache"
    )  # type: ignore[arg-type]
    settings = GraphSettings.model_validate(
        {"split": "global-time", "valid_share": 0, "test_share": 0.001}
    )
    return Graph.open(prepare_graph(dataset, settings, home / "cache"))


@pytest.mark.chaos_slow
def test_row_18_a_hub_of_a_million_edges_samples_evenly_and_trains(
    hub: Graph, tmp_path: Path
) -> None:
    node, count = int(np.argmax(hub.degree)), 20_000
    assert hub.degree[node] > 0.99 * HUB_EDGES
    sampled = NumbaNeighborSampler(hub, (count,)).sample(np.array([node]), key=5)
    found = sampled.n_id[sampled.hops[0].indices.numpy()]
    assert len(np.unique(found)) == len(found) == count
    tenths = np.bincount(
        np.searchsorted(hub.indices[hub.indptr[node] : hub.indptr[node + 1]], found)
        * 10
        // int(hub.degree[node]),
        minlength=10,
    )
    assert np.abs(tenths - count / 10).max() < 6 * np.sqrt(count / 10), (
        "each tenth of the hub's users is as likely"
    )
    losses = train(tmp_path, RunStores(hub.path), "hub", 1, batch_size=400_000)
    assert len(losses) == 6
    assert np.isfinite(losses).all()
