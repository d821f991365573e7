"""How item vectors are adapted to a graph, for benchmarks/adaptation.py.

Legend: U users, I items, N = U + I, T text width, D width of the tower, B users of a batch, P pairs
of a batch, M items of a batch, S tokens.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adaptation_data import Data
from benchmarks.gpu_peers import SymmetricHop
from recmind_dist.model.losses import info_nce
from recmind_dist.text.adapter import attach_lora, lora_parameters
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.settings import LoraSettings
from recmind_dist.text.whitening import Whitening

ENCODE_BLOCK = 512  # texts, sorted by length, that are padded together
BETA = 0.5  # exponent of the degree by which negatives count
NEGATIVES = 1024  # that all items together count as, as RecMind's sampled softmax has it
BATCH_PAIRS = 8192  # of a step over vectors that are all there, about
TOWER_DIM, TOWER_LAYERS, TOWER_RATE, TOWER_SCALE = 64, 2, 1.5e-2, 5.0
HEAD_RATE, ROW_RATE = 1e-3, 1e-2
QUEUE, TEMPERATURE, HARDNESS = 4096, 0.1, 1.0  # of InfoNCE
Groups = list[tuple[Sequence[nn.Parameter], float]]
Towers = tuple[Tensor, Tensor]
"""Vectors of a trained graph tower: users [U, D], items [I, D]."""


class CachedEncoder:
    """The upper layers of a BERT over kept states of the layers below, which are frozen.

    Args:
        texts: of all items, empty where there is none.
        layers: how many run, counted from the top.
    """

    def __init__(
        self, encoder: TextEncoder, texts: Sequence[str], max_tokens: int, layers: int
    ) -> None:
        self.encoder, self.layers = encoder, layers
        ids = encoder.tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        self._length_I = torch.tensor([len(row) for row in ids], device=encoder.device)
        self._start_I = self._length_I.cumsum(0) - self._length_I
        self._states = self._lower_states(ids)

    def adapted(self, lora: LoraSettings, seed: int) -> "CachedEncoder":
        """The same with new adapters."""
        other = copy.copy(self)
        backbone, tokenizer = copy.deepcopy(self.encoder.backbone), self.encoder.tokenizer
        other.encoder = TextEncoder(backbone, tokenizer, self.encoder.settings)
        attach_lora(other.encoder.backbone, lora, seed)
        return other

    @property
    def adapters(self) -> list[nn.Parameter]:
        return list(lora_parameters(self.encoder.backbone).values())

    def __call__(self, items_M: Tensor) -> Tensor:
        """Pooled vectors of these items' texts, with gradients. Shape: [M, T] float32."""
        order = torch.argsort(self._length_I[items_M])
        blocks = [self._pool(items_M[part]) for part in order.split(ENCODE_BLOCK)]
        return torch.cat(blocks)[torch.argsort(order)]

    @torch.no_grad()
    def all(self) -> Tensor:
        """Pooled vectors of all items. Shape: [I, T] float32."""
        return self(torch.arange(len(self._length_I), device=self._length_I.device))

    def _pool(self, items_M: Tensor) -> Tensor:
        length = self._length_I[items_M]
        width = -(-int(length.max()) // 8) * 8  # as attention kernels like it
        place_S = torch.arange(width, device=length.device)
        mask_MS = place_S < length[:, None]
        at = (self._start_I[items_M][:, None] + place_S).clamp(max=len(self._states) - 1)
        hidden = self._run(slice(-self.layers, None), self._states[at], mask_MS)
        weight = mask_MS[:, :, None].float()
        pooled: Tensor = (hidden.float() * weight).sum(1) / weight.sum(1)
        return pooled

    def _run(self, layers: slice, hidden: Tensor, mask_MS: Tensor) -> Tensor:
        for layer in self.encoder.backbone.encoder.layer[layers]:
            out = layer(hidden, attention_mask=mask_MS[:, None, None, :])
            hidden = out if isinstance(out, Tensor) else out[0]
        return hidden

    @torch.no_grad()
    def _lower_states(self, ids: list[list[int]]) -> Tensor:
        """States below the upper layers of all texts' tokens, one after the other."""
        kept = []
        for first in range(0, len(ids), ENCODE_BLOCK):
            rows = [torch.tensor(row) for row in ids[first : first + ENCODE_BLOCK]]
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.encoder.device)
            length = self._length_I[first : first + len(rows)]
            mask = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
            hidden = self.encoder.backbone.embeddings(input_ids=tokens)
            kept.append(self._run(slice(0, -self.layers), hidden, mask)[mask])
        return torch.cat(kept)


