"""Why an item was recommended: shares of its score by view, gates, the nearest of the history.

Legend: n vectors, k items each, h items of the longest history, C columns, K views.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
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
    at = np.array([positions])
    [shares] = shares_of(bundle, vector_C[None], at)
    [nearest] = nearest_of(bundle, at, [history])
    ids, titles = bundle.item_ids, bundle.titles
    near = [tuple(Neighbor(ids[at], titles[at], cosine) for at, cosine in row) for row in nearest]
    return tuple(
        Recommendation(ids[item], titles[item], score, share, its_nearest)
        for item, score, share, its_nearest in zip(positions, scores, shares, near, strict=True)
    )


def shares_of(
    bundle: Bundle, vectors_nC: FloatArray, positions_nk: NDArray[np.integer[Any]]
) -> list[list[dict[str, float]]]:
    """What each view and the bias add to the scores of k items of each of n vectors."""
    products, views = bundle.item_vectors[positions_nk] * vectors_nC[:, None], bundle.views
    starts, names = [view.start for view in views], bundle.view_names
    if products.shape[2] > views[-1].stop:
        starts, names = [*starts, views[-1].stop], [*names, BIAS]
    parts = np.add.reduceat(products, starts, axis=2).tolist()
    return [[_summed(names, numbers) for numbers in row] for row in parts]


def _summed(names: Sequence[str], numbers: Sequence[float]) -> dict[str, float]:
    """Numbers by name; those of one name are added up."""
    found = dict(zip(names, numbers, strict=True))
    if len(found) < len(names):
        found = dict.fromkeys(names, 0.0)
        for name, number in zip(names, numbers, strict=True):
            found[name] += number
    return found


def nearest_of(
    bundle: Bundle,
    positions_nk: NDArray[np.integer[Any]],
    histories: Sequence[Int32Array],
    count: int = NEAREST,
) -> list[list[list[tuple[int, float]]]]:
    """For each of k items of n rankings the items of the row's history that are nearest to it,
    itself not among them, with their cosines.
    """
    longest = max(len(history) for history in histories)
    if not longest:
        return [[[] for _ in row] for row in positions_nk]
    history_nh = np.full((len(histories), longest), -1, np.int64)
    for row, history in zip(history_nh, histories, strict=True):
        row[: len(history)] = history
    units = unit_views(bundle, history_nh).swapaxes(1, 2)
    cosines = unit_views(bundle, positions_nk) @ units
    itself = positions_nk[:, :, None] == history_nh[:, None]
    cosines[itself | (history_nh < 0)[:, None]] = -np.inf
    order = np.argsort(-cosines, axis=2, kind="stable")[:, :, :count]
    nearest = np.take_along_axis(cosines, order, 2).tolist()
    items = np.take_along_axis(history_nh[:, None], order, 2).tolist()
    return [
        [
            [pair for pair in zip(*one, strict=True) if pair[1] > -math.inf]
            for one in zip(*row, strict=True)
        ]
        for row in zip(items, nearest, strict=True)
    ]


def unit_views(bundle: Bundle, positions: Any) -> FloatArray:
    """Vectors of some items at unit length, without the bias, whose inner products are cosines."""
    views = bundle.item_vectors[positions][..., : bundle.views[-1].stop]
    return np.asarray(views / bundle.item_lengths[positions][..., None], np.float32)


def gates_of(bundle: Bundle, fold_in: FoldIn | None, profiles: Profiles) -> list[dict[str, float]]:
    """γ by view, a user each; empty where the model has no gates, and of texts."""
    if fold_in is None or profiles.by_text or not has_gates(bundle.manifest):
        return [{} for _ in profiles.user_ids]
    histories, known = Histories.of(profiles.histories), np.flatnonzero(profiles.rows >= 0)
    base = None
    if len(known) and "base" in bundle.users.columns:
        base = np.zeros((len(profiles), bundle.users.width("base")), np.float32)
        base[known] = bundle.users.base(profiles.rows[known])
    names = bundle.view_names
    return [_summed(names, gamma) for gamma in fold_in.gamma(histories, base).tolist()]


def has_gates(manifest: Mapping[str, Any]) -> bool:
    """Whether the bundle says how much each view weighs for a user."""
    return manifest["model"] == "recmind" and manifest["fold_in"] is not None
