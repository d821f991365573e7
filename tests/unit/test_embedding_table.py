"""The table's rows in and out, and the exchange within a single process."""

import numpy as np
import pytest
import torch

from recmind_dist.distributed.all_gather import all_gather_rows
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from tests.embedding_tables import DIM, ROWS, gradient, start, table


def test_gathered_rows_are_a_leaf_of_copies() -> None:
    ours = table(start())
    rows = torch.tensor([4, 0, 4])
    gathered = ours.gather(rows)
    assert torch.equal(gathered, start()[rows])
    assert gathered.is_leaf
    assert gathered.requires_grad
    with torch.no_grad():
        gathered.zero_()
    assert torch.equal(ours.weight, start())


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_rows_saved_and_loaded_go_on_alike(optimizer: str) -> None:
    ours, other = table(start(), optimizer=optimizer), table(optimizer=optimizer)
    for step in range(3):
        ours.update(torch.arange(ROWS), gradient(step))
    rows = {name: value.clone() for name, value in ours.rows().items()}
    assert {len(value) for value in rows.values()} == {ROWS}
    other.load_rows(rows)
    for t in (ours, other):
        t.update(torch.arange(0, ROWS, 2), gradient(3)[::2])
    assert all(
        torch.equal(a, b) for a, b in zip(ours.rows().values(), other.rows().values(), strict=True)
    )
    ours.load_rows(rows)
    assert not torch.equal(ours.weight, other.weight)


def test_gathered_rows_are_a_leaf_that_does_not_touch_the_table() -> None:
    ours = table(start())
    leaf = ours.gather(torch.tensor([2, 0]))
    (leaf * 3).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full((2, DIM), 3.0))
    assert not ours.weight.requires_grad
    assert len(ours) == ROWS


def test_one_process_alone_exchanges_by_indexing() -> None:
    exchange, wanted = RowExchange(np.array([0, 9]), DistContext.alone()), np.array([7, 0, 3])
    plan = exchange.plan_lookup(wanted)
    assert plan.local_rows.tolist() == [7, 0, 3]  # in the order asked for: nothing travels
    content = torch.arange(9.0)[:, None].expand(9, 2)[plan.local_rows].clone().requires_grad_()
    rows = exchange.lookup(content, plan)
    assert rows[:, 0].tolist() == wanted.tolist()
    rows[1].sum().backward()
    assert content.grad is not None
    assert content.grad[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert all_gather_rows(rows, [3], DistContext.alone()) is rows


def test_rows_read_in_place_are_those_of_the_table_and_their_gradients_too() -> None:
    ours = table(start())
    exchange = RowExchange(np.array([0, ROWS]), DistContext.alone(), table=ours.weight)
    plan = exchange.plan_lookup(np.array([4, 0, 3]))
    leaf = ours.grad_placeholder(len(plan.local_rows))
    assert bool(leaf.isnan().all())  # who reads the stand-in instead of the table is found out
    rows = exchange.lookup_from_table(leaf, plan)
    assert torch.equal(rows, ours.weight[[4, 0, 3]])
    (rows * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.is_contiguous()
    assert leaf.grad[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert not ours.weight.requires_grad
