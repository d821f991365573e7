"""Losses against their formulas, term by term in plain Python, with masks, queue and hardness."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity

from recmind_dist.model import losses

DIM = 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("num", [1, 4])
def test_bpr_counts_the_highest_scoring_negative_of_each_pair(num: int) -> None:
    users, positives, negatives = draw(6, DIM), draw(6, DIM, seed=1), draw(6, num, DIM, seed=2)
    weight = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0, 1.0])
    expected = 0.0
    for k in range(6):
        hardest = max(float(users[k] @ n) for n in negatives[k])
        margin = float(users[k] @ positives[k]) - hardest
        expected += float(weight[k]) * -math.log(1 / (1 + math.exp(-margin)))
    assert float(
        losses.bpr(
            torch.cat([users, positives, negatives.view(-1, DIM)]),
            torch.arange(6),
            torch.arange(6, 12),
            12 + torch.arange(6 * num).view(6, num),
            weight,
            10,
        )
    ) == pytest.approx(expected / 10, rel=1e-5)


def test_sampled_softmax_leaves_out_shared_items_that_are_positives() -> None:
    users, positives, shared = draw(4, DIM), draw(4, DIM, seed=1), draw(7, DIM, seed=2)
    masked = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) < 0.3
    masked[2] = True  # nothing is left to stand against: the pair teaches nothing
    weight, tau, expected = torch.tensor([1.0, 0.3, 1.0, 2.0]), 0.2, 0.0
    for k in range(4):
        positive = math.exp(cosine(users[k], positives[k]) / tau)
        rest = sum(
            math.exp(cosine(users[k], shared[m]) / tau) for m in range(7) if not masked[k, m]
        )
        expected -= float(weight[k]) * math.log(positive / (positive + rest))
    found = losses.sampled_softmax(
        torch.cat([users, positives, shared]),
        torch.arange(4),
        torch.arange(4),
        torch.arange(4, 8),
        torch.arange(8, 15),
        masked,
        tau,
        weight,
        8,
    )
    assert float(found) == pytest.approx(expected / 8, rel=1e-5)


def by_hand(
    a: Tensor,
    p: Tensor,
    a_ids: list[int],
    keys: Tensor,
    key_ids: list[int],
    queue: Tensor,
    queue_ids: list[int],
    tau: float,
    hardness: float,
) -> list[float]:
    """InfoNCE of each anchor: its other view against keys of other entities, batch keys weighed by
    hardness, mean 1.
    """
    out = []
    for k in range(len(a)):
        others = [g for g in range(len(keys)) if key_ids[g] != a_ids[k]]
        raw = [math.exp(hardness * cosine(a[k], keys[g])) for g in others]
        mean = sum(raw) / len(raw) if raw else 1.0
        total = sum(
            w / mean * math.exp(cosine(a[k], keys[g]) / tau)
            for w, g in zip(raw, others, strict=True)
        )
        for q in range(len(queue)):
            if queue_ids[q] >= 0 and queue_ids[q] != a_ids[k]:
                total += math.exp(cosine(a[k], queue[q]) / tau)
        positive = math.exp(cosine(a[k], p[k]) / tau)
        out.append(-math.log(positive / (positive + total)))
    return out


@settings(max_examples=60, deadline=None)
@given(
    a_ids=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    more=st.lists(st.integers(0, 4), max_size=4),
    queue_ids=st.lists(st.integers(-1, 4), max_size=6),
    hardness=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 100),
)
def test_info_nce_never_takes_an_entity_for_its_own_negative(
    a_ids: list[int], more: list[int], queue_ids: list[int], hardness: float, seed: int
) -> None:
    """Duplicate anchors, keys of other ranks, empty queue slots and a batch of one entity alone are
    all among these.
    """
    anchors, positives = draw(len(a_ids), DIM, seed=seed), draw(len(a_ids), DIM, seed=seed + 1)
    keys = torch.cat([positives, draw(len(more), DIM, seed=seed + 2)])
    queue = torch.nn.functional.normalize(draw(len(queue_ids), DIM, seed=seed + 3), dim=1)
    found = losses.info_nce(
        anchors,
        positives,
        torch.tensor(a_ids),
        keys,
        torch.tensor(a_ids + more),
        0.3,
        queue=queue,
        queue_ids=torch.tensor(queue_ids, dtype=torch.int64),
        hardness=hardness,
        total=3,
    )
    expected = by_hand(
        anchors, positives, a_ids, keys, a_ids + more, queue, queue_ids, 0.3, hardness
    )
    assert float(found) == pytest.approx(sum(expected) / 3, rel=1e-4, abs=1e-6)


def test_hardness_moves_pull_between_negatives_by_their_similarity() -> None:
    """Of one anchor's negatives the pull on key j is proportional to its softmax, hence to
    exp(hardness × cosine).
    """
    anchor = torch.eye(1, DIM)
    keys = torch.tensor(
        [[0.9, 0.1, 0, 0, 0], [-0.5, 0, 0.5, 0, 0], [0.2, 0, 0, 0.9, 0]]
    ).requires_grad_()
    nothing = keys[:0].detach(), torch.zeros(0, dtype=torch.int64)
    pulls = []
    for hardness in (0.0, 3.0):
        keys.grad = None
        losses.info_nce(
            anchor,
            anchor,
            torch.tensor([9]),
            keys,
            torch.tensor([0, 1, 2]),
            0.5,
            queue=nothing[0],
            queue_ids=nothing[1],
            hardness=hardness,
            total=1,
        ).backward()
        assert keys.grad is not None
        pulls.append(keys.grad.norm(dim=1))
    moved = (pulls[1][0] / pulls[1][1]) / (pulls[0][0] / pulls[0][1])
    apart = cosine(anchor[0], keys[0].detach()) - cosine(anchor[0], keys[1].detach())
    assert float(moved) == pytest.approx(math.exp(3.0 * apart), rel=1e-4)


def test_hardness_weights_themselves_take_no_gradient() -> None:
    weights = losses._log_hardness(
        draw(3, 4).requires_grad_().detach(), torch.zeros(3, 4, dtype=torch.bool), 2.0
    )
    assert torch.allclose(weights.exp().mean(1), torch.ones(3), atol=1e-6)


def test_shares_of_ranks_add_up_to_the_global_loss() -> None:
    rows, weight = draw(28, DIM), torch.rand(7)
    users, positives, negatives = (
        torch.arange(7),
        torch.arange(7, 14),
        torch.arange(14, 28).view(7, 2),
    )
    whole = losses.bpr(rows, users, positives, negatives, weight, 7)
    cuts = [slice(0, 2), slice(2, 2), slice(2, 7)]  # one rank has nothing
    shares = [losses.bpr(rows, users[c], positives[c], negatives[c], weight[c], 7) for c in cuts]
    assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-6)
    assert shares[1].item() == 0.0


def test_penalty_and_tail_weights_are_their_formulas() -> None:
    base, index = draw(5, DIM).requires_grad_(), torch.tensor([4, 0, 4, 4, 2])
    expected = 0.5 * float((base.detach()[index].double() ** 2).sum()) / 3
    penalty = losses.base_row_penalty(base, index, 3)
    assert float(penalty) == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    assert base.grad is not None
    assert torch.allclose(base.grad, base.detach() * torch.tensor([1.0, 0, 1, 0, 3])[:, None] / 3)
    assert float(losses.base_row_penalty(base, index[:0], 3)) == 0.0
    weights = losses.tail_weights(torch.tensor([0, 3, 99]), 0.5)
    assert torch.allclose(weights, torch.tensor([1.0, 0.5, 0.1]))
    assert torch.equal(losses.tail_weights(torch.tensor([0, 3]), 0.0), torch.ones(2))


def test_a_batch_without_pairs_costs_nothing_and_divides_by_nothing() -> None:
    empty, ids = torch.zeros(0, DIM, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    rows = draw(3, DIM).requires_grad_()
    terms = [
        losses.bpr(rows, ids, ids, ids.view(0, 1), torch.zeros(0), 0),
        losses.sampled_softmax(
            rows, ids, ids, ids, torch.arange(3), torch.zeros(0, 3).bool(), 0.1, torch.zeros(0), 0
        ),
        losses.info_nce(
            empty,
            empty,
            ids,
            empty,
            ids,
            0.1,
            queue=empty.detach(),
            queue_ids=ids,
            hardness=1.0,
            total=0,
        ),
    ]
    assert [t.item() for t in terms] == [0.0, 0.0, 0.0]
