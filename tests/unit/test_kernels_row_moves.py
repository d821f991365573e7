"""Rows placed and summed by index, against plain indexing."""

import pytest
import torch

from recmind_dist.kernels.row_moves import place_rows, sums_by_row


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


def test_rows_of_another_dtype_are_rounded_as_torch_rounds_and_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(9000, 3, generator=generator)  # more than a block of rows
    source[0] = torch.tensor([float("nan"), float("inf"), 1e-40])
    of = torch.randint(9000, (10_000,), generator=generator)
    of[0] = 0
    packed = torch.empty(len(of), 3, dtype=torch.bfloat16)
    place_rows(packed, None, source, of)
    torch.testing.assert_close(packed, source[of].bfloat16(), rtol=0, atol=0, equal_nan=True)
    to = torch.randperm(12_000, generator=generator)[: len(of)]
    out = torch.zeros(12_000, 3)
    place_rows(out, to, packed)
    torch.testing.assert_close(out[to], packed.float(), rtol=0, atol=0, equal_nan=True)
    own = torch.ones(5, 3), torch.arange(5)
    found = sums_by_row(12_000, [(own[1], own[0], None), (to[1:], packed[1:], None)])
    expected = torch.zeros(12_000, 3)
    expected[:5] = 1.0
    expected[to[1:]] += packed[1:].float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
