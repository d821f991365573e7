"""What ranks of one machine hand each other through shared memory is what a process group would
bring.
"""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.distributed import grid
from recmind_dist.distributed.context import DistContext, collective
from recmind_dist.distributed.shared_memory import pids_with_readable_memory
from recmind_dist.distributed.transport import Transport
from recmind_dist.errors import WorkerLostError
from tests.processes import run_ranks

# a box grows and shrinks
SIZES = ([3, 1, 0], [0, 0, 2], [400_000, 5, 1], [1, 1, 1], [0, 0, 0], [7, 2, 2])
Heard = list[list[np.ndarray]]


def rows_of(rank: int, turn: int, count: int, width: int) -> Tensor:
    return (
        torch.arange(count * width, dtype=torch.int64).view(count, width)
        + 1000 * rank
        + 100_000 * turn
    )


def talk(shared_memory: bool) -> tuple[str, Heard, Heard, Heard]:
    """Kind of the way, and what arrived in every turn: sent, sent by index with counts known, shown
    to all.
    """
    context = DistContext.join_group(torch.device("cpu"), shared_memory=shared_memory)
    way, me = context.row_transport, context.rank
    sent, chosen, shown = [], [], []
    for turn, sizes in enumerate(SIZES):
        counts = np.roll(sizes, me).tolist()  # to rank r: sizes[r - me]
        x = rows_of(me, turn, sum(counts), 3).to(torch.int32)
        sent.append([part.numpy().copy() for part in way.all_to_all(x, counts)])
        order = torch.arange(sum(counts)).flip(0)
        receive = [int(np.roll(sizes, r)[me]) for r in range(context.world_size)]
        chosen.append(
            [part.numpy().copy() for part in way.all_to_all(x.float(), counts, receive, order)]
        )
        everybody = [sizes[r] for r in range(context.world_size)]
        shown.append([part.numpy().copy() for part in way.all_gather(x[: sizes[me]], everybody)])
    return way.kind, sent, chosen, shown


def test_shared_memory_brings_what_the_process_group_brings() -> None:
    memory, group = run_ranks(talk, 3, True), run_ranks(talk, 3, False)
    assert {answer[0] for answer in memory} == {"shared memory"}
    assert {answer[0] for answer in group} == {"process group"}
    for one, other in zip(memory, group, strict=True):
        for kind in (1, 2, 3):
            for parts, expected in zip(one[kind], other[kind], strict=True):
                assert [part.shape for part in parts] == [part.shape for part in expected]
                assert all(np.array_equal(a, b) for a, b in zip(parts, expected, strict=True))


def in_two_legs() -> tuple[int, int]:
    """What a grid brings is what a process group brings at once. Returns its rows and columns."""
    grid.FROM_RANKS = 4
    context = DistContext.join_group(torch.device("cpu"), shared_memory=False)
    me, legs = context.rank, context.id_transport
    assert legs.grid is not None
    for turn, sizes in enumerate(([3, 1, 0, 2, 0, 1], [0] * 6, [0, 0, 90_000, 0, 5, 1])):
        send = np.roll(sizes, me).tolist()
        x = rows_of(me, turn, sum(send), 3).to(torch.int32)
        expected, counts = Transport(me).all_to_all_single(x, send)
        found, found_counts = legs.all_to_all_single(x, send)
        assert found_counts == counts
        assert torch.equal(found, expected)
        back = torch.arange(len(x)).flip(0)
        chosen = context.lookup_transport.start_all_to_all(x, send, counts, back).wait()
        [*others] = Transport(me).all_to_all(x, send, counts, back)
        assert all(torch.equal(a, b) for a, b in zip(chosen, others, strict=True))
    total = context.all_reduce(torch.tensor([1.0 + me, 2.0**me]))
    assert total.tolist() == [21.0, 63.0]
    return legs.grid.column.size(), legs.grid.row.size()


def test_two_legs_along_rows_and_columns_bring_what_one_exchange_brings() -> None:
    assert run_ranks(in_two_legs, 6) == [(3, 2)] * 6


