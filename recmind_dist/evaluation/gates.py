"""Gate values by layer, side and degree: γ is the weight of the graph, 1 − γ that of language.

Claim under test (arXiv:2509.06286): γ falls where the graph knows little, Spearman(γ, degree) > 0.
Shapes: L layers, N nodes.
"""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from recmind_dist.evaluation.degree_bins import degree_bins
from recmind_dist.evaluation.significance import spearman_interval
from recmind_dist.types import FloatArray, IntArray


def gate_statistics(
    gamma_LN: FloatArray, degree_N: IntArray, num_users: int
) -> list[dict[str, Any]]:
    """Rows for results.json's "gate".

    Args:
        gamma_LN: γ of each layer and node, in [0, 1]
        degree_N: training degrees
        num_users: the first nodes are users
    Returns:
        For each layer and side, one row per degree bin that has nodes: {"layer", "side",
            "degree_bin", "mean", "median", "p10", "p90", "count"}; then one row {"layer", "side",
            "spearman", "spearman_low", "spearman_high", "count"}: the correlation with a 95 %
            bootstrap interval over nodes, null where γ or degree is constant.
    Raises:
        ValueError: a γ is outside [0, 1] or not finite.
    """
    gamma = np.asarray(gamma_LN, dtype=np.float64)
    degree = np.asarray(degree_N)
    if gamma.ndim != 2 or gamma.shape[1] != len(degree):
        raise ValueError(
            f"gates of shape {list(gamma.shape)} for {len(degree)} nodes: give [layers, nodes]"
        )
    outside = ~((gamma >= 0) & (gamma <= 1))  # true for NaN
    if outside.any():
        layer, node = map(int, np.argwhere(outside)[0])
        raise ValueError(
            f"gate of layer {layer}, node {node} is {gamma[layer, node]}: outside [0, 1]"
        )
    rows: list[dict[str, Any]] = []
    for layer, gamma_N in enumerate(gamma):
        for side, nodes in (("user", slice(0, num_users)), ("item", slice(num_users, None))):
            found = _by_degree(gamma_N[nodes], degree[nodes])
            found.append(_rank_correlation(gamma_N[nodes], degree[nodes]))
            rows += [{"layer": layer, "side": side, **row} for row in found]
    return rows


def _by_degree(gamma: np.ndarray, degree: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for name, low, high in degree_bins(int(degree.max(initial=0))):
        inside = gamma[(degree >= low) & (degree <= high)]
        if len(inside):
            p10, median, p90 = map(float, np.percentile(inside, [10, 50, 90]))
            row = {"degree_bin": name, "mean": float(inside.mean()), "median": median}
            rows.append({**row, "p10": p10, "p90": p90, "count": len(inside)})
    return rows


def _rank_correlation(gamma: np.ndarray, degree: np.ndarray) -> dict[str, Any]:
    constant = len(gamma) < 2 or gamma.min() == gamma.max() or degree.min() == degree.max()
    if constant:
        return {"spearman": None, "spearman_low": None, "spearman_high": None, "count": len(gamma)}
    low, high = spearman_interval(gamma, degree) or (None, None)
    middle = float(spearmanr(gamma, degree).statistic)
    return {"spearman": middle, "spearman_low": low, "spearman_high": high, "count": len(gamma)}
