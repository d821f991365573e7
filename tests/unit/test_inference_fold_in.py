"""Users folded in: with their training items they get the vectors that they have; with other items
what a dense propagation gives in which items' states stay.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError
from recmind_dist.features.text_features import degree_feature
from recmind_dist.graph import EdgeRows, Graph, row_bounds
from recmind_dist.inference import final_embeddings as final_embeddings_file
from recmind_dist.inference.final_embeddings import final_embeddings, final_embeddings_of
from recmind_dist.inference.fold_in import FoldIn
from recmind_dist.model.models import Model, build_model
from recmind_dist.model.settings import MODELS
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.propagation.histories import Histories
from tests.graphs import make_graph, normalised, random_pairs

DIM, TEXT_DIM, USERS, ITEMS = 6, 9, 30, 25
LATE = {"views": "graph+text", "recent_decay": 0.0}
EARLY = {"text_layers": 0}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("lightgcn", {"num_layers": 3}),
    ("xsimgcl", {"num_layers": 2}),
    ("alpharec", {"num_layers": 2}),
    ("recmind", {"num_layers": 2, "views": "all", "recent_decay": 0.5}),
    ("recmind", {"num_layers": 3, "views": "graph+text", "recent_decay": 1.0}),
    ("recmind", {"num_layers": 2, "text_layers": 1, **LATE}),
    ("recmind", {"num_layers": 1, **LATE, **EARLY, "recent_decay": 0.7}),
    ("recmind", {"num_layers": 2, "views": "graph", "recent_decay": 0.5}),
    ("paper", {"num_layers": 2}),
    ("paper", {"num_layers": 2, "text_layers": 1, "readout": "concat"}),
    ("paper", {"num_layers": 3, **EARLY, "readout": "alpha", "gate": {"sides": "items"}}),
    ("paper", {"num_layers": 2, **EARLY, "readout": "alpha", "gate": {"sides": "none"}}),
]
kinds = pytest.mark.parametrize(
    ("kind", "settings"), KINDS, ids=[f"{kind}{k}" for k, (kind, _) in enumerate(KINDS)]
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The last user and the last item have no training edge; every third user has one validation
    item, user 0 three, and the last user has the last item there.
    """
    pairs = random_pairs(USERS - 1, ITEMS - 1, 170, seed=3)
    free = [[i for i in range(ITEMS - 1) if (u, i) not in set(pairs)] for u in range(USERS - 1)]
    valid = [(u, free[u][-1]) for u in range(0, USERS - 1, 3)]
    valid += [(0, free[0][0]), (0, free[0][1]), (USERS - 1, ITEMS - 1)]
    home = tmp_path_factory.mktemp("graph")
    return make_graph(home, pairs, USERS, ITEMS, valid=valid, num_parts=2)