def boxes_after(turns: int) -> tuple[int, int, list[int]]:
    """Descriptors of this process before and after so many exchanges, and how large its boxes are
    in the end.
    """
    context = DistContext.join_group(torch.device("cpu"))
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(turns):
        size = [600_000, 10, 1][turn % 3] if turn < turns // 2 else 1
        context.row_transport.all_to_all(torch.zeros(2 * size, 4), [size, size])
    opened = len(os.listdir("/proc/self/fd"))
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return (
        before,
        opened,
        [os.stat(name).st_size for name in names if "recmind-mailbox" in _target(name)],
    )


def _target(name: str) -> str:
    try:
        return os.readlink(name)
    except OSError:  # the listing's own
        return ""


def test_boxes_are_kept_while_sizes_alternate_and_given_back_when_they_stay_small() -> None:
    for before, after, sizes in run_ranks(boxes_after, 2, 30):  # small for 15 exchanges in a row
        # two boxes here and two there; Python's mmap holds a descriptor of its own
        assert after <= before + 6
        assert max(sizes) > 19_000_000
    for before, after, sizes in run_ranks(boxes_after, 2, 300):
        assert after <= before + 6
        assert max(sizes) < 3_000_000


def bytes_of_boxes() -> int:
    """What the system holds for the boxes that this process has open, its own and its peers'."""
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(512 * os.stat(x).st_blocks for x in names if "recmind-mailbox" in _target(x))


def boxes_given_back() -> tuple[int, int, list[float]]:
    """Bytes of the boxes before and after, and what the next two exchanges bring from each rank."""
    context = DistContext.join_group(torch.device("cpu"))
    x, found = torch.full((20_000, 64), context.rank + 1.0), []
    for _ in range(2):
        context.row_transport.all_to_all(x, [10_000, 10_000])
    before = bytes_of_boxes()
    context.give_back_boxes()
    context.barrier()
    after = bytes_of_boxes()
    context.barrier()
    for factor in (1.0, 3.0):
        parts = context.row_transport.all_to_all(factor * x, [10_000, 10_000])
        found += [float(part.mean()) for part in parts if float(part.std()) == 0.0]
    context.barrier()
    return before, after, found


def test_boxes_that_are_given_back_take_no_memory_until_they_are_written_again() -> None:
    for before, after, found in run_ranks(boxes_given_back, 2):
        assert before > 10_000_000
        assert after == 0
        assert found == [1.0, 2.0, 3.0, 6.0]


def without_memory_of_its_own() -> str:
    """The kind of way where rank 1's system has no such call."""
    if dist.get_rank() == 1:
        del os.memfd_create
    return DistContext.join_group(torch.device("cpu")).row_transport.kind


def test_one_rank_without_shared_memory_is_a_process_group_for_all() -> None:
    assert run_ranks(without_memory_of_its_own, 2) == ["process group"] * 2


def after_memory_is_gone() -> str:
    """What rank 0 is told when rank 1's box went with it before it was opened."""
    context = DistContext.join_group(torch.device("cpu"))
    pending = context.row_transport.start_all_to_all(torch.zeros(4, 2), [2, 2])
    if context.rank == 1:
        for name in os.listdir("/proc/self/fd"):
            if "recmind-mailbox" in _target(f"/proc/self/fd/{name}"):
                os.close(int(name))
        dist.barrier()
        return ""
    dist.barrier()
    try:
        with collective("the exchange of rows"):
            pending.wait()
    except WorkerLostError as error:
        return str(error)
    return "nothing"


def test_memory_that_is_gone_is_a_lost_worker() -> None:
    assert "rank 1 is gone" in run_ranks(after_memory_is_gone, 2)[0]


def seen_by_all() -> tuple[bool, bool]:
    """Whether mailboxes are opened by ranks of one user, and after rank 1 became another."""
    group = dist.new_group(backend="gloo")
    before = pids_with_readable_memory(group) is not None
    if dist.get_rank() == 1:
        os.setuid(65534)
    return before, pids_with_readable_memory(group) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_ranks_that_may_not_see_each_other_take_the_process_group_together() -> None:
    assert run_ranks(seen_by_all, 2) == [(True, False), (True, False)]
