"""What ranks of one machine hand each other through shared memory is what a process group would bring."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.parallel import Ranks
from recmind_dist.parallel.mailboxes import Mailboxes
from tests.processes import run_ranks

SIZES = ([3, 1, 0], [0, 0, 2], [400_000, 5, 1], [1, 1, 1], [0, 0, 0], [7, 2, 2])  # a box grows and shrinks
Heard = list[list[np.ndarray]]


def rows_of(rank: int, turn: int, count: int, width: int) -> Tensor:
    return torch.arange(count * width, dtype=torch.int64).view(count, width) + 1000 * rank + 100_000 * turn


def talk(shared_memory: bool) -> tuple[str, Heard, Heard, Heard]:
    """Kind of the way, and what arrived in every turn: sent, sent by index with counts known, shown to all."""
    ranks = Ranks.all_join(torch.device("cpu"), shared_memory=shared_memory)
    way, me = ranks.row_way, ranks.rank
    sent, chosen, shown = [], [], []
    for turn, sizes in enumerate(SIZES):
        counts = np.roll(sizes, me).tolist()  # to rank r: sizes[r - me]
        x = rows_of(me, turn, sum(counts), 3).to(torch.int32)
        sent.append([part.numpy().copy() for part in way.all_send(x, counts)])
        order = torch.arange(sum(counts)).flip(0)
        receive = [int(np.roll(sizes, r)[me]) for r in range(ranks.world_size)]
        chosen.append([part.numpy().copy() for part in way.all_send(x.float(), counts, receive, order)])
        everybody = [sizes[r] for r in range(ranks.world_size)]
        shown.append([part.numpy().copy() for part in way.all_show(x[: sizes[me]], everybody)])
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


def boxes_open_after(turns: int) -> tuple[int, int]:
    """Descriptors of this process before and after so many exchanges of growing and shrinking sizes."""
    ranks = Ranks.all_join(torch.device("cpu"))
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(turns):
        size = [1, 600_000, 10][turn % 3]
        ranks.row_way.all_send(torch.zeros(2 * size, 4), [size, size])
    return before, len(os.listdir("/proc/self/fd"))


def test_boxes_that_are_outgrown_are_given_back() -> None:
    for before, after in run_ranks(boxes_open_after, 2, 30):
        assert after <= before + 6  # two boxes here and two there; Python's mmap holds a descriptor of its own


def seen_by_all() -> tuple[bool, bool]:
    """Whether mailboxes are opened by ranks of one user, and after rank 1 became another."""
    group = dist.new_group(backend="gloo")
    before = Mailboxes.all_open(group) is not None
    if dist.get_rank() == 1:
        os.setuid(65534)
    return before, Mailboxes.all_open(group) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_ranks_that_may_not_see_each_other_take_the_process_group_together() -> None:
    assert run_ranks(seen_by_all, 2) == [(True, False), (True, False)]
