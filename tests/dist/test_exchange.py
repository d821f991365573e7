"""Rows fetched over real processes are plain indexing, forward and backward."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.distributed import transport
from recmind_dist.distributed.all_gather import all_gather_rows, rows_by_rank
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from tests.processes import run_ranks

ROWS, COLUMNS = 11, 3
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]


def whole_table() -> Tensor:
    return torch.arange(ROWS * COLUMNS, dtype=torch.float32).view(ROWS, COLUMNS).sin()


def fetch(bounds: list[int], wanted: list[list[int]], shared_memory: bool) -> Answer:
    """Rows fetched, this rank's gradient of its own rows, and the rows of its shard that anybody
    needed.
    """
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    start, stop = bounds[context.rank : context.rank + 2]
    table = whole_table()[start:stop].contiguous()
    exchange = RowExchange(np.array(bounds), context, table=table)
    plan = exchange.plan_lookup(np.array(wanted[context.rank], dtype=np.int64))
    owned = whole_table()[start + plan.local_rows].requires_grad_()
    rows = exchange.lookup(owned, plan)
    (rows * weights(wanted[context.rank], context.rank)).sum().backward()
    assert owned.grad is not None
    leaf = torch.full((1, 1), np.nan).expand(owned.shape).requires_grad_()
    in_place = exchange.lookup_from_table(leaf, plan)  # the same rows without a copy at their owner
    (in_place * weights(wanted[context.rank], context.rank)).sum().backward()
    assert torch.equal(in_place, rows)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, owned.grad)
    return rows.detach().numpy(), owned.grad.numpy(), (start + plan.local_rows).numpy()


def fetch_bfloat16(wanted: list[list[int]], shared_memory: bool) -> Answer:
    """As `fetch`, in bfloat16 on the wire."""
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    bounds = [0, 4, 11]
    start, stop = bounds[context.rank : context.rank + 2]
    table = whole_table()[start:stop].contiguous()
    exchange = RowExchange(np.array(bounds), context, table, torch.bfloat16)
    plan = exchange.plan_lookup(np.array(wanted[context.rank], dtype=np.int64))
    leaf = torch.full((1, 1), np.nan).expand(len(plan.local_rows), COLUMNS).requires_grad_()
    rows = exchange.lookup_from_table(leaf, plan)
    rank_weight = 1.0 + 2.0**-7 * (context.rank + 1)  # exact in bfloat16, sums are not
    (rank_weight * rows.sum()).backward()
    assert leaf.grad is not None
    return rows.detach().numpy(), leaf.grad.numpy(), (start + plan.local_rows).numpy()


@pytest.mark.parametrize("shared_memory", [True, False])
def test_bfloat16_rounds_rows_of_other_ranks_and_sums_gradients_in_float32(
    shared_memory: bool,
) -> None:
    wanted = [[9, 1, 5, 0], [1, 10]]
    answers: list[Answer] = run_ranks(fetch_bfloat16, 2, wanted, shared_memory)
    rounded = whole_table().bfloat16().float()
    for rank, (rows, _, _) in enumerate(answers):
        for row, found in zip(wanted[rank], rows, strict=True):
            own = (row < 4) == (rank == 0)
            expected = (whole_table() if own else rounded)[row]
            np.testing.assert_array_equal(found, expected)
    gradient = np.zeros(ROWS, np.float32)
    for rank, rows in enumerate(wanted):
        gradient[rows] += 1.0 + 2.0**-7 * (rank + 1)
    for _, grad, needed in answers:
        np.testing.assert_array_equal(grad, np.repeat(gradient[needed, None], COLUMNS, 1))


def weights(wanted: list[int], rank: int) -> Tensor:
    return (torch.tensor(wanted, dtype=torch.float32)[:, None] + rank + 1) * torch.tensor(
        [1.0, -2.0, 0.5]
    )


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ([0, 11], [[3, 0, 10]]),
        ([0, 4, 11], [[9, 1, 5, 0], [1, 10]]),  # row 1 is needed by both
        ([0, 4, 11], [[], [2, 0, 3]]),  # one rank needs nothing, and nobody needs rank 1's
        ([0, 4, 4, 11], [[4, 3, 10], [3, 4], []]),  # rank 1 owns nothing
        ([0, 2, 7, 11], [[], [], []]),
    ],
)
def test_fetching_rows_is_indexing_forward_and_backward(
    bounds: list[int], wanted: list[list[int]], shared_memory: bool
) -> None:
    answers: list[Answer] = run_ranks(fetch, len(wanted), bounds, wanted, shared_memory)
    gradient = torch.zeros(ROWS, COLUMNS)
    for rank, (rows, _, _) in enumerate(answers):
        np.testing.assert_array_equal(rows, whole_table()[wanted[rank]].reshape(-1, COLUMNS))
        gradient.index_add_(
            0, torch.tensor(wanted[rank], dtype=torch.int64), weights(wanted[rank], rank)
        )
    for rank, (_, grad, needed) in enumerate(answers):
        np.testing.assert_allclose(grad, gradient[needed], atol=1e-6)
        assert len(set(needed.tolist())) == len(needed)
        assert all(bounds[rank] <= row < bounds[rank + 1] for row in needed)
    assert sorted(np.concatenate([needed for _, _, needed in answers])) == sorted(
        {row for rows in wanted for row in rows}
    )


def gather(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    context = DistContext.join_group(torch.device("cpu"))
    x = (torch.arange(counts[context.rank] * 2.0).view(-1, 2) + 100 * context.rank).requires_grad_()
    rows = all_gather_rows(x, counts, context)
    (rows * (context.rank + 1.0) * torch.arange(1.0, len(rows) + 1)[:, None]).sum().backward()
    assert x.grad is not None
    assert float(context.all_reduce(torch.tensor([1.0]))) == len(counts)
    assert context.broadcast_str("attempt-7") == "attempt-7"
    return rows.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("counts", [[3], [2, 0], [0, 1, 4]])
def test_gathered_rows_stand_in_rank_order_and_send_their_gradient_home(counts: list[int]) -> None:
    answers = run_ranks(gather, len(counts), counts)
    expected = np.concatenate(
        [np.arange(n * 2.0).reshape(-1, 2) + 100 * r for r, n in enumerate(counts)]
    )
    before = np.cumsum([0, *counts])
    for rank, (rows, grad) in enumerate(answers):
        np.testing.assert_array_equal(rows, expected)
        places = np.arange(1.0, len(expected) + 1)[before[rank] : before[rank + 1], None]
        total = sum(range(1, len(counts) + 1))
        np.testing.assert_allclose(grad, np.broadcast_to(places * total, grad.shape))


def pass_by(
    counts: list[int], shared_memory: bool, at_once: int = transport.PASSED_BYTES
) -> tuple[list[int], list[np.ndarray], int]:
    """Whose rows passed by, the rows, and how many messages this rank sent for it.

    Args:
        at_once: bytes that pass through shared memory at a time.
    """
    transport.PASSED_BYTES = at_once
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    messages, peers = 0, context.world_size - 1
    together, all_to_all = dist.batch_isend_irecv, dist.all_to_all_single

    def count_sends(operations: list[dist.P2POp]) -> list[dist.Work]:
        nonlocal messages
        messages += sum(operation.op is dist.isend for operation in operations)
        return together(operations)

    def count_all_to_all(*args: object, **kwargs: object) -> object:
        nonlocal messages
        messages += peers
        return all_to_all(*args, **kwargs)

    dist.batch_isend_irecv, dist.all_to_all_single = count_sends, count_all_to_all
    x = torch.arange(counts[context.rank] * 2.0).view(-1, 2) + 100 * context.rank
    found = [(source, rows.numpy().copy()) for source, rows in rows_by_rank(x, counts, context)]
    assert context.traffic.take()["rows"] == peers * x.nbytes
    return [source for source, _ in found], [rows for _, rows in found], messages


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("counts", [[3], [2, 0], [2, 1, 0, 4]])
def test_rows_of_all_ranks_pass_by_in_one_message_to_each(
    counts: list[int], shared_memory: bool
) -> None:
    world = len(counts)
    for rank, (sources, rows, messages) in enumerate(
        run_ranks(pass_by, world, counts, shared_memory)
    ):
        assert sources == [(rank - distance) % world for distance in range(world)]
        for source, found in zip(sources, rows, strict=True):
            expected = np.arange(counts[source] * 2.0).reshape(-1, 2) + 100 * source
            np.testing.assert_array_equal(found, expected)
        assert messages == world - 1


@pytest.mark.parametrize("at_once", [1, 16, 24])
@pytest.mark.parametrize("counts", [[2, 0], [2, 1, 0, 4]])
def test_many_rows_pass_through_shared_memory_part_by_part(counts: list[int], at_once: int) -> None:
    world, parts = len(counts), -(-max(counts) // max(at_once // 8, 1))
    for rank, (sources, rows, messages) in enumerate(
        run_ranks(pass_by, world, counts, True, at_once)
    ):
        assert sources == [(rank - distance) % world for distance in range(world)]
        for source, found in zip(sources, rows, strict=True):
            expected = np.arange(counts[source] * 2.0).reshape(-1, 2) + 100 * source
            np.testing.assert_array_equal(found, expected)
        assert messages == (world - 1) ** 2 * parts  # an all-to-all is a message to each other rank