class Trained:
    """A model with numbers in it that are not those of a start, on one rank."""

    def __init__(self, graph: Graph, kind: str, settings: Mapping[str, Any]) -> None:
        generator = torch.Generator().manual_seed(1)
        chosen = MODELS[kind].model_validate({"kind": kind, "embedding_dim": DIM, **settings})
        self.graph = graph
        self.model: Model = build_model(chosen, TEXT_DIM)  # type: ignore[arg-type]
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        self.feature = degree_feature(
            torch.from_numpy(np.array(graph.degree)), int(graph.degree.max())
        )
        self.operator = FullPropagation(
            graph, row_bounds(graph, 1), DistContext.alone(), self.feature
        )
        widths = (DIM, DIM, TEXT_DIM)
        self.e, self.z, self.text = (
            torch.randn(USERS + ITEMS, width, generator=generator) for width in widths
        )  # in table order
        without_text = torch.from_numpy(np.array(graph.row_of_node)[[USERS + 2, USERS + 24]])
        self.text[without_text] = 0.0

    @property
    def states(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        reads_text = getattr(self.model, "text_view", None) is not None
        return (self.e, self.z, self.text) if reads_text else (self.e, None, None)

    def final(self) -> Tensor:
        return final_embeddings(self.operator, self.model, *self.states).final

    def fold_in(self) -> FoldIn:
        return FoldIn(self.operator, EdgeRows.of_graph(self.graph), self.model, *self.states)

    def rows(self, users: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(self.graph.row_of_node)[users])


@kinds
def test_the_training_history_gives_the_vectors_that_users_have(
    graph: Graph, kind: str, settings: dict[str, Any]
) -> None:
    trained, users = Trained(graph, kind, settings), np.array([4, 0, USERS - 1, 11, 29, 17])
    histories = Histories.of_graph(EdgeRows.of_graph(graph), users)
    found = trained.fold_in()(histories, trained.rows(users))
    expected = trained.final()[users]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().amax() > 0.1


@kinds
@pytest.mark.parametrize("fixed", [False, True])
def test_vectors_of_items_and_some_users_are_those_among_all(
    graph: Graph,
    kind: str,
    settings: dict[str, Any],
    fixed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(final_embeddings_file, "_BLOCK_ROWS", 3)
    trained, users = Trained(graph, kind, settings), np.array([0, 4, 17, USERS - 1])
    trained.text[trained.rows(np.arange(USERS))] = 7.0  # nobody reads users' own in content
    everything = trained.final()
    trained.operator = FullPropagation(
        graph, row_bounds(graph, 1), DistContext.alone(), trained.feature, fixed=fixed
    )
    found = final_embeddings_of(users, trained.operator, trained.model, *trained.states)
    assert found.nodes.tolist() == [*users, *range(USERS, USERS + ITEMS)]
    torch.testing.assert_close(found.final, everything[found.nodes], rtol=1e-5, atol=1e-5)


class Dense:
    """Users of other histories, by dense matrices: states of all nodes as trained, then the users'
    once more, out of items' trained states.

    Args:
        items: of each user, the oldest first.
        users: who they are; None: new users.
    """

    def __init__(self, trained: Trained, items: list[list[int]], users: np.ndarray | None) -> None:
        self.trained, self.items, self.users = trained, items, users
        graph: Graph = trained.graph
        self.model: Any = trained.model
        self.settings: Any = getattr(trained.model, "settings", None)
        self.a = torch.from_numpy(normalised(graph)).float()
        has = torch.zeros(len(items), ITEMS)
        for u, history in enumerate(items):
            has[u, history] = 1.0
        root = torch.from_numpy(np.maximum(graph.degree[USERS:], 1) ** -0.5).float()
        self.hop = has.sum(1, keepdim=True) ** -0.5 * has * root
        lengths = torch.tensor([len(history) for history in items])
        self.d = degree_feature(lengths, int(graph.degree.max()))
        in_node_order = torch.from_numpy(np.array(graph.row_of_node))
        self.e, self.z, self.text = (x[in_node_order] for x in (trained.e, trained.z, trained.text))

    def final(self) -> Tensor:
        kind, settings = type(self.model).__name__, self.settings
        num_layers = self.model.num_layers
        if kind == "AlphaRec":
            return self.mean(self.states(self.items_alone(self.z), num_layers), self.no_row)
        if kind == "PaperRecMind":
            return self.paper()
        states = self.states(self.e, num_layers)
        graph = self.mean(states, self.row(states))
        if kind != "RecMind":
            return graph
        text_states, views = states, [graph, graph]
        if settings.has_text_view:
            text_states = self.text_states()
            views = [graph, self.mean(text_states, self.text_row())]
        of_items = [torch.stack(x).mean(0)[USERS:] for x in (states, text_states)]
        if settings.has_content_view:
            views.append(self.newest(self.text[USERS:], 1.0))
            of_items.append(self.text[USERS:])
        decay = settings.recent_decay
        recent = [self.newest(view, decay) for view in of_items] if decay else []
        mixed: Tensor = self.model.mix(views, recent, self.d, torch.ones(len(self.items)).bool())
        return mixed

    @property
    def no_row(self) -> Tensor:
        return torch.zeros(len(self.items), DIM)

    def row(self, passed: list[Tensor]) -> Tensor:
        """State 0: what users' rows are in terms of what hops brought them, and of a known user
        what these terms leave.
        """
        if len(passed) == 1:
            return self.no_row if self.users is None else self.e[self.users]
        brought = sum(self.a[:USERS, USERS:] @ x[USERS:] for x in passed[:-1])
        solution = torch.linalg.lstsq(brought, self.e[:USERS]).solution
        moved: Tensor = sum(self.hop @ x[USERS:] for x in passed[:-1]) @ solution
        return (
            moved
            if self.users is None
            else moved + (self.e[:USERS] - brought @ solution)[self.users]
        )

    def text_row(self) -> Tensor:
        if not self.settings.users_have_text:
            return self.no_row
        if self.users is not None:
            return self.z[self.users]
        means = []
        for history in self.items:
            known = [self.text[USERS + i] for i in history if self.text[USERS + i].any()]
            means.append(torch.stack(known).mean(0) if known else torch.zeros(TEXT_DIM))
        seen: Tensor = self.model.text_view.fallback(
            torch.cat([self.d[:, None], torch.stack(means)], 1)
        )
        return seen

    def items_alone(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(USERS, DIM), x[USERS:]])

    def states(self, x: Tensor, num_layers: int) -> list[Tensor]:
        found = [x]
        for _ in range(num_layers):
            found.append(self.a @ found[-1])
        return found

    def text_states(self) -> list[Tensor]:
        z = self.z if self.settings.users_have_text else self.items_alone(self.z)
        return self.states(z, self.settings.text_layers)

    def mean(self, states: list[Tensor], own: Tensor) -> Tensor:
        return torch.stack([own, *(self.hop @ x[USERS:] for x in states[:-1])]).mean(0)

    def newest(self, x_IC: Tensor, decay: float) -> Tensor:
        x, rows = normalize(x_IC, dim=1), []
        for history in self.items:
            weight = torch.tensor([decay**k for k in range(len(history))]).flip(0)
            rows.append((weight[:, None] * x[history]).sum(0) / weight.sum())
        return torch.stack(rows)

    def paper(self) -> Tensor:
        settings, num_layers = self.settings, self.model.num_layers
        z = self.z if settings.users_have_text else self.items_alone(self.z)
        passed, x = [], self.e
        for layer in range(num_layers + 1):
            passed.append(self.fused(layer, x, z, self.trained.feature, np.arange(USERS)))
            x = self.a @ passed[-1]
        own, own_z = self.row(passed), self.text_row()
        text = self.mean(self.text_states(), own_z)
        states = [own, *(self.hop @ x[USERS:] for x in passed[:-1])]
        everyone = np.arange(len(self.items))
        fused = [self.fused(k, x, own_z, self.d, everyone) for k, x in enumerate(states)]
        graph = torch.stack(states).mean(0)
        return {
            "fused": torch.stack(fused).mean(0),
            "concat": torch.cat([graph, text], 1),
            "alpha": (graph + text) / 2,
        }[settings.readout]

    def fused(self, layer: int, x: Tensor, z: Tensor, feature: Tensor, users: np.ndarray) -> Tensor:
        gamma = torch.ones(len(x), 1)
        if self.settings.has_gates:
            gamma = self.model.gates[layer](x, z, feature)
        if self.settings.gate.sides == "items":
            gamma = gamma.index_fill(0, torch.from_numpy(users), 1.0)
        return gamma * x + (1 - gamma) * z


@kinds
@pytest.mark.parametrize("known", [True, False])
def test_other_items_give_what_propagation_past_fixed_items_gives(
    graph: Graph, kind: str, settings: dict[str, Any], known: bool
) -> None:
    trained, users = Trained(graph, kind, settings), np.array([3, 29, 8, 12]) if known else None
    items = [[5, 2, 9], [24], [0, 1, 2, 3, 4, 5, 6, 24], [11, 3]]
    together = Histories(
        np.cumsum([0, *map(len, items)]),
        np.concatenate(items),
        np.concatenate([np.arange(len(history))[::-1] for history in items]).astype(float),
    )
    fold_in = trained.fold_in()
    found = fold_in(together, None if users is None else trained.rows(users))
    expected = Dense(trained, items, users).final()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if users is None:  # one user at a time is served as many are
        alone = [fold_in(Histories.of_one(history)) for history in items]
        torch.testing.assert_close(torch.cat(alone), found, rtol=1e-5, atol=1e-6)


def test_validation_items_are_the_newest_and_share_their_place(graph: Graph) -> None:
    rows = EdgeRows.of_graph(graph)
    users = np.array([1, 0, 29])
    before, after = (Histories.of_graph(rows, users, with_valid) for with_valid in (False, True))
    held = np.diff(graph.held_out("valid").indptr)[users]
    assert held.tolist() == [0, 3, 1]
    assert (after.degree - before.degree).tolist() == held.tolist()
    assert sorted(before.age[: before.degree[0]]) == list(range(before.degree[0]))
    for k in range(3):
        old, new = (slice(*h.indptr[k : k + 2]) for h in (before, after))
        count, age = before.degree[k], after.age
        assert after.items[new][:count].tolist() == before.items[old].tolist()
        assert (age[new][:count] == before.age[old] + held[k]).all()
        assert (age[new][count:] == (held[k] - 1) / 2).all()


@kinds
def test_with_validation_items_items_and_users_without_one_stay(
    graph: Graph, kind: str, settings: dict[str, Any]
) -> None:
    trained = Trained(graph, kind, settings)
    before = trained.final()
    after = trained.fold_in().with_validation_items(before)
    changed = np.diff(graph.held_out("valid").indptr) > 0
    stays = torch.from_numpy(np.r_[~changed, np.ones(ITEMS, bool)])
    assert torch.equal(after[stays], before[stays])
    assert ((after - before).abs().amax(1) > 1e-3)[:USERS].numpy()[changed].all()


def test_a_model_of_rows_alone_is_refused(graph: Graph) -> None:
    for kind, settings in (("mf", {}), ("lightgcn", {"num_layers": 0})):
        with pytest.raises(ConfigError, match=r"mf, and a model of model\.num_layers: 0"):
            Trained(graph, kind, settings).fold_in()
