"""Scores of a run's bundle, in numpy, beside those of its model, in torch.

Legend: u users, I items.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.ingest import SyntheticSettings, synthesize
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.propagation.histories import Histories
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.run_config.load import load_run_config
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.types import Int32Array

CONFIG = """
run_dir: {home}/run
cache_dir: {home}/cache
dataset: {{name: small, interactions: {home}/made/interactions.parquet}}
scaling: {{device: cpu}}
train: {{epochs: {epochs}}}
"""


@dataclass(frozen=True)
class Compared:
    """The largest absolute difference of two scores, the largest score, and what was compared."""

    difference: float
    largest: float
    what: str


def small_run(home: Path, quick: bool) -> Path:
    """Trains RecMind on a synthetic log, without texts; returns the run's directory."""
    size = SyntheticSettings(num_users=400, num_items=300, num_edges=6000)
    synthesize(size, home / "made")
    (home / "small.yaml").write_text(CONFIG.format(home=home, epochs=2 if quick else 5))
    return train_in_process(load_run_config(home / "small.yaml"), lambda _: None).path


def max_score_diff(run: Path, to: Path) -> Compared:
    """Exports the run to `to`, and scores all items for all users twice, by whole histories.

    Raises:
        RecmindError: the run cannot be read.
    """
    Pipeline.of_run(run, lambda _: None).export(to)
    bundle = Bundle.open(to, verify=True)
    everybody = np.arange(bundle.num_users)
    in_numpy = bundle.users.vectors(everybody) @ bundle.item_vectors.T
    in_torch = _scores_of_torch(run, bundle.users.histories(everybody)).numpy()
    finite = np.isfinite(in_numpy)
    assert (finite == np.isfinite(in_torch)).all(), "a user has a vector on one side alone"
    views = " + ".join(view.name for view in bundle.views)
    return Compared(
        float(np.abs(in_numpy - in_torch)[finite].max()),
        float(np.abs(in_torch[finite]).max()),
        f"{bundle.num_users} users x {bundle.num_items} items, {views}",
    )


def _scores_of_torch(run: Path, lists: list[Int32Array]) -> torch.Tensor:
    """Shape: [u, I]."""
    directory, config = read_run(run)
    model, cursor = load_best(config, read_inputs(directory), directory, DistContext.alone())
    num_users = model.graph.num_users
    items = model.final_embeddings().final[num_users:]
    items = items / items.norm(dim=1, keepdim=True).clamp_min(1e-12) ** cursor.norm_exponent
    histories = Histories(
        np.r_[0, np.cumsum([len(one) for one in lists])],
        np.concatenate(lists).astype(np.int64),
        np.concatenate([np.arange(len(one), dtype=np.float64)[::-1] for one in lists]),
    )
    row_of_user = torch.from_numpy(np.argsort(model.nodes)[:num_users])
    scores: torch.Tensor = model.fold_in()(histories, row_of_user) @ items.T
    return scores
