"""Means of users' items against the sum written out, with absent edges, and the content view made
of them.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.item_means import content_view, newest_item_views
from tests.graphs import make_graph, random_pairs


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """60 users and 40 items, the last of each without an edge."""
    return make_graph(tmp_path_factory.mktemp("graph"), random_pairs(59, 39, 420, seed=1), 60, 40)


def operator_of(graph: Graph, absent: np.ndarray | None = None) -> FullPropagation:
    return FullPropagation(
        graph, row_bounds(graph, 1), DistContext.alone(), torch.zeros(graph.num_nodes), absent
    )


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_mean_weighs_each_item_by_how_many_newer_ones_the_operator_sees(
    graph: Graph, decay: float
) -> None:
    absent = np.array([3, 40, 41, 200])
    operator = operator_of(graph, absent)
    x = torch.randn(graph.num_nodes, 5, generator=torch.Generator().manual_seed(0))
    found = operator.item_means(decay).means(x)
    for row, node in enumerate(operator.own_nodes):
        expected = torch.zeros(5)
        if node < graph.num_users:
            edges = [
                e for e in range(graph.indptr[node], graph.indptr[node + 1]) if e not in absent
            ]
            context = graph.time_rank[edges]
            weight = [decay ** int(context.max() - rank) for rank in context]
            for e, w in zip(edges, weight, strict=True):
                expected += w / sum(weight) * x[graph.row_of_node[graph.indices[e]]]
        assert torch.allclose(found[row], expected, atol=1e-5), node


def test_content_is_an_items_text_and_the_mean_of_a_users_and_no_user_text(graph: Graph) -> None:
    operator = operator_of(graph)
    text = torch.randn(graph.num_nodes, 7, generator=torch.Generator().manual_seed(1)).half()
    [content], [recent] = content_view(operator, text, 0.5)
    items = normalize(text.float(), dim=1) * (~operator.is_user)[:, None]
    assert torch.allclose(content[operator.items], items[operator.items])
    assert torch.allclose(
        content[operator.is_user], operator.item_means(1.0).means(items)[operator.is_user]
    )
    assert torch.allclose(recent, operator.item_means(0.5).means(items))
    # items' texts are enough
    assert torch.allclose(content_view(operator, text[operator.items], 0.0)[0][0], content)
    assert newest_item_views(operator, [text], 0.0) == []
