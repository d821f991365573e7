"""A sample of the users with held-out items, the same in every validation and on every rank."""

import numpy as np

from recmind_dist.graph import Graph
from recmind_dist.randomness import Permutation, stream_key
from recmind_dist.types import IntArray


def users_with_held_out(graph: Graph, split: str) -> IntArray:
    """Users (nodes) with items in a split, ascending: the same on every rank."""
    users: IntArray = np.flatnonzero(np.diff(graph.held_out(split).indptr))
    return users


def sampled_users(graph: Graph, split: str, max_users: int, seed: int) -> IntArray | None:
    """`max_users` users with items in a split, ascending; None: all, for there are no more.

    The draw is a function of (seed, split) and of who has held-out items: the same on every rank.

    Args:
        max_users: 0: no limit.
    """
    if not max_users:
        return None
    users = users_with_held_out(graph, split)
    if len(users) <= max_users:
        return None
    shuffle = Permutation(len(users), stream_key(seed, f"users of {split}"))
    return np.sort(users[shuffle(np.arange(max_users))])
