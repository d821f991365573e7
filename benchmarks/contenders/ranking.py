"""Scores of any model → ranked items, by the rule for ties that all rankings here have."""

from collections.abc import Callable

import numpy as np
import torch

from recmind_dist.evaluation.ranking import RankUsers
from recmind_dist.evaluation.topk import PADDING, top_k
from recmind_dist.types import FloatArray, IntArray

ScoreUsers = Callable[[IntArray], FloatArray]
"""Users [u] → scores [u, I]; the array may be overwritten."""
USER_BLOCK = 512


def rank_by_scores(score_users: ScoreUsers, k: int) -> RankUsers:
    """Ranks the k best unseen items of each user; of equal scores the lower item id first."""

    def rank_users(users: IntArray, seen_indptr: IntArray, seen: IntArray) -> IntArray:
        ranked = np.full((len(users), k), PADDING, np.int64)
        for start in range(0, len(users), USER_BLOCK):
            stop = min(start + USER_BLOCK, len(users))
            scores = torch.from_numpy(np.ascontiguousarray(score_users(users[start:stop])))
            counts = np.diff(seen_indptr[start : stop + 1])
            rows = torch.from_numpy(np.repeat(np.arange(stop - start), counts))
            masked = np.asarray(seen[seen_indptr[start] : seen_indptr[stop]], np.int64)
            scores[rows, torch.from_numpy(masked)] = -torch.inf
            values, columns = top_k(scores, k)
            best = torch.where(values == -torch.inf, PADDING, columns).numpy()
            ranked[start:stop, : best.shape[1]] = best
        return ranked

    return rank_users
