"""The mean of propagated states against dense matrices: all rows or some, one side alone, any
width, hidden edges, threads.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.graph import Graph, row_bounds
from recmind_dist.kernels.memory import zeros_in_large_pages
from recmind_dist.model.with_rows import with_rows
from recmind_dist.propagation.full_graph import FullPropagation
from tests.graphs import make_graph, random_pairs


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """60 users and 40 items, the last of each without an edge."""
    return make_graph(tmp_path_factory.mktemp("graph"), random_pairs(59, 39, 420, seed=1), 60, 40)


def operator_of(graph: Graph) -> FullPropagation:
    return FullPropagation(
        graph, row_bounds(graph, 1), DistContext.alone(), torch.zeros(graph.num_nodes)
    )


def dense(graph: Graph, operator: FullPropagation, hidden: np.ndarray) -> Tensor:
    """The operator in the order of the table's rows, float64."""
    degree = np.maximum(graph.degree, 1)
    matrix = np.zeros((graph.num_nodes, graph.num_nodes))
    users = np.repeat(np.arange(graph.num_users), graph.degree[: graph.num_users])
    for edge, (u, i) in enumerate(zip(users, graph.indices[: graph.num_edges], strict=True)):
        if edge not in hidden:
            matrix[u, i] = matrix[i, u] = 1 / np.sqrt(degree[u] * degree[i])
    own = operator.own_nodes
    return torch.from_numpy(matrix[np.ix_(own, own)])


def mean_of(matrix: Tensor, x: Tensor, layers: int) -> Tensor:
    states = [x]
    for _ in range(layers):
        states.append(matrix @ states[-1])
    return torch.stack(states).mean(0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dim", [3, 64, 70])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("items_only", [False, True])
def test_mean_and_its_gradient(
    graph: Graph, layers: int, dim: int, items_only: bool, threads: int
) -> None:
    operator = operator_of(graph)
    hidden = np.array([5, 17, 300])
    matrix = dense(graph, operator, hidden)
    generator = torch.Generator().manual_seed(layers)
    whole = torch.randn(graph.num_nodes, dim, generator=generator)
    given = operator.items if items_only else torch.arange(graph.num_nodes)
    x = whole[given].requires_grad_()
    padded = torch.zeros(graph.num_nodes, dim, dtype=torch.float64).index_copy(
        0, given, x.detach().double()
    )
    padded.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (torch.arange(graph.num_nodes), torch.tensor([93, 2, 61, 8])):
            at = operator.positions(torch.from_numpy(hidden))
            ours = operator.mean(at, rows)(x, layers, items_only)
            theirs = mean_of(matrix, padded, layers)[rows]
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
            weight = torch.randn(ours.shape, generator=generator)
            x.grad = padded.grad = None
            (ours * weight).sum().backward()
            (theirs * weight.double()).sum().backward()
            assert x.grad is not None
            assert padded.grad is not None
            torch.testing.assert_close(x.grad.double(), padded.grad[given], rtol=1e-5, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_hidden_edges_are_back_after_a_hop(graph: Graph) -> None:
    operator = operator_of(graph)
    x = torch.randn(graph.num_nodes, 4, generator=torch.Generator().manual_seed(0))
    whole = operator.hop()(x)
    hidden = operator.positions(torch.arange(50))
    assert not torch.equal(operator.hop(hidden)(x), whole)
    assert torch.equal(operator.hop()(x), whole)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_edges_and_rows_that_are_known_ahead_change_nothing(graph: Graph, layers: int) -> None:
    """A gradient's first hop over its own edges alone, and base rows' gradient added in place, one
    batch after the other.
    """
    operator = operator_of(graph)
    generator = torch.Generator().manual_seed(layers)
    # what the first leaves must not show in the second
    for rows in (torch.tensor([93, 2, 61]), torch.tensor([8, 61])):
        x = torch.randn(graph.num_nodes, 5, generator=generator, requires_grad=True)
        weights = torch.randn(2, len(rows), 5, generator=generator)
        edges = operator.edges_from(rows)
        assert edges is not None
        through, base = with_rows(x, rows)
        ours = torch.stack([operator.mean(rows=rows, edges=edges)(through, layers, False), base])
        (ours * weights).sum().backward()
        assert x.grad is not None
        found, x.grad = x.grad, None
        theirs = torch.stack([operator.mean(rows=rows)(x, layers, False), x[rows]])
        (theirs * weights).sum().backward()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        torch.testing.assert_close(found, x.grad, rtol=1e-6, atol=1e-7)


def test_edges_of_most_rows_are_not_looked_for(graph: Graph) -> None:
    assert operator_of(graph).edges_from(torch.arange(graph.num_nodes - 1)) is None


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_arrays_in_large_pages_are_zeros_that_can_be_written(rows: int) -> None:
    found = zeros_in_large_pages(rows, 64, torch.device("cpu"))
    assert found.shape == (rows, 64)
    assert not found.any()
    found += 1
    assert float(found.sum()) == 64 * rows
