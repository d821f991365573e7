"""Item vectors that learn from the log before the model does:

    x_i = w_i + d_i / (d_i + k) · ε_i,       at the length of w_i

w_i is an item's whitened text vector, d_i the number of its interactions and ε_i a free row, the
offset of collaborative topic regression (Wang and Blei, KDD 2011). Offsets are trained so that the
mean of a user's other items points to the item (as in FISM: Kabbur et al., KDD 2013), by sampled
softmax. An item of few interactions keeps what its text says, and one that comes after training
has w_i. What it is worth: docs/model.md.

Legend: I items, U users, T text dims, B users of a batch, H items of their histories, P targets,
S negatives, M distinct items of a batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recmind_dist.errors import TrainingError
from recmind_dist.graph import Graph
from recmind_dist.randomness import stream_key
from recmind_dist.report import Progress
from recmind_dist.types import BoolArray

SHRINKAGE = 30.0
"""k, in interactions."""
STEPS = 300
BATCH_TARGETS = 2048
TARGETS = 16
"""Items of a user that are targets in a step at most, so that long histories do not outweigh."""
HISTORY = 256
"""Items of a user that are averaged in a step at most, drawn where there are more."""
NEGATIVES = 512
NEGATIVES_COUNT = 1024.0
"""That the drawn negatives together count as."""
POPULARITY = 0.5
"""Negatives are drawn ∝ d^β: scores then need not carry all of an item's popularity."""
LEARNING_RATE = 1e-2
_SCALE_RATE = 1e-3
_START_SCALE = 10.0
_LEAST_USERS = 8


@dataclass(frozen=True)
class Interactions:
    """The interactions that item vectors may learn from, by user.

    Attributes:
        item_E: [E] items, user after user.
        count_U: [U] how many each user has.
        degree_I: [I] how many each item has.
    """

    item_E: Tensor
    count_U: Tensor
    degree_I: Tensor

    @staticmethod
    def of(graph: Graph, allowed: BoolArray, device: torch.device) -> "Interactions":
        """The training interactions of a graph.

        Args:
            allowed: [E] which of them, over the user half of the edges.
        """
        users = np.arange(graph.num_users, dtype=np.int32)
        user_E = np.repeat(users, np.asarray(graph.degree)[: graph.num_users])[allowed]
        item_E = np.asarray(graph.indices[: graph.num_edges])[allowed].astype(np.int64)
        item_E -= graph.num_users
        counts = [
            torch.from_numpy(np.bincount(ids, minlength=size)).to(device)
            for ids, size in ((user_E, graph.num_users), (item_E, graph.num_items))
        ]
        return Interactions(torch.from_numpy(item_E).to(device), *counts)


@dataclass(frozen=True)
class _Batch:
    """Histories in random order and negatives.

    Attributes:
        items_M: distinct items; the other items are positions in it.
        history_H: items, user after user.
        start_B: where each user's begin.
        target_P: positions in `history_H`.
        user_P: whose they are, positions in the batch.
        negative_S: items.
        is_own_BS: whether the user has the negative.
    """

    items_M: Tensor
    history_H: Tensor
    start_B: Tensor
    target_P: Tensor
    user_P: Tensor
    negative_S: Tensor
    is_own_BS: Tensor


