"""Sums of gathered rows and their transpose, against dense matrices."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recmind_dist.kernels.gather_sum import CsrMatrix, Hop

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    ),
]


def random_matrix(num_rows: int, num_cols: int, *, weighted: bool, seed: int = 0) -> CsrMatrix:
    """Empty rows, columns that nobody reads, and columns read by many."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, num_rows) * (rng.random(num_rows) < 0.7)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = (rng.random(counts.sum()) ** 2 * num_cols).astype(np.int32)
    weight = rng.normal(size=len(indices)).astype(np.float32) if weighted else None
    return CsrMatrix.of_arrays(indptr, indices, weight, num_cols)


def dense(matrix: CsrMatrix) -> Tensor:
    """[R, C] float64; entries of one place add up."""
    row = np.repeat(np.arange(matrix.num_rows), matrix.indptr.cpu().diff())
    out = np.zeros((matrix.num_rows, matrix.num_cols))
    values = np.ones(len(row)) if matrix.weight is None else matrix.weight.cpu().numpy()
    np.add.at(out, (row, matrix.indices.cpu().numpy()), values)
    return torch.from_numpy(out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dim", [1, 3, 64, 65, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sum_and_its_gradient_are_the_dense_products(
    device: str, weighted: bool, dim: int, dtype: torch.dtype
) -> None:
    matrix = random_matrix(40, 30, weighted=weighted)
    expected = dense(matrix)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, dim, generator=generator).to(dtype)
    grad = torch.randn(40, dim, generator=generator).to(dtype)
    hop = Hop.of(matrix).to(torch.device(device))
    leaf = x.to(device).requires_grad_()
    out = hop(leaf)
    out.backward(grad.to(device))
    tolerance = (
        {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    )
    assert leaf.grad is not None
    assert out.dtype == leaf.grad.dtype == dtype
    torch.testing.assert_close(out.detach().cpu().double(), expected @ x.double(), **tolerance)
    torch.testing.assert_close(leaf.grad.cpu().double(), expected.T @ grad.double(), **tolerance)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_compiled_transpose_is_torchs(weighted: bool, seed: int) -> None:
    matrix = random_matrix(50, 20 + 30 * seed, weighted=weighted, seed=seed)
    compiled, plain = matrix.transposed(), matrix.transposed_by_sort()
    assert torch.equal(compiled.indptr, plain.indptr)
    assert torch.equal(compiled.indices, plain.indices)
    assert compiled.num_cols == plain.num_cols == matrix.num_rows
    if weighted:
        assert compiled.weight is not None
        assert plain.weight is not None
        assert torch.equal(compiled.weight, plain.weight)
    assert torch.equal(dense(compiled), dense(matrix).T)


def test_some_rows_in_another_order() -> None:
    matrix = random_matrix(40, 30, weighted=True)
    rows = torch.tensor([39, 3, 17, 0])
    assert torch.equal(dense(matrix.rows(rows)), dense(matrix)[rows])
    assert matrix.rows(rows[:0]).num_rows == 0


def test_a_matrix_without_entries_sums_to_zero() -> None:
    hop = Hop.of(CsrMatrix.of_arrays(np.zeros(4, np.int64), np.zeros(0, np.int32), None, 0))
    x = torch.ones(0, 2, requires_grad=True)
    out = hop(x)
    assert torch.equal(out, torch.zeros(3, 2))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 2)
