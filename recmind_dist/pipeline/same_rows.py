"""Rows of a run's checkpoints stay with the users and items that they were trained for."""

from pathlib import Path

import numpy as np

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.errors import CheckpointError
from recmind_dist.graph import Graph
from recmind_dist.report import RunDirectory
from recmind_dist.training.warm_start import rows_by_id


def refuse_other_rows(run: RunDirectory, graph: Path) -> None:
    """Raises CheckpointError if rows of the run's newest checkpoint would go to other users or
    items, or if the graph that it was trained on is gone, so that nobody knows.

    Args:
        graph: the directory of the graph to train on.
    """
    try:
        found = find_checkpoint(run.checkpoints, verify=False)
    except CheckpointError:
        return  # whoever looks for one to train on says so
    key = found.info.get("identity", {}).get("graph", "") if found else ""
    new = Graph.open(graph, edges=False)
    if key in ("", new.key):
        return
    remedy = (
        f"`recmind update {run.path} --to DIR` makes a run that takes its rows over by id; or "
        "choose another run_dir, or start over with --resume never"
    )
    own = graph.with_name(f"graph-{key[:12]}")
    if not own.is_dir():
        raise CheckpointError(
            f"{run.path}: trained on another graph, {own}, which is gone: restore it; {remedy}"
        )
    old = Graph.open(own, edges=False)
    rows = rows_by_id(old, new)
    if np.array_equal(rows, np.arange(old.num_nodes)):
        return
    came = int((rows < 0).sum())
    gone = old.num_nodes - (new.num_nodes - came)
    what = f"{came} new and {gone} gone" if came or gone else "the same, in other rows"
    raise CheckpointError(
        f"{run.path}: the data's users and items are not those that it was trained for ({what}): "
        f"{remedy}"
    )