class _Batches:
    """Batches of users in random order, over and over, of those with two interactions or more."""

    def __init__(self, log: Interactions, seed: int) -> None:
        self._log, self._device = log, log.item_E.device
        self._start_U = log.count_U.cumsum(0) - log.count_U
        self._users = (log.count_U >= 2).nonzero().squeeze(1)
        self._draws_up_to_I = log.degree_I.double().pow(POPULARITY).cumsum(0)
        self._generator = torch.Generator().manual_seed(
            stream_key(seed, "item-vectors") & 0x7FFF_FFFF_FFFF_FFFF
        )
        self.size = 0
        if len(self._users):
            mean = float(log.count_U[self._users].clamp(max=TARGETS).double().mean())
            size = max(round(BATCH_TARGETS / mean), _LEAST_USERS)
            self.size = min(size, max(len(self._users) // 2, 1))
        self._order, self._at = self._users, len(self._users)

    def next(self) -> _Batch:
        users_B = self._next_users()
        count_B = self._log.count_U[users_B]
        user = torch.repeat_interleave(count_B)
        first = (count_B.cumsum(0) - count_B)[user]
        place = torch.arange(len(user), device=self._device) - first
        item = self._log.item_E[self._start_U[users_B][user] + place]
        shuffled = torch.argsort(user + self._uniforms(len(user)))
        negatives = self._negatives()
        is_own_BS = self._are_own(user, item, negatives)
        kept = place < HISTORY
        history, user, place = item[shuffled][kept], user[kept], place[kept]
        items_M, at = torch.unique(torch.cat([history, negatives]), return_inverse=True)
        count_B = count_B.clamp(max=HISTORY)
        target_P = (place < TARGETS).nonzero().squeeze(1)
        start_B = count_B.cumsum(0) - count_B
        history_H, negative_S = at.split([len(history), len(negatives)])
        return _Batch(items_M, history_H, start_B, target_P, user[target_P], negative_S, is_own_BS)

    def _next_users(self) -> Tensor:
        if self._at + self.size > len(self._order):
            order = torch.randperm(len(self._users), generator=self._generator)
            self._order, self._at = self._users[order.to(self._device)], 0
        self._at += self.size
        return self._order[self._at - self.size : self._at]

    def _negatives(self) -> Tensor:
        ends = self._draws_up_to_I
        drawn = torch.searchsorted(ends, self._uniforms(NEGATIVES) * ends[-1], right=True)
        return drawn.clamp(max=len(ends) - 1)

    def _are_own(self, user: Tensor, item: Tensor, negatives: Tensor) -> Tensor:
        num_items = len(self._log.degree_I)
        own = (user * num_items + item).sort().values
        rows = torch.arange(self.size, device=self._device)
        wanted = rows[:, None] * num_items + negatives
        at = torch.searchsorted(own, wanted).clamp(max=len(own) - 1)
        return own[at] == wanted

    def _uniforms(self, count: int) -> Tensor:
        drawn = torch.rand(count, generator=self._generator, dtype=torch.float64)
        return drawn.to(self._device)


def learn_item_vectors(text_IT: Tensor, log: Interactions, seed: int, steps: int = STEPS) -> Tensor:
    """Text vectors with offsets learnt from the log, by one rank alone. Shape: [I, T].

    Args:
        text_IT: whitened text vectors; of items without a text what stands in for it
            (`stand_ins`), or zeros, which stay, where they have no interactions either.
        log: interactions to learn from.
        seed: of the draws.
    Raises:
        TrainingError: the vectors are not finite.
    """
    batches = _Batches(log, seed)
    if not batches.size:
        return text_IT
    offset_IT = nn.Parameter(torch.zeros_like(text_IT))
    scale = nn.Parameter(torch.tensor(math.log(_START_SCALE), device=text_IT.device))
    rows = torch.optim.SparseAdam([offset_IT], lr=LEARNING_RATE)
    optimizers = [rows, torch.optim.Adam([scale], lr=_SCALE_RATE)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _rises_then_falls(steps)) for o in optimizers]
    with Progress("item vectors", steps) as progress:
        for _ in range(steps):
            batch = batches.next()
            offset_MT = functional.embedding(batch.items_M, offset_IT, sparse=True)
            x_MT = text_IT[batch.items_M] + offset_MT
            loss: Tensor = _users_softmax(functional.normalize(x_MT, dim=1), batch, scale.exp())
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            progress.update()
    x_IT = _shrunk(text_IT, offset_IT.detach(), log.degree_I)
    if not x_IT.isfinite().all():
        raise TrainingError("item vectors are not finite: train with model.item_offsets: false")
    return x_IT


def _users_softmax(unit_MT: Tensor, batch: _Batch, scale: Tensor) -> Tensor:
    """−log of the softmax of each target, by its cosine with the mean of the user's other items.

    Args:
        unit_MT: vectors of the batch's items at unit length.
        scale: of the cosines.
    """
    sum_BT = functional.embedding_bag(batch.history_H, unit_MT, batch.start_B, mode="sum")
    target_PT = unit_MT[batch.history_H[batch.target_P]]
    query_PT = scale * functional.normalize(sum_BT[batch.user_P] - target_PT, dim=1)
    positive_P = (query_PT * target_PT).sum(1)
    negative_PS = query_PT @ unit_MT[batch.negative_S].T + math.log(NEGATIVES_COUNT / NEGATIVES)
    lowest = torch.finfo(negative_PS.dtype).min  # −∞ gives NaN for a user who has all of them
    negative_PS = negative_PS.masked_fill(batch.is_own_BS[batch.user_P], lowest)
    return functional.softplus(torch.logsumexp(negative_PS, 1) - positive_P).mean()


def _shrunk(text_IT: Tensor, offset_IT: Tensor, degree_I: Tensor) -> Tensor:
    """x_i as the module's docstring has it."""
    share = (degree_I / (degree_I + SHRINKAGE)).float()[:, None]
    x_IT = text_IT + share * offset_IT
    length = torch.linalg.vector_norm(text_IT, dim=1, keepdim=True)
    kept_length: Tensor = length * functional.normalize(x_IT, dim=1)
    return kept_length


class _rises_then_falls:
    """Rates rise for a twentieth of the steps and then fall as a cosine does."""

    def __init__(self, steps: int) -> None:
        self._steps, self._rise = steps, max(1, steps // 20)

    def __call__(self, step: int) -> float:
        falling = 0.5 * (1.0 + math.cos(math.pi * step / self._steps))
        return min(1.0, (step + 1) / self._rise) * falling
