"""Baselines without vectors: item-item weights in closed form, neighbours, and popularity.

A user's scores are their row of decay^age times the item-item weights. Shapes: U users, I items, H
entries of all histories.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csc_matrix, csr_matrix

from recmind_dist.types import FloatArray, IntArray

SECONDS_A_DAY = 86_400.0
_BLOCK = 2048  # columns that are mirrored at once


def ease_weights(x_UI: csr_matrix, l2: float) -> FloatArray:
    """B = I − P · diag(1 / P_jj) with P = (XᵀX + λI)⁻¹: the best linear map with a zero diagonal.

    Source: arXiv:1905.03375, eq. 8. By Cholesky in float32: about n³ operations.

    Args:
        x_UI: binary.
        l2: λ.
    Returns:
        [I, I], column j has the weights that score item j.
    """
    p = np.asfortranarray((x_UI.T @ x_UI).toarray(), dtype=np.float32)
    np.fill_diagonal(p, p.diagonal() + np.float32(l2))
    p, failed = spotrf(p, lower=1, overwrite_a=1)
    assert not failed, "XᵀX + λI has no Cholesky factor"
    p, failed = spotri(p, lower=1, overwrite_c=1)
    assert not failed, "the Cholesky factor is singular"
    _mirror_lower(p)
    b: FloatArray = p.T  # the same matrix by rows: a sparse product would copy it by columns
    b /= -b.diagonal()[None, :].copy()
    np.fill_diagonal(b, 0.0)
    return b


def cosine_similarity(x_UI: csr_matrix, shrink: float) -> csc_matrix:
    """n_ij / (√(n_i n_j) + shrink) for i ≠ j, where n counts users. Shape: [I, I]."""
    both = (x_UI.T @ x_UI).tocoo()
    apart = both.row != both.col
    row, col, count = both.row[apart], both.col[apart], both.data[apart]
    degree = np.asarray(x_UI.sum(axis=0), np.float64).ravel()
    similarity = count / (np.sqrt(degree[row] * degree[col]) + shrink)
    return csc_matrix((similarity.astype(np.float32), (row, col)), both.shape)


def keep_nearest(similarity: csc_matrix, k: int) -> csc_matrix:
    """The k most similar items of each column; of equal ones those of lower id."""
    column = np.repeat(np.arange(similarity.shape[1]), np.diff(similarity.indptr))
    order = np.lexsort((similarity.indices, -similarity.data, column))
    rank = np.arange(len(order)) - similarity.indptr[:-1][column]
    kept = order[rank < k]  # column by column still
    return csc_matrix(
        (similarity.data[kept], (similarity.indices[kept], column[kept])), similarity.shape
    )


def popularity_lately(items_H: IntArray, age_H: IntArray, decay: float, num_items: int) -> NDArray:
    """[I] how often an item was taken, each time with weight decay^age, as float32."""
    weights = decay ** age_H.astype(np.float64)
    return np.bincount(items_H, weights, num_items).astype(np.float32)


def popularity_at(
    items_H: IntArray, time_H: IntArray, at_U: IntArray, half_life_days: float, num_items: int
) -> FloatArray:
    """Popularity as it stood at a time of each user's own: later interactions do not count.

    An interaction has half its weight after a half-life. Source: DecayPop in arXiv:2005.13829.

    Args:
        time_H: seconds, of all training interactions.
        at_U: seconds, of each user: when their last known interaction was.
    Returns:
        [U, I]: for small data sets only.
    """
    half_life = half_life_days * SECONDS_A_DAY
    log = np.argsort(time_H, kind="stable")
    items, times = items_H[log], time_H[log]
    scores = np.zeros((len(at_U), num_items), np.float32)
    standing, now, done = np.zeros(num_items), float(times[0]), 0
    for user in np.argsort(at_U, kind="stable"):
        then = float(at_U[user])
        if then < now:
            continue  # nobody had done anything yet
        until = int(np.searchsorted(times, at_U[user], side="right"))
        standing *= 0.5 ** ((then - now) / half_life)
        weights = 0.5 ** ((then - times[done:until]) / half_life)
        standing += np.bincount(items[done:until], weights, num_items)
        scores[user], now, done = standing, then, until
    return scores


def _mirror_lower(a: FloatArray) -> None:
    """Copies the lower triangle over the upper one, in place."""
    for start in range(0, len(a), _BLOCK):
        stop = min(start + _BLOCK, len(a))
        corner = np.tril(a[start:stop, start:stop])
        a[start:stop, start:stop] = corner + np.tril(corner, -1).T
        a[start:stop, stop:] = a[stop:, start:stop].T
