"""Which interactions item vectors may learn from."""

from pathlib import Path

import numpy as np

from recmind_dist.pipeline.item_vectors import may_teach
from recmind_dist.sampling.edge_masks import heldout_slice
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of


def test_what_gates_learn_from_and_items_without_text_teach_nothing(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(40, 30, 300, 0), 40, 30)
    gate = {"heldout_share": 0.5, "withheld_items": 0.1}
    config = config_of(tmp_path, "run", model={"kind": "recmind", "gate": gate})
    has_text = np.arange(30) % 7 != 0
    allowed = may_teach(config, graph, has_text)
    item = np.asarray(graph.indices[: graph.num_edges]) - graph.num_users
    heldout = heldout_slice(graph, 0.5, config.graph.seed, 0.1)
    assert heldout.sum() > 20
    np.testing.assert_array_equal(allowed, ~heldout & (item % 7 != 0))
    trains_gates = {"kind": "recmind", "gate": {**gate, "learn_on": "train"}}
    whole = may_teach(config_of(tmp_path, "run", model=trains_gates), graph, has_text)
    np.testing.assert_array_equal(whole, item % 7 != 0)
