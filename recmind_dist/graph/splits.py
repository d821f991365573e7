"""Which interactions are trained on and which are held out: pure functions on arrays.

Arrays are aligned by interaction [M]: `user` and `item` are codes from 0, `time` and `row` decide
what is newer (equal times go by source row). Each function returns labels int8 [M]: TRAIN, VALID or
TEST (or WITHHELD, under the cold protocol).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.randomness import integers, stream_key, uniforms, words
from recmind_dist.types import IntArray

TRAIN, VALID, TEST, WITHHELD = 0, 1, 2, 3
MIN_FOR_HOLDOUT = (
    3  # leave-one-out needs one interaction each to train on, to validate on and to test on
)

Labels = NDArray[np.int8]
Times = NDArray[Any]  # int64 or float64


@dataclass(frozen=True)
class Interactions:
    """Aligned columns of a log. Shapes: all [M]."""

    user: IntArray
    item: IntArray
    time: Times
    row: IntArray


def chronology(log: Interactions) -> IntArray:
    """Indices that put interactions by user, then oldest first. Shape: [M]."""
    return np.lexsort((log.row, log.time, log.user))


def leave_one_out(log: Interactions) -> Labels:
    """Each user's newest is TEST, second newest VALID; users with fewer than three interactions
    keep all in TRAIN.
    """
    order = chronology(log)
    from_end, count = _place_from_end(log.user[order])
    enough = count >= MIN_FOR_HOLDOUT
    labels = np.zeros(len(order), dtype=np.int8)
    labels[order[enough & (from_end == 0)]] = TEST
    labels[order[enough & (from_end == 1)]] = VALID
    return labels


def ratio(log: Interactions, valid_share: float, test_share: float) -> Labels:
    """Of a user's n interactions the newest ⌊n·test_share⌋ are TEST, the ⌊n·valid_share⌋ before
    them VALID.
    """
    order = chronology(log)
    from_end, count = _place_from_end(log.user[order])
    test = _share_of(count, test_share)
    valid = _share_of(count, valid_share)
    labels = np.zeros(len(order), dtype=np.int8)
    labels[order[from_end < test + valid]] = VALID
    labels[order[from_end < test]] = TEST
    return labels


def global_time(log: Interactions, valid_share: float, test_share: float) -> Labels:
    """Two cut times for the whole log: what is at or after a cut is held out, so equal times never
    straddle it.

    The cuts stand where the newest test_share, and before it valid_share, of the interactions
    begin.
    """
    ordered = np.sort(log.time)
    labels = np.zeros(len(ordered), dtype=np.int8)
    test = int(_share_of(np.array([len(ordered)]), test_share)[0])
    valid = int(_share_of(np.array([len(ordered)]), valid_share)[0])
    if test + valid:
        labels[log.time >= ordered[-(test + valid)]] = VALID
        labels[log.time >= (ordered[-test] if test else np.inf)] = TEST
        if not valid:
            labels[labels == VALID] = TEST
    return labels


def share_of_training(
    labels: Labels, log: Interactions, num_items: int, valid_share: float, seed: int
) -> Labels:
    """Moves a seeded share of each user's TRAIN interactions, ⌊n·valid_share⌋, to VALID; never
    touches TEST.

    The draw is a function of (seed, user, item), so the order of the file does not matter.
    """
    train = np.flatnonzero(labels == TRAIN)
    draw = words(
        stream_key(seed, "validation share"), log.user[train] * num_items + log.item[train]
    )
    order = train[np.lexsort((draw, log.user[train]))]
    from_end, count = _place_from_end(log.user[order])
    out = labels.copy()
    out[order[from_end < _share_of(count, valid_share)]] = VALID
    return out


def withhold(labels: Labels, log: Interactions, num_items: int, share: float, seed: int) -> Labels:
    """The cold protocol: items drawn by `share` keep 0..3 of their TRAIN interactions, the rest
    become WITHHELD.

    Which items and which interactions is a function of (seed, user, item). A user's last
    interaction left stays.
    """
    items = np.arange(num_items, dtype=np.int64)
    key = stream_key(seed, "withheld items")
    chosen = uniforms(stream_key(key, "items"), items) < share
    keeps = integers(stream_key(key, "keeps"), items, 4)
    train = np.flatnonzero(labels == TRAIN)
    draw = words(stream_key(key, "edges"), log.user[train] * num_items + log.item[train])
    order = train[np.lexsort((draw, log.item[train]))]
    from_end, _ = _place_from_end(log.item[order])
    dropped = order[chosen[log.item[order]] & (from_end >= keeps[log.item[order]])]
    out = labels.copy()
    out[dropped] = WITHHELD
    left = np.bincount(log.user[out == TRAIN], minlength=int(log.user.max(initial=-1)) + 1)
    emptied = dropped[left[log.user[dropped]] == 0]
    _, first = np.unique(log.user[emptied], return_index=True)
    out[emptied[first]] = TRAIN
    return out


def rank_in_time(log: Interactions) -> IntArray:
    """Place of each interaction in its user's chronology, 0 the oldest. Shape: [M]."""
    order = chronology(log)
    from_end, count = _place_from_end(log.user[order])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = count - 1 - from_end
    return rank


def _share_of(count: IntArray, share: float) -> IntArray:
    # 0.1 · 30 is 3.0000000000000004 or 2.9999999999999996 by the luck of rounding: the nudge makes
    # it 3
    whole: IntArray = np.floor(count * share + 1e-9).astype(np.int64)
    return whole


def _place_from_end(user: IntArray) -> tuple[IntArray, IntArray]:
    """For users in runs: each element's distance from the end of its run, and the run's length."""
    if not len(user):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    lengths = np.diff(np.r_[starts, len(user)])
    ends = np.repeat(starts + lengths, lengths)
    return ends - 1 - np.arange(len(user)), np.repeat(lengths, lengths)
