"""The compiled loop of Adam and its torch twin are held together."""

import pytest
import torch

from recmind_dist.kernels.row_adam import AdamRows, row_adam, row_adam_torch

ROWS, DIM = 40, 7


def table() -> AdamRows:
    weight = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    moments = (torch.zeros(ROWS, DIM) for _ in range(2))
    return AdamRows(weight, *moments, torch.zeros(ROWS, dtype=torch.int64))


@pytest.mark.parametrize("divisor", [1, 3])
@pytest.mark.parametrize("part", [True, False])
def test_the_compiled_loop_is_its_torch_twin(part: bool, divisor: int) -> None:
    compiled, twin = table(), table()
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randperm(ROWS, generator=generator)[: ROWS // 2] if part else slice(None)
        grad = torch.randn(ROWS // 2 if part else ROWS, DIM, generator=generator)
        order = torch.argsort(rows) if isinstance(rows, torch.Tensor) else None
        row_adam(compiled, rows, grad, 0.03, order, divisor)
        row_adam_torch(twin, rows, grad / divisor, 0.03)
    assert torch.equal(compiled.steps, twin.steps)
    for name in ("weight", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            getattr(compiled, name), getattr(twin, name), rtol=1e-5, atol=1e-6
        )
