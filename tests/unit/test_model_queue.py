"""The queue is a ring: newest rows stay in order, ages are counted, state comes back whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.model.queue import KeyQueue


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 9), pushes=st.lists(st.integers(0, 14), max_size=8))
def test_the_queue_holds_the_newest_rows(size: int, pushes: list[int]) -> None:
    queue, history = KeyQueue(size, 2), []
    for step, count in enumerate(pushes):
        ids = torch.arange(len(history), len(history) + count)
        queue.enqueue(torch.stack([ids + 1.0, torch.ones(count)], 1), ids, step)
        history += [(int(i), step) for i in ids]
    expected = history[-size:]
    filled = queue.ids >= 0
    assert sorted(
        zip(queue.ids[filled].tolist(), queue.steps[filled].tolist(), strict=True)
    ) == sorted(expected)
    for key, ident in zip(queue.keys[filled], queue.ids[filled].tolist(), strict=True):
        assert torch.allclose(
            key, torch.nn.functional.normalize(torch.tensor([ident + 1.0, 1.0]), dim=0)
        )
    ages = [10 - step for _, step in expected]
    assert queue.staleness(10) == pytest.approx(sum(ages) / len(ages) if ages else 0.0)


def test_keys_are_kept_without_gradient_and_without_the_callers_memory() -> None:
    queue, keys = KeyQueue(4, 2), torch.ones(2, 2, requires_grad=True)
    queue.enqueue(keys, torch.tensor([1, 2]), 0)
    assert not queue.keys.requires_grad
    with torch.no_grad():
        keys.zero_()
    assert torch.allclose(queue.keys[:2].norm(dim=1), torch.ones(2))


def test_state_comes_back_and_goes_on_alike() -> None:
    queue, other = KeyQueue(5, 3), KeyQueue(5, 3)
    for step in range(3):
        queue.enqueue(torch.randn(3, 3), torch.arange(3) + 10 * step, step)
    other.load_state({name: value.clone() for name, value in queue.state().items()})
    keys, ids = torch.randn(4, 3), torch.arange(4) + 90
    for q in (queue, other):
        q.enqueue(keys, ids, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(queue.state().values(), other.state().values(), strict=True)
    )


def test_a_queue_of_size_zero_takes_nothing() -> None:
    queue = KeyQueue(0, 3)
    queue.enqueue(torch.ones(2, 3), torch.tensor([1, 2]), 0)
    assert len(queue) == 0
    assert queue.staleness(4) == 0.0
