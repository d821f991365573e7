"""Row-wise optimizers against torch's own, rows in and out, and what one process alone exchanges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.settings import TableSettings
from recmind_dist.embedding import table as parallel_table
from recmind_dist.embedding.exchange import RowExchange, all_gather_rows
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.kernels.row_moves import place_rows, sums_by_row

ROWS, DIM, STEPS = 12, 5, 25
CPU = torch.device("cpu")


def table(start: Tensor | None = None, **settings: object) -> ShardedTable:
    made = ShardedTable((3, 3 + ROWS), 40, DIM, TableSettings.model_validate(settings), CPU)
    if start is not None:
        made.weight.copy_(start)
    return made


def gradient(step: int) -> Tensor:
    """Of very different sizes, with zeros among them."""
    generator = torch.Generator().manual_seed(step)
    g = torch.randn(ROWS, DIM, generator=generator) * 10.0 ** torch.randint(
        -4, 2, (ROWS, 1), generator=generator
    )
    return g * (torch.rand(ROWS, DIM, generator=generator) > 0.2)


def start() -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(99))


def factor(step: int) -> float:
    return 1.0 - step / 50


@pytest.mark.parametrize("theirs", [torch.optim.Adam, torch.optim.SparseAdam])
def test_touching_every_row_every_step_is_torchs_adam(
    theirs: Callable[..., torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel_table, "BETA1", 0.8)  # so that few steps show every number at work
    monkeypatch.setattr(parallel_table, "BETA2", 0.95)
    ours, weight = table(start(), learning_rate=0.03), torch.nn.Parameter(start())
    optimizer = theirs([weight], lr=0.03, betas=(0.8, 0.95), eps=1e-8)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    for step in range(STEPS):
        grad = gradient(step)
        sparse = theirs is torch.optim.SparseAdam
        weight.grad = (
            torch.sparse_coo_tensor(torch.arange(ROWS)[None], grad, grad.shape) if sparse else grad
        )
        optimizer.param_groups[0]["lr"] = 0.03 * factor(step)
        optimizer.step()
        ours.update(order, grad[order], factor(step))
    assert torch.allclose(ours.weight, weight, atol=1e-6)
    assert ours.state["steps"].tolist() == [STEPS] * ROWS


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_the_order_of_rows_changes_no_bit_and_a_divisor_is_a_smaller_gradient(
    optimizer: str,
) -> None:
    rows = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))[: ROWS - 3]
    plain, ordered = (table(start(), optimizer=optimizer, learning_rate=0.03) for _ in range(2))
    for step in range(3):
        grad = gradient(step)[rows]
        plain.update(rows, grad * (1 / 3))
        ordered.update(rows, grad, order=torch.argsort(rows), divisor=3)
    assert torch.equal(plain.weight, ordered.weight)


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


def test_corrections_beyond_the_known_steps_are_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    known, reckoned = (table(start(), learning_rate=0.03) for _ in range(2))
    for ours in (known, reckoned):
        if ours is reckoned:
            monkeypatch.setattr(parallel_table, "_KNOWN_STEPS", 2)
            parallel_table._corrections.cache_clear()
        for step in range(5):
            ours.update(torch.arange(ROWS), gradient(step))
    parallel_table._corrections.cache_clear()
    assert torch.equal(known.weight, reckoned.weight)


def test_a_rare_row_gets_its_own_bias_correction() -> None:
    """A row's course depends on its own updates alone: as if an Adam of its own had made them."""
    ours = table(start(), learning_rate=0.03)
    alone = [torch.nn.Parameter(row.clone()) for row in start()]
    optimizers = [torch.optim.Adam([row], lr=0.03) for row in alone]
    for step in range(STEPS):
        rows = torch.tensor([r for r in range(ROWS) if (r + 1) * step % 7 < 3])
        grad = gradient(step)[rows]
        ours.update(rows, grad)
        for row, g in zip(rows.tolist(), grad, strict=True):
            alone[row].grad = g
            optimizers[row].step()
    assert torch.allclose(ours.weight, torch.stack(list(alone)), atol=1e-6)
    assert len(set(ours.state["steps"].tolist())) > 1


def test_adagrad_keeps_one_number_a_row() -> None:
    ours, expected, total = (
        table(start(), optimizer="adagrad", learning_rate=0.1),
        start().double(),
        torch.zeros(ROWS),
    )
    for step in range(STEPS):
        grad = gradient(step)
        ours.update(torch.arange(ROWS), grad)
        total = total + grad.square().mean(1)
        expected -= 0.1 * grad / (total.sqrt() + 1e-8)[:, None]
    assert torch.allclose(ours.weight.double(), expected, atol=1e-5)
    assert ours.state["sum_sq"].shape == (ROWS,)


def test_untouched_rows_and_no_rows_stay_as_they_are() -> None:
    ours = table(start())
    ours.update(torch.tensor([4, 1]), torch.ones(2, DIM))
    ours.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, DIM))
    changed = (ours.weight != start()).any(1)
    assert changed.nonzero()[:, 0].tolist() == [1, 4]
    assert ours.state["exp_avg"].any(1).nonzero()[:, 0].tolist() == [1, 4]


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


@pytest.mark.parametrize("dim", [1, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_placed_and_summed_as_by_indexing(dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(dim)
    source = torch.randn(90, dim, generator=generator).to(dtype)
    of, to = (
        torch.randint(90, (40,), generator=generator),
        torch.randperm(60, generator=generator)[:40],
    )
    out = torch.randn(60, dim, generator=generator).to(dtype)
    expected = out.clone()
    place_rows(out, to, source, of)
    expected[to] = source[of]
    assert torch.equal(out, expected)
    place_rows(out, to, source[:40].contiguous())
    expected[to] = source[:40]
    assert torch.equal(out, expected)
    nothing = to[:0]
    place_rows(out, nothing, source, nothing)
    assert torch.equal(out, expected)
    first, second = (
        torch.randperm(60, generator=generator)[:50],
        torch.randperm(60, generator=generator)[:30],
    )
    again = torch.cat([second, second])
    found = sums_by_row(
        60,
        [
            (first, source, first + 20),
            (again, source[:60].contiguous(), None),
            (nothing, source[:0], None),
        ],
    )
    expected = torch.zeros(60, dim, dtype=dtype)
    expected[first] = source[first + 20]
    for k, row in enumerate(again):
        expected[row] += source[k]
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if dtype == torch.float32 else 1e-12)


def test_more_threads_make_the_same_update() -> None:
    rows, grad = (
        torch.randperm(20_000, generator=torch.Generator().manual_seed(0)),
        torch.randn(20_000, 4),
    )
    before, weights = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made = ShardedTable((0, 20_000), 20_000, 4, TableSettings(), CPU)
            for _ in range(2):
                made.update(rows, grad)
            weights.append(made.weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*weights)
