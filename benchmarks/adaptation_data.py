"""A prepared data set on a device, and full rankings of it, for benchmarks/adaptation.py.

Legend: U users, I items, C columns of the vectors that are ranked.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.graph import Graph
from recmind_dist.run_config.run_config import RunConfig

COLD = 3  # training edges of a cold item at most
BLOCK_USERS = 2048


class Data:
    """A graph with item texts, a resolved config, and the edges that vectors may learn from.

    Attributes:
        user_E, item_E: [E'] training pairs without the gates' slice, by user.
        count_U, degree_I: of these pairs.
        seen_UI: whether a user has an item among them.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, torch.device(device)
        self.config = RunConfig.model_validate_json((folder / "config.json").read_text())
        self.graph = Graph.open(folder / "graph")
        self.num_users, self.num_items = self.graph.num_users, self.graph.num_items
        self.texts: list[str] = json.loads((folder / "texts.json").read_text())
        self.has_text = self._tensor(np.array([bool(text) for text in self.texts]))[:, None]
        kept = np.ones(self.graph.num_edges, bool)
        kept[np.load(folder / "heldout.npy")] = False
        user, item = self.training_pairs
        self.user_E, self.item_E = user[self._tensor(kept)], item[self._tensor(kept)]
        self.count_U = torch.bincount(self.user_E, minlength=self.num_users)
        self.degree_I = torch.bincount(self.item_E, minlength=self.num_items).float()
        self.seen_UI = self._matrix(self.user_E, self.item_E)
        self._start_U = self.count_U.cumsum(0) - self.count_U

    @cached_property
    def training_pairs(self) -> tuple[Tensor, Tensor]:
        """All training pairs, those of the gates' slice too: for rankings alone. Shapes: [E]."""
        graph = self.graph
        user = np.repeat(np.arange(graph.num_users), graph.degree[: graph.num_users])
        item = graph.indices[: graph.num_edges].astype(np.int64) - graph.num_users
        return self._tensor(user), self._tensor(item)

    def pairs_of(self, users_B: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs of these users that vectors may learn from: positions in `users_B`, and items.

        Shapes: [P].
        """
        count = self.count_U[users_B]
        row = torch.repeat_interleave(count)
        within = torch.arange(len(row), device=self.device) - (count.cumsum(0) - count)[row]
        return row, self.item_E[self._start_U[users_B][row] + within]

    def mean_of_items(self, user: Tensor, item: Tensor) -> Tensor:
        """A sparse matrix that takes the mean of each user's items. Shape: [U, I]."""
        weight = 1.0 / torch.bincount(user, minlength=self.num_users)[user].float()
        size = self.num_users, self.num_items
        return torch.sparse_coo_tensor(torch.stack([user, item]), weight, size).coalesce()

    def held_out(self, split: str) -> tuple[Tensor, Tensor]:
        """The users with a held-out item, and the item. Shapes: [pairs]."""
        held = self.graph.held_out(split)
        count = np.diff(held.indptr)
        assert count.max() == 1, "ranks are of leave-one-out splits"
        items = np.asarray(held.indices, np.int64) - self.num_users
        return self._tensor(np.flatnonzero(count)), self._tensor(items)

    @cached_property
    def hidden(self) -> dict[str, Tensor]:
        """What is left out of a user's ranking, by split: [U, I] bool."""
        train = self._matrix(*self.training_pairs)
        return {"valid": train, "test": train | self._matrix(*self.held_out("valid"))}

    @cached_property
    def histories(self) -> Tensor:
        """Takes the mean of each user's training items. Shape: [U, I], sparse."""
        return self.mean_of_items(*self.training_pairs)

    @cached_property
    def is_cold(self) -> Tensor:
        """[I] by the degree in the whole training graph."""
        degree = np.asarray(self.graph.degree)[self.num_users :]
        return self._tensor(degree <= COLD)

    def _matrix(self, user: Tensor, item: Tensor) -> Tensor:
        out = torch.zeros(self.num_users, self.num_items, dtype=torch.bool, device=self.device)
        out[user, item] = True
        return out

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


@torch.no_grad()
def places(data: Data, user_UC: Tensor, item_IC: Tensor, split: str) -> Tensor:
    """The place of each held-out item among what its user has not seen, 0 the first; of equal
    scores the lower item comes first. Shape: [pairs].
    """
    found = []
    for u, i in zip(*(x.split(BLOCK_USERS) for x in data.held_out(split)), strict=True):
        score = (user_UC[u] @ item_IC.T).masked_fill_(data.hidden[split][u], -torch.inf)
        own = score.gather(1, i[:, None])
        lower = torch.arange(data.num_items, device=data.device) < i[:, None]
        found.append(((score > own) | ((score == own) & lower)).sum(1))
    return torch.cat(found)


def metrics(data: Data, user_UC: Tensor, item_IC: Tensor, split: str) -> dict[str, Any]:
    """Means of a ranking by inner products; under "hits" each user's own, [3, pairs]."""
    place, (_, items) = places(data, user_UC, item_IC, split), data.held_out(split)
    hit20, hit40 = (place < 20).double(), (place < 40).double()
    gain = torch.where(place < 20, 1.0 / torch.log2(place + 2.0), 0.0).double()
    cold = data.is_cold[items]
    return {
        "recall@20": float(hit20.mean()),
        "recall@40": float(hit40.mean()),
        "ndcg@20": float(gain.mean()),
        "cold@20": float(hit20[cold].mean()),  # NaN where there is none
        "cold_pairs": int(cold.sum()),
        "hits": torch.stack([hit20, hit40, gain]).cpu().numpy(),
    }


def text_alone(data: Data, x_IT: Tensor, split: str) -> dict[str, Any]:
    """Rankings by the cosine of an item with the mean of the user's items."""
    unit = functional.normalize(x_IT.float(), dim=1)
    return metrics(data, torch.sparse.mm(data.histories, unit), unit, split)
