"""`graph.placement: partitioned` trains as `replicated` does, and a worker maps no edges but those
of its own nodes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.graph import EdgeRows, Graph, prepare_rows, row_bounds
from recmind_dist.recommend.recommender import load
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor
from tests.graphs import make_graph, random_pairs
from tests.processes import run_ranks
from tests.training_runs import config_of, curve_of, make_inputs, train_rank

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("partitioned")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    found = make_inputs(home, num_users=90, num_items=60, num_pairs=900)
    prepare_rows(found.graph)
    return found


def assert_like_replicated(
    home: Path, inputs: RunStores, worlds: tuple[int, ...], steps: int, **changes: Any
) -> None:
    """Trains replicated on one rank, then partitioned on others, four of them over the process
    group: losses, table and validation agree.
    """
    name = f"run{len(list(home.iterdir()))}"
    expected: tuple[list[dict[str, Any]], np.ndarray, Any] | None = None
    for world, placement in ((1, "replicated"), *((world, "partitioned") for world in worlds)):
        config = config_of(
            home,
            f"{name}-{placement}-{world}",
            **changes,
            graph={"placement": placement},
            scaling={"num_workers": world, "shared_memory": world < 4},
        )
        shares = run_ranks(train_rank, world, config, inputs, f"attempt{world}")
        nodes = np.concatenate([share["nodes"] for share in shares])
        table = np.concatenate([share["rows"]["weight"] for share in shares])[np.argsort(nodes)]
        found = curve_of(config.run_dir), table, shares[0]["cursor"]["metrics"]
        if expected is None:
            expected = found
            assert len(found[0]) >= steps
            continue
        for ours, theirs in zip(expected[0], found[0], strict=True):
            for term in set(ours) - {"time", "kind", "phase"}:
                assert theirs[term] == pytest.approx(ours[term], rel=TOLERANCE, abs=TOLERANCE), (
                    ours["step"],
                    term,
                )
        np.testing.assert_allclose(found[1], expected[1], atol=2e-4)
        assert found[2] == pytest.approx(expected[2], abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "worlds", "epochs", "steps"), [("ssm", (1, 2), 3, 50), ("bpr", (4,), 1, 20)]
)
def test_steps_with_everything_on(
    home: Path, inputs: RunStores, kind: str, worlds: tuple[int, ...], epochs: int, steps: int
) -> None:
    """Gates on held-out edges, alignment, queue, fallback texts, both phases, shared and paired
    negatives.
    """
    assert_like_replicated(
        home,
        inputs,
        worlds,
        steps,
        loss={"kind": kind, "user_exponent": 0.2},
        train={"batch_size": 64, "epochs": epochs},
        model={"embedding_dim": 8, "gate": {"heldout_share": 0.5, "tail_exponent": 0.2}},
    )


def test_batches_of_users_and_in_batch_negatives(home: Path, inputs: RunStores) -> None:
    assert_like_replicated(
        home,
        inputs,
        (2,),
        8,
        loss={"kind": "bpr"},
        train={"batch_of": "users", "batch_size": 30, "epochs": 3},
        model={"embedding_dim": 8, "gate": {"heldout_share": 0.5}},
        sampler={
            "num_neighbors": [-1, 3],
            "hide_batch_edges": False,
            "negatives": {"kind": "in_batch", "num": 2},
        },
        text={"user_max_tokens": 8},
    )


def test_export_and_test_metrics_are_those_of_the_whole_graph(
    home: Path, inputs: RunStores
) -> None:
    config = config_of(home, "exported", graph={"placement": "partitioned"}, train={"epochs": 1})
    run_ranks(train_rank, 1, config, inputs, "attempt0")
    checkpoint = find_checkpoint(RunDirectory(config.run_dir).checkpoints)
    assert checkpoint is not None
    found = []
    for placement in ("replicated", "partitioned"):
        placed = config.model_copy(
            update={"graph": config.graph.model_copy(update={"placement": placement})}
        )
        model = ModelShard(placed, inputs, DistContext.alone())
        model.load_for_inference(checkpoint)
        h = model.final_embeddings().final
        judged = evaluate_embeddings(
            h, model.graph, "test", config.evaluation, DistContext.alone(), 0.0, model.rows
        )
        write_bundle(model, Cursor(), {}, b"{}", home / "bundle")
        best = [item.item_id for item in load(home / "bundle").recommend("3", 5)]
        found.append((h.numpy(), judged.metrics, judged.per_user["user"].tolist(), best))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1])
    assert found[0][2:] == found[1][2:]


def mapped_bytes(part: str) -> dict[str, int]:
    """Bytes that this process maps of files whose path ends so, by path."""
    found: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5].endswith(part):
            low, high = (int(x, 16) for x in words[0].split("-"))
            found[words[5]] = found.get(words[5], 0) + high - low
    return found


def all_fit_and_look(config: RunConfig, inputs: RunStores, attempt: str) -> dict[str, Any]:
    """As `train`; returns what edges the process maps while it trains."""
    import torch

    from recmind_dist.distributed.context import DistContext
    from recmind_dist.training.trainer import Trainer

    run, seen = RunDirectory(config.run_dir), []
    run.create()

    def report(_: dict[str, Any]) -> None:
        seen.append({**mapped_bytes("indices.npy"), **mapped_bytes("time_rank.npy")})

    worker = Trainer(
        config, inputs, DistContext.join_group(torch.device("cpu")), run, attempt, report, "never"
    )
    worker.train(("warmup", "joint"))
    return {"seen": seen, "edges": len(worker.shard.rows.indices)}


def test_a_worker_maps_its_share_of_the_edges_and_nothing_else(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(300, 200, 16_000), 300, 200, num_parts=4)
    prepare_rows(graph.path)
    plain = {"embedding_dim": 8, "kind": "lightgcn"}
    config = config_of(
        tmp_path,
        "run",
        model=plain,
        alignment={"weight": 0},
        scaling={"num_workers": 4},
        graph={"placement": "partitioned"},
        train={"batch_size": 4096, "epochs": 1},
    )
    found = run_ranks(all_fit_and_look, 4, config, RunStores(graph.path), "attempt4")
    assert sum(rank["edges"] for rank in found) == 2 * graph.num_edges
    page, whole = 4096, 4 * 2 * graph.num_edges
    for rank in found:
        for seen in rank["seen"]:
            training = {path: size for path, size in seen.items() if "valid" not in path}
            rows = str(graph.path) + "-rows"
            assert set(training) <= {f"{rows}/indices.npy", f"{rows}/time_rank.npy"}
            for size in training.values():
                assert size <= 4 * rank["edges"] + 2 * page < whole / 2


def test_edges_that_are_not_mapped_cannot_be_used(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(20, 10, 80), 20, 10)
    with pytest.raises(AssertionError, match="not mapped"):
        _ = Graph.open(graph.path, edges=False).indices.shape


def test_rows_of_another_graph_are_refused(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "a", random_pairs(20, 10, 80), 20, 10)
    other = make_graph(tmp_path / "b", random_pairs(20, 10, 80, seed=2), 20, 10)
    prepare_rows(other.path).rename(graph.path.with_name(graph.path.name + "-rows"))
    with pytest.raises(StoreError, match="of another graph"):
        EdgeRows.share(graph, row_bounds(graph, 1), 0)
    prepare_rows(graph.path)  # makes them anew
    assert (
        EdgeRows.share(graph, row_bounds(graph, 1), 0).nodes.tolist()
        == np.argsort(graph.row_of_node).tolist()
    )


def test_what_a_partitioned_graph_cannot_do_is_refused(tmp_path: Path) -> None:
    for sampler, word in (({"propagation": "full"}, "full"), ({"backend": "pyg"}, "pyg")):
        with pytest.raises(ValueError, match=f"placement: partitioned needs.*{word}"):
            config_of(tmp_path, "run", graph={"placement": "partitioned"}, sampler=sampler)
    assert issubclass(ConfigError, ValueError)


def test_parts_made_for_another_number_of_workers_are_refused(tmp_path: Path) -> None:
    graph = {"placement": "partitioned", "partition": "fennel", "num_parts": 2}
    with pytest.raises(
        ValueError, match=r"scaling\.num_workers 3 does not divide.*set num_parts to a multiple"
    ):
        config_of(tmp_path, "run", graph=graph, scaling={"num_workers": 3})
    for workers in (1, 2, [2, 3]):
        config_of(tmp_path, "run", graph=graph, scaling={"num_workers": workers})


def test_several_parts_make_one_ranks_rows(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(60, 30, 500), 60, 30, num_parts=6, partition="fennel")
    for world in (1, 2, 3, 6):
        assert row_bounds(graph, world).tolist() == graph.part_rows[:: 6 // world].tolist()
    assert row_bounds(graph, 4).tolist() == [0, 22, 45, 67, 90]


def test_edges_that_were_not_prepared_are_asked_for(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(20, 10, 80), 20, 10)
    with pytest.raises(StoreError, match="absent: run `recmind prepare`"):
        EdgeRows.share(graph, row_bounds(graph, 1), 0)
