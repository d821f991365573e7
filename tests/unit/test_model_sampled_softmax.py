"""The sampled softmax's own gradient against autograd's, with masks, a row that is masked whole,
and equal vectors.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.model import sampled_softmax as softmax_module
from recmind_dist.model.losses import sampled_softmax


def plain(
    h: Tensor,
    users: Tensor,
    user_of_pair: Tensor,
    positives: Tensor,
    shared: Tensor,
    masked: Tensor,
    temperature: float | None,
    weight: Tensor,
    total: int,
    negative_weight: float,
) -> Tensor:
    """The formula in operators that autograd differentiates."""
    h = h if temperature is None else functional.normalize(h, dim=1) / temperature**0.5
    positive = (h[users[user_of_pair]] * h[positives]).sum(1)
    logits = (h[users] @ h[shared].T).masked_fill(masked, float("-inf"))
    negative = torch.logsumexp(logits, 1)[user_of_pair] + math.log(negative_weight)
    return (weight * (torch.logaddexp(positive, negative) - positive)).sum() / total


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("num_users", [9, 300])
@pytest.mark.parametrize("num_shared", [0, 40, 1500])
@pytest.mark.parametrize("negative_weight", [1.0, 12.5])
def test_value_and_gradient_are_those_of_the_formula(
    temperature: float | None, num_users: int, num_shared: int, negative_weight: float
) -> None:
    generator = torch.Generator().manual_seed(num_users)
    pairs, items = 3 * num_users, 2000
    h = torch.randn(num_users + items, 12, generator=generator)
    h[3] = h[5]
    users = torch.randperm(num_users, generator=generator)
    user_of_pair = torch.randint(num_users, (pairs,), generator=generator)
    positives = num_users + torch.randint(items, (pairs,), generator=generator)
    shared = num_users + torch.randperm(items, generator=generator)[:num_shared]
    masked = torch.rand(num_users, num_shared, generator=generator) < 0.05
    masked[1] = True
    weight = torch.rand(pairs, generator=generator)
    arguments = users, user_of_pair, positives, shared, masked, temperature
    ours, theirs = h.clone().requires_grad_(), h.double().requires_grad_()
    found = 3 * sampled_softmax(ours, *arguments, weight, 7, negative_weight)
    expected = 3 * plain(theirs, *arguments, weight.double(), 7, negative_weight)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    found.backward()
    # torch's logsumexp of a row without a term has a gradient that is not a number: those rows
    # teach nothing
    expected.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    reference = theirs.grad.nan_to_num(0.0)
    torch.testing.assert_close(
        ours.grad.double(), reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()) + 1e-7
    )


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_change_no_number(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    # whole numbers: a product is the same whatever rows are made together
    h_UC, h_MC = (torch.randint(-3, 4, (n, 8), generator=generator).float() for n in (30, 50))
    masked = torch.rand(30, 50, generator=generator) < 0.1
    masked[4] = True
    whole = softmax_module._exponentials(h_UC, h_MC, masked)
    monkeypatch.setattr(softmax_module, "_rows_at_once", lambda *_: rows)
    for found, expected in zip(
        softmax_module._exponentials(h_UC, h_MC, masked), whole, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_gpu_takes_all_users_at_once_and_a_cpu_what_its_cache_holds() -> None:
    assert softmax_module._rows_at_once(8192, 1024, "cuda") == 8192
    assert softmax_module._rows_at_once(0, 1024, "cuda") == 1
    assert softmax_module._rows_at_once(8192, 1024, "cpu") == 256
    assert softmax_module._rows_at_once(8192, 1 << 20, "cpu") == 1
