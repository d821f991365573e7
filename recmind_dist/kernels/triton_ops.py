"""Triton kernels of draws. Their torch twins say what they compute.

Imported on CUDA alone (`triton_loader`). A program handles a block of rows; each constant of a
kernel is in capitals.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:  # which imports this module
    from recmind_dist.kernels.device_draws import Pool

ROWS_EACH = 128  # rows of a program that draws
EDGES_EACH = 512  # edges of a program that names or weighs them
_PAIRS = 128  # pairs of a program that draws negatives


@triton.jit
def _mix64(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _word(key, counter):  # type: ignore[no-untyped-def]
    return _mix64(key + _mix64(counter + 0x9E3779B97F4A7C15))


@triton.jit
def draw_floyd(key, node, left, want, column, FAN_OUT: tl.constexpr):  # type: ignore[no-untyped-def]
    """`want` distinct numbers in [0, left) of each row, in its first columns."""
    draw = _word(key, node.to(tl.uint64))
    top = (left - want)[:, None] + column[None, :]
    word = _mix64(draw[:, None] + column.to(tl.uint64)[None, :] * 0x9E3779B97F4A7C15)
    position = (((word >> 32) * (top + 1).to(tl.uint64)) >> 32).to(tl.int64)
    position = tl.where((want == left)[:, None], column.to(tl.int64)[None, :], position)
    for j in range(1, FAN_OUT):
        own = tl.sum(tl.where(column[None, :] == j, position, 0), 1)
        same = (column[None, :] < j) & (position == own[:, None])
        seen = tl.max(same.to(tl.int32), 1) > 0
        position = tl.where((column[None, :] == j) & seen[:, None], top, position)
    return position


@triton.jit
def bisect(values, low, high, target, open_):  # type: ignore[no-untyped-def]
    """The first place in [low, high) of ascending values that is above the target; `low` where it
    is not asked (`open_`).
    """
    while tl.max((open_ & (low < high)).to(tl.int32), 0) > 0:
        middle = (low + high) // 2
        going = open_ & (low < high)
        right = going & (tl.load(values + middle, mask=going, other=0) <= target)
        low = tl.where(right, middle + 1, low)
        high = tl.where(going & (right == 0), middle, high)
    return low


@triton.jit
def skip_masked(  # type: ignore[no-untyped-def]
    start, position, first, masked, before, here, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Entries of the visible neighbours at these positions, see `MaskedEntries.skipped`."""
    low = first[:, None] + tl.zeros([ROWS, WIDTH], tl.int64)
    high = low + masked[:, None]
    target = start[:, None] + position - first[:, None]
    while tl.max(tl.max((here & (low < high)).to(tl.int32), 1), 0) > 0:
        middle = (low + high) // 2
        going = here & (low < high)
        right = going & (tl.load(before + middle, mask=going, other=0) <= target)
        low = tl.where(right, middle + 1, low)
        high = tl.where(going & (right == 0), middle, high)
    return start[:, None] + position + low - first[:, None]


