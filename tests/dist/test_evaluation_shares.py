"""Users rank items that others own: ids, metrics and a sample's are those of one rank, whatever the
blocks and the rounds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation import ranking
from recmind_dist.evaluation.item_shares import share_items
from recmind_dist.evaluation.ranking import Evaluation, evaluate_embeddings
from recmind_dist.evaluation.sample import sampled_users
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.graph import Graph, prepare_rows
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.training.model_shard import ModelShard
from tests.graphs import make_graph, random_pairs
from tests.processes import run_ranks
from tests.training_runs import config_of, make_inputs, train_rank

USERS, ITEMS, K = 40, 90, 12
SETTINGS = EvaluationSettings(ks=(3, K), metric="ndcg@3", norm_exponent=0.0)
DEALS = [
    [[0, 1, 0, 1], [1, 0, 1]],
    [[0], [1, 2]],  # rank 0 has all users and no item, the others no user
    [[2, 0, 2, 1, 2], [1, 1, 2]],  # rank 0 has no item
]
"""Owners of users, and of items, by turns."""


def vectors() -> torch.Tensor:
    """Small whole numbers: products are exact, and many scores tie."""
    drawn = np.random.default_rng(5).integers(-1, 2, (USERS + ITEMS, 4))
    return torch.from_numpy(drawn.astype(np.float32))


def owners(deal: list[list[int]]) -> np.ndarray:
    return np.r_[np.resize(deal[0], USERS), np.resize(deal[1], ITEMS)]


def seen_of(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Five items of each user; user 0 has seen all but three."""
    rows = [np.arange(3, ITEMS) if u == 0 else (7 * u + 11 * np.arange(5)) % ITEMS for u in users]
    return np.cumsum([0, *map(len, rows)]), np.concatenate([*rows, []]).astype(np.int32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """All users but the last five have a validation item."""
    pairs = random_pairs(USERS, ITEMS, 300, seed=4)
    known = set(pairs)
    free = {u: next(i for i in range(u, ITEMS) if (u, i) not in known) for u in range(USERS - 5)}
    home = tmp_path_factory.mktemp("graph")
    return make_graph(home, pairs, USERS, ITEMS, valid=sorted(free.items()))


def judge(
    path: Path, deal: list[list[int]], shared_memory: bool
) -> tuple[list[np.ndarray], list[Evaluation]]:
    """This rank's users, and their rankings by blocks of 4 and of 1,000 items; then metrics of all
    users and of a sample of 9, in rounds of 3 users.
    """
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    ranking.USERS_AT_ONCE = 3
    graph, h = Graph.open(path), vectors()
    nodes = np.flatnonzero(owners(deal) == context.rank)
    users, own = nodes[nodes < USERS], h[nodes]
    items = share_items(nodes[len(users) :] - USERS, own[len(users) :], context)
    ranked = [
        items.rank_catalogue(own[: len(users)], K, *seen_of(users), 0.0, block).numpy()
        for block in (4, 1000)
    ]
    judged = [
        evaluate_embeddings(own, graph, "valid", SETTINGS, context, None, None, nodes, sample)
        for sample in (None, sampled_users(graph, "valid", 9, 0))
    ]
    return [users, *ranked], judged


@pytest.mark.parametrize(("deal", "shared_memory"), [*zip(DEALS, (True, True, False), strict=True)])
def test_ranks_that_share_the_items_rank_as_one_does(
    graph: Graph, deal: list[list[int]], shared_memory: bool
) -> None:
    h, alone = vectors(), DistContext.alone()
    world = int(owners(deal).max()) + 1
    expected, _ = rank_items(h[:USERS], h[USERS:], K, *seen_of(np.arange(USERS)))
    assert (expected[0] >= 0).sum() == 3
    answers = run_ranks(judge, world, graph.path, deal, shared_memory)
    for (users, *ranked), _ in answers:
        for ids in ranked:
            np.testing.assert_array_equal(ids, expected[users])
    for k, sample in enumerate((None, sampled_users(graph, "valid", 9, 0))):
        one = evaluate_embeddings(h, graph, "valid", SETTINGS, alone, users=sample)
        judged = np.concatenate([found[k].per_user["user"] for _, found in answers])
        assert sorted(judged) == one.per_user["user"].tolist()
        assert len(judged) == (USERS - 5 if sample is None else 9)
        for _, found in answers:
            assert found[k].metrics == pytest.approx(one.metrics, rel=1e-12)
            assert found[k].strata.keys() == one.strata.keys()


def test_a_sample_is_drawn_by_the_seed_among_those_who_are_judged(graph: Graph) -> None:
    nine = sampled_users(graph, "valid", 9, 0)
    assert nine is not None
    assert (np.diff(nine) > 0).all()
    assert len(nine) == 9
    assert nine.max() < USERS - 5
    assert np.array_equal(nine, sampled_users(graph, "valid", 9, 0))
    assert not np.array_equal(nine, sampled_users(graph, "valid", 9, 1))
    assert sampled_users(graph, "valid", 0, 0) is None
    assert sampled_users(graph, "valid", USERS - 5, 0) is None


@pytest.mark.parametrize(
    ("model", "max_users"),
    [
        ({"kind": "paper"}, 20),
        ({"kind": "recmind", "views": "all", "recent_decay": 0.6}, 20),
        ({"kind": "recmind", "views": "all", "recent_decay": 0.6}, 1),  # of one rank's users
    ],
)
def test_a_run_says_that_a_sample_validated_it_and_at_its_end_asks_all_users(
    tmp_path: Path, model: dict[str, Any], max_users: int
) -> None:
    inputs = make_inputs(tmp_path)
    prepare_rows(inputs.graph)
    config = config_of(
        tmp_path,
        "run",
        graph={"placement": "partitioned"},
        scaling={"num_workers": 2},
        model={"embedding_dim": 8, "gate": {"heldout_share": 0.5}, **model},
        train={"epochs": 2, "warmup_epochs": 0},
        evaluation={"max_users": max_users, "whole_at_end": True, "norm_exponent": 0.0},
    )
    cursor = run_ranks(train_rank, 2, config, inputs, "attempt1")[0]["cursor"]
    run = RunDirectory(config.run_dir)
    records = list(read_metrics(run.metrics, "validation"))
    (whole,) = read_metrics(run.metrics, "whole_validation")
    graph, alone = Graph.open(inputs.graph), DistContext.alone()
    of_users = int(np.count_nonzero(np.diff(graph.held_out("valid").indptr)))
    assert [record["epoch"] for record in records] == [1, 2]
    assert {(record["users"], record["of_users"]) for record in records} == {(max_users, of_users)}
    checkpoint = find_checkpoint(run.checkpoints)
    assert checkpoint is not None
    model = ModelShard(config, inputs, alone)
    model.load_for_inference(checkpoint)
    h, seed = model.final_embeddings().final, config.graph.seed
    for users, said in (
        (None, whole),
        (sampled_users(graph, "valid", max_users, seed), records[-1]),
    ):
        found = evaluate_embeddings(
            h, graph, "valid", config.evaluation, alone, rows=model.rows, users=users
        )
        assert {name: said[name] for name in found.metrics} == pytest.approx(found.metrics)
    assert cursor["metrics"] == {name: records[-1][name] for name in found.metrics}
