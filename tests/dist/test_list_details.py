"""Ranks that share users, items and texts describe lists as one rank does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation import list_details
from recmind_dist.evaluation.item_shares import share_items
from recmind_dist.evaluation.list_details import ListDetails, describe_lists
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.evaluation.settings import EvaluationSettings, GroupSettings
from recmind_dist.graph import Graph
from tests.graphs import make_graph, random_pairs
from tests.processes import run_ranks

USERS, ITEMS = 40, 90
SETTINGS = EvaluationSettings(
    ks=(3, 12),
    metric="ndcg@3",
    norm_exponent=0.0,
    groups=GroupSettings(users=("age",), items=("genre", "popularity"), min_users=2),
)


def describe(path: Path, world: int, penalty: float) -> ListDetails:
    """With whole numbers, whose products are exact, and an odd item's text missing."""
    alone = world == 1
    context = DistContext.alone() if alone else DistContext.join_group(torch.device("cpu"))
    list_details.USERS_AT_ONCE = 7
    graph = Graph.open(path)
    drawn = np.random.default_rng(5).integers(-3, 4, (USERS + ITEMS, 4)).astype(np.float32)
    nodes = np.flatnonzero(np.arange(USERS + ITEMS) % 7 % world == context.rank)
    found = evaluate_embeddings(
        torch.from_numpy(drawn[nodes]),
        graph,
        "valid",
        SETTINGS,
        context,
        nodes=nodes,
        penalty=penalty,
        keep_lists=True,
    )
    with_text = nodes[(nodes >= USERS) & (nodes % 2 == 0)]
    unit = torch.nn.functional.normalize(torch.from_numpy(drawn[with_text] + 0.5))
    text = share_items(with_text - USERS, unit, context)
    return describe_lists(found, graph, "valid", SETTINGS, context, text=text)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_lists_and_groups_are_those_of_one_rank(tmp_path: Path, penalty: float) -> None:
    pairs = random_pairs(USERS, ITEMS, 300, seed=4)
    known = set(pairs)
    free = {u: next(i for i in range(u, ITEMS) if (u, i) not in known) for u in range(USERS - 5)}
    path = make_graph(tmp_path, pairs, USERS, ITEMS, valid=sorted(free.items())).path
    one = describe(path, 1, penalty)
    assert {"ild_text@3", "miscalibration@12", "gini@3"} <= one.lists.keys()
    assert set(one.groups["items"]) == {"genre", "popularity"}
    for found in run_ranks(describe, 3, path, 3, penalty):
        assert found.lists == pytest.approx(one.lists, rel=1e-6)
        for side, of_side in one.groups.items():
            for column, groups in of_side.items():
                assert found.groups[side][column].keys() == groups.keys()
                for label, row in groups.items():
                    same = found.groups[side][column][label]
                    assert same["users"] == row["users"]
                    for name, values in row["metrics"].items():
                        assert same["metrics"][name] == pytest.approx(values, rel=1e-6, abs=1e-7)
