"""A gathered matrix is the matrix, whatever the number of ranks."""

import numpy as np
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation import gathered_matrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix, _Block
from tests.processes import run_ranks

COUNTS = [4, 0, 7]


def dense(empty: list[int]) -> torch.Tensor:
    """A matrix of which these rows have nothing in the columns of rank 0."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(9, sum(COUNTS), generator=generator)
    values *= torch.rand(9, sum(COUNTS), generator=generator) < 0.4
    values[empty, : COUNTS[0]] = 0.0
    return values


def sparse(values: torch.Tensor) -> CsrMatrix:
    csr = values.to_sparse_csr()
    arrays = csr.crow_indices().numpy(), csr.col_indices().numpy(), csr.values().numpy()
    return CsrMatrix.of_arrays(*arrays, values.shape[1])


def row_starts(matrix: GatheredMatrix) -> list[torch.Tensor]:
    """Of all rows, then of each rank's block, with the numbers of its rows where they are few."""
    blocks = matrix._blocks
    rows = [block.rows for block in blocks if block.rows is not None]
    return [matrix._indptr, *(block.matrix.indptr for block in blocks), *rows]


def held_bytes(matrix: GatheredMatrix) -> int:
    """Of the distinct arrays of a matrix."""
    of_blocks = [block.matrix for block in matrix._blocks]
    arrays = [*row_starts(matrix), matrix._weight]
    arrays += [x for m in of_blocks for x in (m.indices, m.weight) if x is not None]
    arrays += [] if matrix._place is None else [matrix._place]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in arrays}
    return sum(storages.values())


def multiply(
    empty: list[int], entries: list[int], rows: list[int], at_once: int
) -> list[np.ndarray]:
    """Of this rank: the product, that without some entries, that of some rows, and the matrix; then
    the products of one that hides nothing.

    Args:
        at_once: entries that are dealt at a time.
    """
    context = DistContext.join_group(torch.device("cpu"))
    gathered_matrix._ENTRIES_AT_ONCE = at_once
    matrix = GatheredMatrix(sparse(dense(empty)), COUNTS, context)
    x = torch.randn(sum(COUNTS), 3, generator=torch.Generator().manual_seed(1))
    own = x[sum(COUNTS[: context.rank]) : sum(COUNTS[: context.rank + 1])]
    found = [matrix.gather_matmul(own)]
    with matrix.without(torch.tensor(entries)):
        found.append(matrix.gather_matmul(own))
    found += [matrix.gather_matmul(own, wanted=torch.tensor(rows)), matrix.gather_matmul(own)]
    whole = matrix.whole()
    found.append(whole.matmul(torch.eye(whole.num_cols)))
    fixed = GatheredMatrix(sparse(dense(empty)), COUNTS, context, fixed=True)
    assert held_bytes(fixed) == 8 * len(whole.indices) + 4 * sum(map(len, row_starts(fixed)))
    found += [fixed.gather_matmul(own), fixed.gather_matmul(own, wanted=torch.tensor(rows))]
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize(("empty", "at_once"), [([], 100), ([1, 2, 4, 5, 6, 7], 100), ([], 4)])
def test_three_ranks_multiply_as_one_would(empty: list[int], at_once: int) -> None:
    values, entries, rows = dense(empty), [0, 5, 11], [8, 0, 3]
    x = torch.randn(sum(COUNTS), 3, generator=torch.Generator().manual_seed(1))
    fewer = values.clone()
    fewer[tuple(values.nonzero()[entries].T)] = 0.0
    expected = [values @ x, fewer @ x, values[rows] @ x, values @ x, values]
    expected += [values @ x, values[rows] @ x]
    for found in run_ranks(multiply, 3, empty, entries, rows, at_once):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs.numpy(), abs=1e-6)


def test_rows_without_entries_cost_no_memory_and_change_no_bit() -> None:
    values = dense([1, 2, 4, 5, 6, 7])[:, : COUNTS[0]]
    matrix, x = sparse(values), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    few, all_rows = _Block.of(matrix), _Block(matrix)
    assert few.rows is not None
    assert 1 < len(few.matrix.indptr) == len(few.rows) + 1 < matrix.num_rows / 2 + 1
    for wanted in (None, torch.tensor([8, 0, 3])):
        sums = []
        for block in (few, all_rows):
            total = block.matmul(x, matrix.num_rows, wanted)
            block.add_matmul(total, x * 0.3, matrix.num_rows, wanted)
            sums.append(total)
        assert torch.equal(*sums)
