"""Why an item was recommended: shares of its score by view, gates, the nearest of the history.

Legend: u users, C columns of a vector, K views.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.gates import unit_rows
from recmind_dist.recommend.profiles import Profiles
from recmind_dist.recommend.replies import Neighbor, Recommendation
from recmind_dist.types import FloatArray, Int32Array

BIAS = "bias"
NEAREST = 3
"""Items of the history that are named beside a recommendation."""


def explained(
    bundle: Bundle,
    vector_C: FloatArray,
    history: Int32Array,
    positions: Sequence[int],
    scores: Sequence[float],
) -> tuple[Recommendation, ...]:
    """The items at `positions`, with what their scores are made of."""
    if not positions:
        return ()
    shares = shares_of(bundle, vector_C, np.array(positions))
    nearest = nearest_of(bundle, positions, history)
    ids, titles = bundle.item_ids, bundle.titles
    return tuple(
        Recommendation(ids[item], titles[item], score, share, near)
        for item, score, share, near in zip(positions, scores, shares, nearest, strict=True)
    )


def shares_of(
    bundle: Bundle, vector_C: FloatArray, positions: NDArray[np.integer[Any]]
) -> list[dict[str, float]]:
    """What each view and the bias add to the scores of some items."""
    products = bundle.item_vectors[positions] * vector_C
    end = bundle.views[-1].stop
    shares: list[dict[str, float]] = [{} for _ in positions]
    for view in bundle.views:
        for share, part in zip(shares, products[:, view.start : view.stop].sum(1), strict=True):
            share[view.name] = share.get(view.name, 0.0) + float(part)
    if products.shape[1] > end:
        for share, part in zip(shares, products[:, end:].sum(1), strict=True):
            share[BIAS] = float(part)
    return shares


def nearest_of(
    bundle: Bundle, positions: Sequence[int], history: Int32Array, count: int = NEAREST
) -> list[tuple[Neighbor, ...]]:
    """For each item the items of a history that are nearest to it, itself not among them."""
    if not len(history):
        return [()] * len(positions)
    cosines = unit_views(bundle, positions) @ unit_views(bundle, history).T
    cosines[np.asarray(positions)[:, None] == history[None]] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    ids, titles = bundle.item_ids, bundle.titles
    return [
        tuple(
            Neighbor(ids[history[at]], titles[history[at]], float(row[at]))
            for at in places
            if np.isfinite(row[at])
        )
        for row, places in zip(cosines, order, strict=True)
    ]


def unit_views(bundle: Bundle, positions: Any) -> FloatArray:
    """Vectors of some items at unit length, without the bias, whose inner products are cosines."""
    return unit_rows(bundle.item_vectors[positions, : bundle.views[-1].stop])


def gates_of(bundle: Bundle, fold_in: FoldIn | None, profiles: Profiles) -> list[dict[str, float]]:
    """γ by view, a user each; empty where the model has no gates, and of texts."""
    if fold_in is None or profiles.by_text or not has_gates(bundle.manifest):
        return [{} for _ in profiles.user_ids]
    histories, known = Histories.of(profiles.histories), np.flatnonzero(profiles.rows >= 0)
    base = None
    if len(known) and "base" in bundle.users.columns:
        base = np.zeros((len(profiles), bundle.users.width("base")), np.float32)
        base[known] = bundle.users.base(profiles.rows[known])
    found: list[dict[str, float]] = []
    for gamma in fold_in.gamma(histories, base).tolist():
        weights: dict[str, float] = {}
        for view, weight in zip(bundle.views, gamma, strict=True):
            weights[view.name] = weights.get(view.name, 0.0) + weight
        found.append(weights)
    return found


def has_gates(manifest: Mapping[str, Any]) -> bool:
    """Whether the bundle says how much each view weighs for a user."""
    return manifest["model"] == "recmind" and manifest["fold_in"] is not None