class Whiten:
    """(x − mean) · matrix of the untouched model's vectors; zero where there is no text."""

    def __init__(self, data: Data, pooled_IT: Tensor) -> None:
        self.dim, self._has_text = pooled_IT.shape[1], data.has_text
        kept = pooled_IT[data.has_text.squeeze(1)].half().cpu().numpy()
        fitted = Whitening.fit(_Rows({"items": [kept], "users": []}, self.dim))  # type: ignore[arg-type]
        self._mean = torch.from_numpy(fitted.mean["items"]).to(data.device)
        self._matrix = torch.from_numpy(fitted.matrix["items"]).to(data.device)

    def __call__(self, pooled: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        return ((pooled - self._mean) @ self._matrix) * self._has_text[items]


@dataclass(frozen=True)
class _Rows:
    """What `Whitening.fit` reads of a text store."""

    by_side: dict[str, list[np.ndarray[Any, Any]]]
    dim: int

    def shards(self, side: str) -> Iterator[np.ndarray[Any, Any]]:
        yield from self.by_side[side]


def minimise(loss_of: Callable[[], Tensor], groups: Groups, steps: int) -> None:
    """Adam whose rates rise for a twentieth of the steps and then fall as a cosine."""
    optimizer = torch.optim.Adam([{"params": list(p), "lr": rate} for p, rate in groups])
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / rise) * 0.5 * (1.0 + math.cos(math.pi * step / steps)),
    )
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert torch.isfinite(loss), "the loss is not finite"


