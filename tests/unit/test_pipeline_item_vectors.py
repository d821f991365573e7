"""Which interactions item vectors may learn from."""

from pathlib import Path

import numpy as np
import pytest

from recmind_dist.graph import Graph
from recmind_dist.pipeline import item_vectors
from recmind_dist.pipeline.item_vectors import allowed_interactions, with_item_vectors
from recmind_dist.report import RunDirectory
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.text import TextStore
from recmind_dist.training.run_stores import RunStores
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of


def test_what_gates_learn_from_and_items_without_text_teach_nothing(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(40, 30, 300, 0), 40, 30)
    gate = {"heldout_share": 0.5, "withheld_items": 0.1}
    config = config_of(tmp_path, "run", model={"kind": "recmind", "gate": gate})
    has_text = np.arange(30) % 7 != 0
    allowed = allowed_interactions(config, graph, has_text)
    item = np.asarray(graph.indices[: graph.num_edges]) - graph.num_users
    heldout = heldout_slice(graph, 0.5, config.graph.seed, 0.1)
    assert heldout.sum() > 20
    np.testing.assert_array_equal(allowed, ~heldout & (item % 7 != 0))
    trains_gates = {"kind": "recmind", "gate": {**gate, "learn_on": "train"}}
    whole = allowed_interactions(config_of(tmp_path, "run", model=trains_gates), graph, has_text)
    np.testing.assert_array_equal(whole, item % 7 != 0)


def test_runs_side_by_side_learn_from_the_same_texts_log_and_seed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, lessons = item_vectors.learn_item_vectors, []
    monkeypatch.setattr(
        item_vectors, "learn_item_vectors", lambda *given: lessons.append(1) or learn(*given)
    )
    graphs = [
        make_graph(tmp_path / name, random_pairs(40, 30, 300, k), 40, 30)
        for k, name in enumerate(("graph", "other-graph"))
    ]

    def vectors(home: str, name: str, graph: Graph, **train: int) -> np.ndarray:
        model = {"kind": "recmind", "item_offsets": "alone", "views": "all", "text_layers": 2}
        config = config_of(tmp_path / home, name, model=model, train=train).absolute()
        run = RunDirectory(config.run_dir)
        run.create()
        found = with_item_vectors(config, run, RunStores(graph.path), None, print)
        assert found.text is not None
        return TextStore.open(found.text).read_all("items")

    first = vectors("study", "first", graphs[0])
    np.testing.assert_array_equal(vectors("study", "second", graphs[0]), first)
    assert len(lessons) == 1
    np.testing.assert_array_equal(vectors("elsewhere", "alone", graphs[0]), first)
    assert len(lessons) == 2
    for name, graph, seed in (("other-seed", graphs[0], 1), ("other-log", graphs[1], 0)):
        assert not np.array_equal(vectors("study", name, graph, seed=seed), first), name
    assert len(lessons) == 4
