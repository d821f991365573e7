"""Steps beside ours on one device: PyG's LightGCN, and plain torch over a CSR that stays there."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.graph import Graph

BATCH = 2048
Step = Callable[[], Tensor]


def pyg_step(graph: Graph, device: torch.device, csr: bool, dim: int, layers: int) -> Step:
    """A step of PyG's LightGCN with its own loss and torch's Adam; returns the loss."""
    from torch_geometric.nn.models import LightGCN
    from torch_geometric.utils import to_torch_csr_tensor

    edges: Any = _both_ways(graph, device)
    if csr:
        edges = to_torch_csr_tensor(edges, size=(graph.num_nodes, graph.num_nodes))
    model = LightGCN(graph.num_nodes, dim, layers).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = _batches(graph, device)

    def step() -> Tensor:
        user, item, negative = next(batches)
        pairs = torch.stack([torch.cat([user, user]), torch.cat([item, negative])])
        optimizer.zero_grad()
        positive, against = model(edges, pairs).chunk(2)
        loss: Tensor = model.recommendation_loss(positive, against, node_id=pairs.unique())
        loss.backward()
        optimizer.step()
        return loss

    return step


def plain_torch_step(graph: Graph, device: torch.device, dim: int, layers: int) -> Step:
    """BPR over `matrix @ x` and torch's fused Adam of all rows; returns the loss."""
    matrix = symmetric_matrix(graph, device)
    table = torch.nn.Parameter(0.1 * torch.randn(graph.num_nodes, dim, device=device))
    optimizer = torch.optim.Adam([table], lr=1e-3, fused=device.type == "cuda")
    batches = _batches(graph, device)

    def step() -> Tensor:
        user, item, negative = next(batches)
        optimizer.zero_grad()
        state, total = table, table
        for _ in range(layers):
            state = SymmetricHop.apply(state, matrix)  # type: ignore[no-untyped-call]
            total = total + state
        h = total / (layers + 1)
        loss = functional.softplus((h[user] * (h[negative] - h[item])).sum(1)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def one_hop_ms(graph: Graph, device: torch.device, dim: int) -> tuple[float, float]:
    """Milliseconds of a hop over all edges, and of its bytes: each gathered row once, at the speed
    of a copy on the device.
    """
    matrix = symmetric_matrix(graph, device)
    x = torch.randn(graph.num_nodes, dim, device=device)
    hop = _median_ms(lambda: matrix @ x, device)
    source = torch.empty(1 << 26 if device.type == "cpu" else 1 << 30, device=device)
    target = torch.empty_like(source)
    copy = _median_ms(lambda: target.copy_(source), device)
    moved = 2 * graph.num_edges * (4 * dim + 8) + graph.num_nodes * (4 * dim + 4)
    return hop, copy * moved / (2 * source.nbytes)


def symmetric_matrix(graph: Graph, device: torch.device) -> Tensor:
    """D^-½ A D^-½ as torch's CSR with int32 indices."""
    indptr = torch.from_numpy(np.array(graph.indptr)).to(device)
    indices = torch.from_numpy(np.array(graph.indices)).to(device)
    root = indptr.diff().clamp(min=1).float().rsqrt()
    row = torch.repeat_interleave(indptr.diff(), output_size=len(indices))
    shape = graph.num_nodes, graph.num_nodes
    weight = root[row] * root[indices]
    return torch.sparse_csr_tensor(indptr.int(), indices, weight, shape, check_invariants=False)


class SymmetricHop(torch.autograd.Function):
    """A symmetric matrix times x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix @ grads[0].contiguous(), None


def _both_ways(graph: Graph, device: torch.device) -> Tensor:
    indptr = torch.from_numpy(np.array(graph.indptr)).to(device)
    indices = torch.from_numpy(np.array(graph.indices)).to(device).long()
    return torch.stack([torch.repeat_interleave(indptr.diff(), output_size=len(indices)), indices])


def _batches(graph: Graph, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    user, item = _both_ways(graph, device)[:, : graph.num_edges]
    order = torch.randperm(graph.num_edges, device=device)
    while True:
        for start in range(0, graph.num_edges - BATCH + 1, BATCH):
            at = order[start : start + BATCH]
            negative = torch.randint(graph.num_users, graph.num_nodes, (BATCH,), device=device)
            yield user[at], item[at], negative


def _median_ms(call: Callable[[], Tensor], device: torch.device, count: int = 20) -> float:
    found = []
    for _ in range(count + 3):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(1000 * (time.perf_counter() - start))
    return float(np.median(found[3:]))
