"""A gathered matrix is the matrix, whatever the number of ranks."""

import numpy as np
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix
from tests.processes import run_ranks

COUNTS = [4, 0, 7]


def dense() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(9, sum(COUNTS), generator=generator)
    return values * (torch.rand(9, sum(COUNTS), generator=generator) < 0.4)


def sparse(values: torch.Tensor) -> CsrMatrix:
    csr = values.to_sparse_csr()
    arrays = csr.crow_indices().numpy(), csr.col_indices().numpy(), csr.values().numpy()
    return CsrMatrix.of_arrays(*arrays, values.shape[1])


def multiply(entries: list[int], rows: list[int]) -> list[np.ndarray]:
    """Of this rank: the product, that without some entries, that of some rows, and the matrix."""
    context = DistContext.join_group(torch.device("cpu"))
    matrix = GatheredMatrix(sparse(dense()), COUNTS, context)
    x = torch.randn(sum(COUNTS), 3, generator=torch.Generator().manual_seed(1))
    own = x[sum(COUNTS[: context.rank]) : sum(COUNTS[: context.rank + 1])]
    found = [matrix.gather_matmul(own)]
    with matrix.without(torch.tensor(entries)):
        found.append(matrix.gather_matmul(own))
    found += [matrix.gather_matmul(own, wanted=torch.tensor(rows)), matrix.gather_matmul(own)]
    whole = matrix.whole()
    found.append(whole.matmul(torch.eye(whole.num_cols)))
    return [tensor.numpy() for tensor in found]


def test_three_ranks_multiply_as_one_would() -> None:
    values, entries, rows = dense(), [0, 5, 11], [8, 0, 3]
    x = torch.randn(sum(COUNTS), 3, generator=torch.Generator().manual_seed(1))
    fewer = values.clone()
    fewer[tuple(values.nonzero()[entries].T)] = 0.0
    expected = [values @ x, fewer @ x, values[rows] @ x, values @ x, values]
    for found in run_ranks(multiply, 3, entries, rows):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs.numpy(), abs=1e-6)
