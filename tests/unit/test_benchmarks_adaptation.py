"""Adapted text vectors: the gates' slice stays unseen; ranks and encodings are the package's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.adaptation_data import Data, metrics
from benchmarks.adaptation_vectors import (
    CachedEncoder,
    TextAdapter,
    Whiten,
    fade,
    graph_tower,
    train_head,
    weighted_softmax,
)
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation import EvaluationSettings
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.settings import LoraSettings, TextSettings
from tests.graphs import make_graph, random_pairs
from tests.tiny_language_model import WORDS, make_bert

USERS, ITEMS = 24, 40


def make_data(home: Path, swap_heldout: bool = False) -> Data:
    """A data set whose last pair of each even user is the gates'; it may name another item."""
    pairs = random_pairs(USERS, ITEMS - 2, 260)
    newest = {u: k for k, (u, _) in enumerate(pairs)}
    heldout = [newest[u] for u in range(0, USERS, 2)]
    if swap_heldout:
        for k in heldout:
            pairs[k] = pairs[k][0], ITEMS - 1
    else:
        for k in heldout:
            pairs[k] = pairs[k][0], ITEMS - 2
    free = {u: [i for i in range(ITEMS - 2) if (u, i) not in set(pairs)] for u in range(USERS)}
    valid, test = ([(u, free[u][k]) for u in range(USERS)] for k in (0, 1))
    graph = make_graph(home / "data", pairs, USERS, ITEMS, valid=valid, test=test)
    (home / "graph").symlink_to(graph.path)
    config = {"dataset": {"name": "toy", "interactions": "none.tsv"}, "text": {}}
    (home / "config.json").write_text(json.dumps(config))
    texts = [f"{WORDS[i % 7]} {WORDS[i % 11]} {i}" for i in range(ITEMS)]
    (home / "texts.json").write_text(json.dumps(texts))
    edge = [_edge(graph, *pairs[k]) for k in heldout]
    np.save(home / "heldout.npy", np.array(edge))
    return Data(home, "cpu")


def _edge(graph, user: int, item: int) -> int:
    start, stop = graph.indptr[user], graph.indptr[user + 1]
    return int(start + np.searchsorted(graph.indices[start:stop], USERS + item))


def make_encoder(data: Data, home: Path, layers: int) -> CachedEncoder:
    settings = TextSettings(model=str(make_bert(home)), dtype="fp32")
    return CachedEncoder(TextEncoder.load(settings), data.texts, 64, layers)


def test_ranks_are_those_of_the_package(tmp_path):
    data = make_data(tmp_path)
    h = torch.randn(USERS + ITEMS, 6, generator=torch.Generator().manual_seed(0))
    h[USERS + 3] = h[USERS + 5]  # equal scores
    settings = EvaluationSettings(ks=(20, 40), norm_exponent=0.0)
    for split in ("valid", "test"):
        wanted = evaluate_embeddings(h, data.graph, split, settings, DistContext.alone()).metrics
        found = metrics(data, h[:USERS], h[USERS:], split)
        for name in ("recall@20", "recall@40", "ndcg@20"):
            assert found[name] == pytest.approx(wanted[name]), (split, name)


def test_whatever_the_gates_learn_from_no_vector_has_seen(tmp_path):
    made = []
    for name, swap in (("one", False), ("other", True)):
        (tmp_path / name).mkdir()
        data = make_data(tmp_path / name, swap)
        w = functional.normalize(torch.randn(ITEMS, 70, generator=torch.Generator().manual_seed(0)))
        towers = graph_tower(data, w, 3, seed=0)
        x = train_head(data, w, rows=True, rate=1e-2, steps=3, seed=0)
        made.append((*towers, x, data.hidden["valid"]))
    *vectors, seen = zip(*made, strict=True)
    assert not torch.equal(*seen), "the two data sets differ"
    for one, other in vectors:
        assert torch.equal(one, other)


@pytest.mark.parametrize("layers", [1, 2])
def test_kept_states_give_the_vectors_of_the_whole_model(tmp_path, layers):
    data = make_data(tmp_path)
    encoder = make_encoder(data, tmp_path / "bert", layers)
    whole = torch.from_numpy(encoder.encoder.encode(data.texts, 64))
    torch.testing.assert_close(encoder.all(), whole)
    some = torch.tensor([7, 0, 31])
    torch.testing.assert_close(encoder(some), whole[some])


@pytest.mark.parametrize("objectives", [("align",), ("users",), ("align", "users")])
def test_adapters_learn_and_the_frozen_model_stays(tmp_path, objectives):
    data = make_data(tmp_path)
    frozen = make_encoder(data, tmp_path / "bert", 2)
    before = frozen.all()
    whiten = Whiten(data, before)
    w = whiten(before)
    towers = (torch.randn(USERS, 64), torch.randn(ITEMS, 64))
    lora = LoraSettings(r=2, learning_rate=1e-2)
    adapter = TextAdapter(data, frozen, whiten, towers, objectives, lora, seed=0)
    torch.testing.assert_close(adapter.vectors()[0], w)
    adapter.train(steps=4, batch_items=12)
    assert not torch.allclose(adapter.vectors()[0], w)
    assert torch.equal(frozen.all(), before)


def test_the_softmax_leaves_out_what_the_user_has():
    logits = torch.tensor([[2.0, 0.5, 9.0, 1.0]])
    has = torch.tensor([[True, False, True, False]])
    weight = torch.tensor([1.0, 3.0, 1.0, 5.0])
    found = weighted_softmax(logits, torch.tensor([0]), has, weight)
    against = (1024 / 10) * (3 * np.exp(0.5) + 5 * np.exp(1.0))
    assert float(found) == pytest.approx(np.log(1 + against / np.exp(2.0)), rel=1e-5)


def test_items_without_edges_keep_their_frozen_vectors(tmp_path):
    data = make_data(tmp_path)
    w, x = torch.zeros(ITEMS, 3), torch.ones(ITEMS, 3)
    faded = fade(data, w, x, 3.0)
    assert torch.equal(faded[data.degree_I == 0], w[data.degree_I == 0])
    torch.testing.assert_close(faded[:, 0], data.degree_I / (data.degree_I + 3.0))
