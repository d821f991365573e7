"""Section on the vectors that rank: alignment and uniformity, from the runs' bundles.

Source: arXiv:2005.10242.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recmind_dist.errors import RecmindError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.report_page.html import note, section, table
from recmind_dist.report_page.runs import ReportedRun
from recmind_dist.types import FloatArray

BLOCKS, BLOCK = 8, 512
"""Users are drawn in blocks, since their rows are read in groups."""
PAIRS = 20_000
HEADERS = ("run", "alignment", "uniformity of users", "uniformity of items")


def vectors_section(runs: Sequence[ReportedRun], seed: int = 0) -> str:
    """A row a run that has a bundle, and a sentence for one that should."""
    rows, missing = [], []
    for run in runs:
        if not run.config.trains:
            continue  # popularity and texts alone have no bundle
        try:
            rows.append([run.label, *alignment_and_uniformity(run.directory.bundle, seed)])
        except RecmindError as error:
            missing.append(note(f"No vectors of {run.label}: {error}"))
    if not rows:
        return section("vectors", "Alignment and uniformity", missing)
    about = (
        "Of unit vectors. Alignment: mean squared distance of a user and an item of the history, "
        "the lower the nearer. Uniformity: log of the mean of exp(−2 d²) over pairs of users or of "
        "items, the lower the more evenly spread. A sample of users and pairs."
    )
    caption = "Alignment and uniformity"
    return section("vectors", caption, [*missing, note(about), table(caption, HEADERS, rows)])


def alignment_and_uniformity(
    path: Path, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Of the vectors by which a bundle ranks, biases left out: alignment, uniformity of users and
    of items; None where there is no pair.

    Raises StoreError: no bundle, or a damaged one.
    """
    bundle, rng = Bundle.open(path), np.random.default_rng(seed)
    columns = bundle.views[-1].stop
    starts = rng.integers(0, max(bundle.num_users - BLOCK, 0) + 1, BLOCKS)
    rows = np.unique(np.minimum(starts[:, None] + np.arange(BLOCK), bundle.num_users - 1))
    users_nC = bundle.users.vectors(rows)[:, :columns]
    items_IC = bundle.item_vectors[:, :columns]
    histories = bundle.users.histories(rows)
    user = np.repeat(np.arange(len(rows)), [len(items) for items in histories])
    drawn = rng.choice(len(user), min(PAIRS, len(user)), replace=False)
    user, item = user[drawn], np.concatenate(histories)[drawn]
    alignment = _squared_distance(users_nC[user], items_IC[item])
    return (
        float(alignment.mean()) if len(alignment) else None,
        _uniformity(users_nC, rng),
        _uniformity(items_IC, rng),
    )


def _uniformity(vectors_nC: FloatArray, rng: np.random.Generator) -> float | None:
    a, b = rng.integers(0, len(vectors_nC), (2, PAIRS))
    a, b = a[a != b], b[a != b]
    if not len(a):
        return None
    return float(np.log(np.exp(-2 * _squared_distance(vectors_nC[a], vectors_nC[b])).mean()))


def _squared_distance(a_nC: FloatArray, b_nC: FloatArray) -> FloatArray:
    """Between the directions of vectors. Shape: [n]."""
    units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a_nC, b_nC)]
    return np.asarray(np.square(units[0] - units[1]).sum(1))