@triton.jit(do_not_specialize=["count", "num_masked"])
def _count_hop(  # type: ignore[no-untyped-def]
    nodes,
    indptr,
    masked,
    num_masked,
    available,
    counts,
    first_masked,
    count,
    FAN_OUT: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    node = tl.load(nodes + row, mask=inside, other=0)
    start = tl.load(indptr + node, mask=inside, other=0)
    stop = tl.load(indptr + node + 1, mask=inside, other=0)
    none = tl.zeros([ROWS], tl.int64)
    first = bisect(masked, none, none + num_masked, start - 1, inside)
    last = bisect(masked, first, none + num_masked, stop - 1, inside)
    left = stop - start - (last - first)
    tl.store(available + row, left, mask=inside)
    tl.store(counts + row, tl.minimum(left, FAN_OUT), mask=inside)
    tl.store(first_masked + row, first, mask=inside)


@triton.jit(do_not_specialize=["key", "count", "num_masked"])
def _draw_hop(  # type: ignore[no-untyped-def]
    nodes,
    indptr,
    indices,
    before,
    num_masked,
    available,
    ends,
    first_masked,
    met_first,
    neighbours,
    edge_row,
    count,
    key,
    FAN_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = row < count
    node = tl.load(nodes + row, mask=inside, other=0)
    left = tl.load(available + row, mask=inside, other=0)
    want = tl.minimum(left, FAN_OUT)
    position = draw_floyd(key.to(tl.uint64), node, left, want, column, FAN_OUT)
    start = tl.load(indptr + node, mask=inside, other=0)
    first = tl.load(first_masked + row, mask=inside, other=0)
    masked = tl.load(indptr + node + 1, mask=inside, other=0) - start - left
    here = (column[None, :] < want[:, None]) & inside[:, None]
    entry = skip_masked(start, position, first, masked, before, here, ROWS, WIDTH)
    neighbour = tl.load(indices + entry, mask=here, other=0)
    end = tl.load(ends + row, mask=inside, other=0)
    edge = (end - want)[:, None] + column[None, :]
    tl.store(neighbours + edge, neighbour, mask=here)
    tl.store(edge_row + edge, row[:, None] + tl.zeros([ROWS, WIDTH], tl.int32), mask=here)
    tl.atomic_min(met_first + neighbour, edge.to(tl.int32), mask=here)


@triton.jit(do_not_specialize=["count"])
def find_new(neighbours, met_first, local_of, is_new, count, EDGES: tl.constexpr):  # type: ignore[no-untyped-def]
    edge = tl.program_id(0) * EDGES + tl.arange(0, EDGES)
    inside = edge < count
    node = tl.load(neighbours + edge, mask=inside, other=-1)
    drawn = node >= 0
    first = tl.load(met_first + node, mask=drawn, other=-1)
    known = tl.load(local_of + node, mask=drawn, other=0)
    tl.store(is_new + edge, ((first == edge) & (known < 0)).to(tl.int32), mask=inside)


@triton.jit(do_not_specialize=["count", "num_nodes"])
def name_new(  # type: ignore[no-untyped-def]
    neighbours,
    is_new,
    place,
    local_of,
    n_id,
    num_nodes,
    count,
    EDGES: tl.constexpr,
    IN_MEMORY: tl.constexpr,
):
    if IN_MEMORY:
        num_nodes = tl.load(num_nodes)
    edge = tl.program_id(0) * EDGES + tl.arange(0, EDGES)
    new = (edge < count) & (tl.load(is_new + edge, mask=edge < count, other=0) > 0)
    node = tl.load(neighbours + edge, mask=new, other=0)
    local = num_nodes + tl.load(place + edge, mask=new, other=0) - 1
    tl.store(local_of + node, local.to(tl.int32), mask=new)
    tl.store(n_id + local, node.to(tl.int64), mask=new)


@triton.jit(do_not_specialize=["count"])
def _weigh(  # type: ignore[no-untyped-def]
    nodes,
    neighbours,
    edge_row,
    available,
    counts,
    degree,
    inverse_root,
    local_of,
    local,
    weight,
    count,
    EDGES: tl.constexpr,
):
    edge = tl.program_id(0) * EDGES + tl.arange(0, EDGES)
    inside = edge < count
    node = tl.load(neighbours + edge, mask=inside, other=0)
    row = tl.load(edge_row + edge, mask=inside, other=0)
    target = tl.load(nodes + row, mask=inside, other=0)
    left = tl.load(available + row, mask=inside, other=1).to(tl.float64)
    drawn = tl.load(counts + row, mask=inside, other=1).to(tl.float64)
    root = tl.sqrt(tl.load(degree + target, mask=inside, other=1).to(tl.float64))
    scale = (left / (drawn * root)).to(tl.float32)
    tl.store(weight + edge, scale * tl.load(inverse_root + node, mask=inside), mask=inside)
    tl.store(local + edge, tl.load(local_of + node, mask=inside, other=0), mask=inside)


@dataclass(frozen=True)
class GraphArrays:
    """A graph on the device and what is masked of it: see `DeviceGraph` and `MaskedEntries`."""

    indptr: Tensor
    indices: Tensor
    degree: Tensor
    inverse_root: Tensor
    masked: Tensor
    before: Tensor


def _sizes_of_hop(nodes: Tensor, graph: GraphArrays, fan_out: int) -> tuple[Tensor, Tensor]:
    """Of each row the edges that are not masked, those that are drawn and the first masked one,
    [3, n]; [n + 1] ends of the rows' drawn edges.
    """
    count = len(nodes)
    sizes = torch.empty(3, count, dtype=torch.int64, device=nodes.device)
    masks = graph.masked, len(graph.masked)
    rows = (triton.cdiv(count, ROWS_EACH),)
    _count_hop[rows](nodes, graph.indptr, *masks, *sizes, count, fan_out, ROWS_EACH)
    indptr = torch.zeros(count + 1, dtype=torch.int64, device=nodes.device)
    torch.cumsum(sizes[1], 0, out=indptr[1:])
    return sizes, indptr


def sample_hop(
    nodes: Tensor,
    graph: GraphArrays,
    fan_out: int,
    key: int,
    local_of: Tensor,
    met_first: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One hop of `DeviceSampler`; the host waits twice.

    Args:
        nodes: [n] global ids by local id.
        key: as int64.
        local_of: [N] int32 local ids, -1 for none; gets those of new nodes.
        met_first: [N] int32, for this function's own use.

    Returns: global ids by local id; [n + 1] ends of the rows' edges, int32; of each edge its row
        and the neighbour's local id, int32, and its weight.
    """
    count, device = len(nodes), nodes.device
    (available, counts, first_masked), indptr = _sizes_of_hop(nodes, graph, fan_out)
    ends, edges = indptr[1:], int(indptr[-1])
    both = torch.empty(4, edges, dtype=torch.int32, device=device)
    neighbours, edge_row, is_new, local = both
    met_first.fill_(torch.iinfo(torch.int32).max)
    width = triton.next_power_of_2(fan_out)
    wide = max(1, min(ROWS_EACH, 2048 // width))
    _draw_hop[(triton.cdiv(count, wide),)](
        nodes,
        graph.indptr,
        graph.indices,
        graph.before,
        len(graph.masked),
        available,
        ends,
        first_masked,
        met_first,
        neighbours,
        edge_row,
        count,
        key,
        fan_out,
        width,
        wide,
    )
    blocks = (max(triton.cdiv(edges, EDGES_EACH), 1),)
    find_new[blocks](neighbours, met_first, local_of, is_new, edges, EDGES_EACH)
    place = torch.cumsum(is_new, 0)
    new = int(place[-1]) if edges else 0
    n_id = torch.cat([nodes, nodes.new_empty(new)])
    name_new[blocks](neighbours, is_new, place, local_of, n_id, count, edges, EDGES_EACH, False)
    weight = torch.empty(edges, dtype=torch.float32, device=device)
    of_nodes = graph.degree, graph.inverse_root, local_of
    _weigh[blocks](
        nodes, neighbours, edge_row, available, counts, *of_nodes, local, weight, edges, EDGES_EACH
    )
    return n_id, indptr.int(), edge_row, local, weight


@triton.jit(do_not_specialize=["key", "count", "drawn_from", "first", "pool_size"])
def _draw_unseen(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    users,
    samples,
    cumulated,
    drawn_from,
    first,
    pool,
    pool_size,
    out,
    count,
    key,
    NUM: tl.constexpr,
    ATTEMPTS: tl.constexpr,
    PAIRS: tl.constexpr,
    IN_MEMORY: tl.constexpr,
):
    if IN_MEMORY:
        key = tl.load(key)
    at = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    inside = at < count
    pair, j = at // NUM, at % NUM
    user = tl.load(users + pair, mask=inside, other=0)
    base = _word(key.to(tl.uint64), tl.load(samples + pair, mask=inside, other=0).to(tl.uint64))
    start = tl.load(indptr + user, mask=inside, other=0)
    stop = tl.load(indptr + user + 1, mask=inside, other=0)
    item = tl.zeros([PAIRS], tl.int64)
    pending = inside
    attempt = 0
    while (attempt < ATTEMPTS) & (tl.max(pending.to(tl.int32), 0) > 0):
        counter = (j * ATTEMPTS + attempt).to(tl.uint64)
        word = _mix64(base + counter * 0x9E3779B97F4A7C15)
        uniform = (word >> 11).to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0)
        if pool_size > 0:
            place = tl.minimum((uniform * pool_size).to(tl.int64), pool_size - 1)
            drawn = tl.load(pool + place, mask=pending, other=0)
        else:
            # the number of chances that are not above
            none = tl.zeros([PAIRS], tl.int64)
            below = bisect(cumulated, none, none + drawn_from, uniform, pending)
            drawn = tl.minimum(below, drawn_from - 1) + first
        item = tl.where(pending, drawn, item)
        at_least = bisect(indices, start, stop, item - 1, pending)
        inside_row = pending & (at_least < stop)
        pending = inside_row & (tl.load(indices + at_least, mask=inside_row, other=-1) == item)
        attempt += 1
    tl.store(out + at, item, mask=inside)


def draw_unseen(
    indptr: Tensor,
    indices: Tensor,
    users: Tensor,
    samples: Tensor,
    pool: "Pool",
    num: int,
    key: int | Tensor,
    attempts: int,
) -> Tensor:
    """See `draws.draw_unseen`; `key` as int64, or in memory."""
    out = torch.empty(len(users), num, dtype=torch.int64, device=users.device)
    count = out.numel()
    if count:
        _draw_unseen[(triton.cdiv(count, _PAIRS),)](
            indptr,
            indices,
            users,
            samples,
            pool.cumulated,
            len(pool.cumulated),
            pool.first,
            pool.items,
            len(pool.items),
            out,
            count,
            key,
            num,
            attempts,
            _PAIRS,
            isinstance(key, Tensor),
        )
    return out
