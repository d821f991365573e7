"""Row-wise optimizers against torch's own."""

from collections.abc import Callable

import pytest
import torch

from recmind_dist.embedding import row_optimizer
from recmind_dist.embedding.settings import TableSettings
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.kernels import row_adam
from tests.embedding_tables import CPU, DIM, ROWS, gradient, start, table

STEPS = 25


def factor(step: int) -> float:
    return 1.0 - step / 50


@pytest.mark.parametrize("theirs", [torch.optim.Adam, torch.optim.SparseAdam])
def test_touching_every_row_every_step_is_torchs_adam(
    theirs: Callable[..., torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_adam, "BETA1", 0.8)  # so that few steps show every number at work
    monkeypatch.setattr(row_adam, "BETA2", 0.95)
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


def test_corrections_beyond_the_known_steps_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    known, computed = (table(start(), learning_rate=0.03) for _ in range(2))
    for ours in (known, computed):
        if ours is computed:
            monkeypatch.setattr(row_adam, "_KNOWN_STEPS", 2)
            row_adam._corrections.cache_clear()
        for step in range(5):
            ours.update(torch.arange(ROWS), gradient(step))
    row_adam._corrections.cache_clear()
    assert torch.equal(known.weight, computed.weight)


def test_a_rare_row_gets_its_own_bias_correction() -> None:
    """A row's course depends on its own updates single: as if an Adam of its own had made them."""
    ours = table(start(), learning_rate=0.03)
    single = [torch.nn.Parameter(row.clone()) for row in start()]
    optimizers = [torch.optim.Adam([row], lr=0.03) for row in single]
    for step in range(STEPS):
        rows = torch.tensor([r for r in range(ROWS) if (r + 1) * step % 7 < 3])
        grad = gradient(step)[rows]
        ours.update(rows, grad)
        for row, g in zip(rows.tolist(), grad, strict=True):
            single[row].grad = g
            optimizers[row].step()
    assert torch.allclose(ours.weight, torch.stack(list(single)), atol=1e-6)
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


@pytest.mark.parametrize("in_order", [True, False])
def test_adagrad_of_some_rows_at_a_time_is_the_same(
    in_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    rows = slice(None) if in_order else order
    tables = []
    for block in (ROWS, 2):
        monkeypatch.setattr(row_optimizer, "_BLOCK_ROWS", block)
        tables.append(table(start(), optimizer="adagrad", learning_rate=0.1))
        for step in range(STEPS):
            tables[-1].update(rows, gradient(step), divisor=2)
    whole, in_blocks = tables
    assert torch.equal(whole.weight, in_blocks.weight)
    assert torch.equal(whole.state["sum_sq"], in_blocks.state["sum_sq"])


def test_untouched_rows_and_no_rows_stay_as_they_are() -> None:
    ours = table(start())
    ours.update(torch.tensor([4, 1]), torch.ones(2, DIM))
    ours.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, DIM))
    changed = (ours.weight != start()).any(1)
    assert changed.nonzero()[:, 0].tolist() == [1, 4]
    assert ours.state["exp_avg"].any(1).nonzero()[:, 0].tolist() == [1, 4]


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
