"""Triton kernels of hops of fixed shapes. Their torch twin, `padded_batches.sample_hop_torch`,
says what they compute.

Imported on CUDA alone (`triton_loader`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from recmind_dist.kernels.triton_ops import (
    EDGES_EACH,
    ROWS_EACH,
    GraphArrays,
    bisect,
    draw_floyd,
    find_new,
    name_new,
    skip_masked,
)


@triton.jit(do_not_specialize=["num_nodes", "key", "capacity", "num_masked"])
def _draw_padded(  # type: ignore[no-untyped-def]
    nodes,
    num_nodes,
    indptr,
    indices,
    masked,
    before,
    num_masked,
    degree,
    met_first,
    neighbours,
    scale,
    key,
    capacity,
    FAN_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = row < tl.load(num_nodes)
    node = tl.load(nodes + row, mask=inside, other=0)
    start = tl.load(indptr + node, mask=inside, other=0)
    stop = tl.load(indptr + node + 1, mask=inside, other=0)
    none = tl.zeros([ROWS], tl.int64)
    first = bisect(masked, none, none + num_masked, start - 1, inside)
    last = bisect(masked, first, none + num_masked, stop - 1, inside)
    left = stop - start - (last - first)
    want = tl.minimum(left, FAN_OUT)
    position = draw_floyd(tl.load(key).to(tl.uint64), node, left, want, column, FAN_OUT)
    here = (column[None, :] < want[:, None]) & inside[:, None]
    entry = skip_masked(start, position, first, last - first, before, here, ROWS, WIDTH)
    neighbour = tl.load(indices + entry, mask=here, other=-1)
    edge = row[:, None] * FAN_OUT + column[None, :]
    there = (row < capacity)[:, None] & (column < FAN_OUT)[None, :]
    tl.store(neighbours + edge, neighbour, mask=there)
    tl.atomic_min(met_first + neighbour, edge.to(tl.int32), mask=here)
    root = tl.sqrt(tl.load(degree + node, mask=inside, other=1).to(tl.float64))
    of_row = left.to(tl.float64) / (tl.maximum(want, 1).to(tl.float64) * root)
    tl.store(scale + row, tl.where(want > 0, of_row, 0.0).to(tl.float32), mask=row < capacity)


@triton.jit(do_not_specialize=["count"])
def _weigh_padded(  # type: ignore[no-untyped-def]
    neighbours,
    scale,
    inverse_root,
    local_of,
    local,
    weight,
    count,
    FAN_OUT: tl.constexpr,
    EDGES: tl.constexpr,
):
    edge = tl.program_id(0) * EDGES + tl.arange(0, EDGES)
    inside = edge < count
    row = edge // FAN_OUT
    node = tl.load(neighbours + edge, mask=inside, other=-1)
    drawn = node >= 0
    value = tl.load(scale + row, mask=inside, other=0.0)
    value *= tl.load(inverse_root + node, mask=drawn, other=0.0)
    tl.store(weight + edge, value, mask=inside)
    named = tl.load(local_of + node, mask=drawn, other=0)
    tl.store(local + edge, tl.where(drawn, named, row), mask=inside)


def sample_padded_hop(
    n_id: Tensor,
    num_nodes: Tensor,
    rows: int,
    graph: GraphArrays,
    fan_out: int,
    key: Tensor,
    local_of: Tensor,
    met_first: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `padded_batches.sample_hop_torch`."""
    device, edges = n_id.device, rows * fan_out
    neighbours, is_new, local = torch.empty(3, edges, dtype=torch.int32, device=device)
    scale, weight = (
        n_id.new_empty(rows, dtype=torch.float32),
        n_id.new_empty(edges, dtype=torch.float32),
    )
    met_first.fill_(torch.iinfo(torch.int32).max)
    width = triton.next_power_of_2(fan_out)
    wide = max(1, min(ROWS_EACH, 2048 // width))
    _draw_padded[(triton.cdiv(rows, wide),)](
        n_id,
        num_nodes,
        graph.indptr,
        graph.indices,
        graph.masked,
        graph.before,
        len(graph.masked),
        graph.degree,
        met_first,
        neighbours,
        scale,
        key,
        rows,
        fan_out,
        width,
        wide,
    )
    blocks = (triton.cdiv(edges, EDGES_EACH),)
    find_new[blocks](neighbours, met_first, local_of, is_new, edges, EDGES_EACH)
    place = torch.cumsum(is_new, 0)
    name_new[blocks](neighbours, is_new, place, local_of, n_id, num_nodes, edges, EDGES_EACH, True)
    _weigh_padded[blocks](
        neighbours, scale, graph.inverse_root, local_of, local, weight, edges, fan_out, EDGES_EACH
    )
    return local, weight, num_nodes + place[-1:]