def user_batches(data: Data, at_least: int, size: int | None = None) -> Iterator[Tensor]:
    """Users in random order, over and over, of those with so many pairs. Shape: [B] each."""
    users = (data.count_U >= at_least).nonzero().squeeze(1)
    size = size or round(BATCH_PAIRS / float(data.count_U.float().mean()))
    size = max(1, min(size, len(users) // 2))
    while True:
        order = users[torch.randperm(len(users), device=users.device)]
        yield from order[: len(order) // size * size].view(-1, size)


def weighted_softmax(
    logits_PM: Tensor, positive_P: Tensor, has_PM: Tensor, weight_M: Tensor
) -> Tensor:
    """−log of the softmax of the positive among weighted items that the user does not have.

    Args:
        positive_P: columns.
        has_PM: the user's items, the positive among them.
        weight_M: together they count as `NEGATIVES`.
    """
    positive = logits_PM.gather(1, positive_P[:, None]).squeeze(1)
    log_weight = (weight_M * (NEGATIVES / weight_M.sum())).log()
    lowest = torch.finfo(logits_PM.dtype).min  # −∞ gives NaN for a user who has all items
    against = torch.logsumexp((logits_PM + log_weight).masked_fill(has_PM, lowest), 1)
    return functional.softplus(against - positive).mean()


# ---------------------------------------------------------------- the graph tower


def adjacency(data: Data) -> Tensor:
    """D^-1/2 A D^-1/2 over the edges that vectors may learn from. Shape: [N, N], CSR."""
    user, item = data.user_E, data.item_E + data.num_users
    row, col = torch.cat([user, item]), torch.cat([item, user])
    num_nodes = data.num_users + data.num_items
    root = torch.bincount(row, minlength=num_nodes).clamp(min=1).float().rsqrt()
    values, size = root[row] * root[col], (num_nodes, num_nodes)
    return torch.sparse_coo_tensor(torch.stack([row, col]), values, size).coalesce().to_sparse_csr()


def lightgcn(table: Tensor, matrix: Tensor) -> Tensor:
    """Source: arXiv:2002.02126."""
    state, total = table, table
    for _ in range(TOWER_LAYERS):
        state = SymmetricHop.apply(state, matrix)
        total = total + state
    return total / (TOWER_LAYERS + 1)


def graph_tower(data: Data, w_IT: Tensor, steps: int, seed: int) -> Towers:
    """LightGCN that starts from the leading components of the texts, trained by softmax."""
    torch.manual_seed(seed)
    matrix, num_users = adjacency(data), data.num_users
    items = w_IT[:, :TOWER_DIM] * (0.1 * w_IT.shape[1] ** 0.5)
    users = torch.sparse.mm(data.mean_of_items(data.user_E, data.item_E), items)
    users = functional.normalize(users, dim=1) * (0.1 * TOWER_DIM**0.5)
    table = nn.Parameter(torch.cat([users, items]))
    batches = user_batches(data, at_least=1)
    weight = data.degree_I.clamp(min=1) ** BETA

    def loss() -> Tensor:
        chosen = next(batches)
        row, item = data.pairs_of(chosen)
        unit = functional.normalize(lightgcn(table, matrix), dim=1)
        logits = TOWER_SCALE * (unit[chosen][row] @ unit[num_users:].T)
        return weighted_softmax(logits, item, data.seen_UI[chosen[row]], weight)

    minimise(loss, [([table], TOWER_RATE)], steps)
    final = lightgcn(table.detach(), matrix)
    return final[:num_users], final[num_users:]


# ---------------------------------------------------------------- a head over vectors


class Head(nn.Module):
    """x_i = A w_i + V_i, with A at the start 1 and V at the start 0.

    Args:
        num_rows: I, or 0 for no V.
    """

    def __init__(self, dim: int, num_rows: int, device: torch.device) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(dim, device=device))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0), device=device))
        self.rows = nn.Parameter(torch.zeros(num_rows, dim, device=device)) if num_rows else None

    def forward(self, w_MT: Tensor) -> Tensor:
        """With V, all items' vectors go in."""
        x_MT = w_MT @ self.matrix
        return x_MT if self.rows is None else x_MT + self.rows

    def groups(self, rate: float) -> Groups:
        found: Groups = [([self.matrix, self.log_scale], rate)]
        return found if self.rows is None else [*found, ([self.rows], ROW_RATE)]


def users_softmax(
    data: Data, head: Head, x_MT: Tensor, users_B: Tensor, items_M: Tensor, weight_M: Tensor
) -> Tensor:
    """The mean of a user's other items → the item, among the items of `x_MT`.

    Args:
        items_M: ascending, all items of these users among them.
    """
    row, item = data.pairs_of(users_B)
    column = torch.searchsorted(items_M, item)
    unit = functional.normalize(x_MT, dim=1)
    sums = unit.new_zeros(len(users_B), unit.shape[1]).index_add(0, row, unit[column])
    query = functional.normalize(sums[row] - unit[column], dim=1)
    logits = head.log_scale.exp() * (query @ unit.T)
    seen = data.seen_UI[users_B][:, items_M][row]
    return weighted_softmax(logits, column, seen, weight_M)


def train_head(
    data: Data, w_IT: Tensor, *, rows: bool, rate: float, steps: int, seed: int
) -> Tensor:
    """Vectors of a head over frozen vectors, with a free row an item or without. Shape: [I, T]."""
    torch.manual_seed(seed)
    head = Head(w_IT.shape[1], data.num_items if rows else 0, data.device)
    items, weight = torch.arange(data.num_items, device=data.device), data.degree_I.clamp(min=1)
    batches = user_batches(data, at_least=2)

    def loss() -> Tensor:
        return users_softmax(data, head, head(w_IT), next(batches), items, weight**BETA)

    minimise(loss, head.groups(rate), steps)
    return head(w_IT).detach()


def fade(data: Data, w_IT: Tensor, x_IT: Tensor, k: float) -> Tensor:
    """Items of low degree keep their frozen vectors: w + d / (d + k) (x − w)."""
    share = (data.degree_I / (data.degree_I + k)).nan_to_num(0.0)[:, None]
    return w_IT + share * (x_IT - w_IT)


# ---------------------------------------------------------------- adapters


class Aligner(nn.Module):
    """Symmetric InfoNCE between texts and the keys of a graph tower, users and items apart.

    The tower is trained and stays as it is, so no key is ever stale, and the queue is drawn anew
    each step, items ∝ degree^β.
    """

    def __init__(self, data: Data, towers: Towers, dim: int) -> None:
        super().__init__()
        self._data, self._weight = data, data.degree_I.clamp(min=1) ** BETA
        self._users, self._items = (functional.normalize(h, dim=1) for h in towers)
        self.project = nn.Linear(dim, TOWER_DIM, bias=False, device=data.device)
        nn.init.eye_(self.project.weight)  # the tower starts from the same components

    def forward(self, x_MT: Tensor, users_B: Tensor, items_M: Tensor) -> Tensor:
        row, item = self._data.pairs_of(users_B)
        unit = functional.normalize(x_MT, dim=1)
        sums = unit.new_zeros(len(users_B), unit.shape[1])
        sums = sums.index_add(0, row, unit[torch.searchsorted(items_M, item)])
        of_items = torch.multinomial(self._weight, QUEUE, replacement=True)
        of_users = torch.randint(len(self._users), (QUEUE,), device=x_MT.device)
        return _both_ways(self.project(x_MT), self._items, items_M, of_items) + _both_ways(
            self.project(sums), self._users, users_B, of_users
        )


def _both_ways(text: Tensor, keys: Tensor, ids: Tensor, queue: Tensor) -> Tensor:
    key, options = keys[ids], {"hardness": HARDNESS, "total": len(ids)}
    text_to_graph = info_nce(
        text, key, ids, key, ids, TEMPERATURE, queue=keys[queue], queue_ids=queue, **options
    )
    graph_to_text = info_nce(
        key, text, ids, text, ids, TEMPERATURE, queue=key[:0], queue_ids=ids[:0], **options
    )
    return 0.5 * (text_to_graph + graph_to_text)


class TextAdapter:
    """LoRA and what is trained beside it, by InfoNCE, by the users' softmax or by both.

    A step embeds all items of a few users afresh, so that no target is stale.
    """

    def __init__(
        self,
        data: Data,
        frozen: CachedEncoder,
        whiten: Whiten,
        towers: Towers,
        objectives: Sequence[str],
        lora: LoraSettings,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.data, self.whiten, self.objectives, self.lora = data, whiten, objectives, lora
        self.encoder = frozen.adapted(lora, seed)
        self.head = Head(whiten.dim, 0, data.device)
        self.aligner = Aligner(data, towers, whiten.dim)

    def train(self, steps: int, batch_items: int) -> None:
        """Args: batch_items: distinct items of a step's users, about."""
        data = self.data
        size = max(2, round(batch_items / float(data.count_U.float().mean())))
        batches = user_batches(data, at_least=2, size=size)
        # an item is in a batch as likely as one of its users is: that is taken out
        degree, share = data.degree_I.clamp(min=1), min(size / data.num_users, 0.99)
        weight_I = degree**BETA / (1.0 - (1.0 - share) ** degree)
        groups: Groups = [(self.encoder.adapters, self.lora.learning_rate)]
        if "users" in self.objectives:
            groups += self.head.groups(HEAD_RATE)
        if "align" in self.objectives:
            groups.append((list(self.aligner.parameters()), HEAD_RATE))
        minimise(lambda: self._loss(next(batches), weight_I), groups, steps)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """All items' vectors, [I, T], and their projection to the tower, [I, D]."""
        x_IT = self.head(self.whiten(self.encoder.all()))
        return x_IT, self.aligner.project(x_IT)

    def _loss(self, users: Tensor, weight_I: Tensor) -> Tensor:
        items = self.data.pairs_of(users)[1].unique()
        x_MT = self.head(self.whiten(self.encoder(items), items))
        terms = []
        if "users" in self.objectives:
            weight = weight_I[items]
            terms.append(users_softmax(self.data, self.head, x_MT, users, items, weight))
        if "align" in self.objectives:
            terms.append(self.aligner(x_MT, users, items))
        return torch.stack(terms).sum()
