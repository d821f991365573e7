"""Splits: pure functions from M interactions to labels int8 [M]: TRAIN, VALID, TEST or WITHHELD.

Interactions are ordered by time; equal times by source row, without times as drawn (`shuffled`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.randomness import integers, stream_key, uniforms, words
from recmind_dist.types import IntArray

TRAIN, VALID, TEST, WITHHELD = 0, 1, 2, 3
MIN_FOR_HOLDOUT = 3  # leave-one-out needs one interaction each for training, validation and test

Labels = NDArray[np.int8]
Times = NDArray[Any]  # int64 or float64


@dataclass(frozen=True)
class Interactions:
    """Columns of a log; user and item are codes from 0. Shapes: all [M].

    Attributes:
        weight: float64; None: all weigh the same.
    """

    user: IntArray
    item: IntArray
    time: Times
    row: IntArray
    weight: NDArray[np.float64] | None = None

    def __getitem__(self, chosen: np.ndarray) -> "Interactions":
        weight = None if self.weight is None else self.weight[chosen]
        return Interactions(
            self.user[chosen], self.item[chosen], self.time[chosen], self.row[chosen], weight
        )


def shuffled(log: Interactions, seed: int) -> Interactions:
    """The log with rows in a drawn order and no times: a file's order says nothing."""
    row = words(stream_key(seed, "order"), log.row).view(np.int64)
    return Interactions(log.user, log.item, np.zeros_like(log.time), row, log.weight)


def chronology(log: Interactions) -> IntArray:
    """The order by user, then oldest first. Shape: [M]."""
    if _is_in_order(log):  # as a log by time is whose rows were grouped by user
        return np.arange(len(log.row))
    return np.lexsort((log.row, log.time, log.user))


def _is_in_order(log: Interactions) -> bool:
    """Whether the rows are in `chronology`'s order already."""
    user, time, row = log.user, log.time, log.row
    later = (time[1:] > time[:-1]) | ((time[1:] == time[:-1]) & (row[1:] >= row[:-1]))
    return bool(((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & later)).all())


def leave_one_out(log: Interactions) -> Labels:
    """Of each user with three or more interactions the newest is TEST, the second newest VALID."""
    order = chronology(log)
    from_end, count = _position_from_end(log.user[order])
    enough = count >= MIN_FOR_HOLDOUT
    labels = np.zeros(len(order), dtype=np.int8)
    labels[order[enough & (from_end == 0)]] = TEST
    labels[order[enough & (from_end == 1)]] = VALID
    return labels


def ratio(log: Interactions, valid_share: float, test_share: float) -> Labels:
    """Of each user's n the newest ⌊n·test_share⌋ are TEST, the ⌊n·valid_share⌋ before VALID."""
    order = chronology(log)
    from_end, count = _position_from_end(log.user[order])
    test = _share_of(count, test_share)
    valid = _share_of(count, valid_share)
    labels = np.zeros(len(order), dtype=np.int8)
    labels[order[from_end < test + valid]] = VALID
    labels[order[from_end < test]] = TEST
    return labels


def global_time(log: Interactions, valid_share: float, test_share: float) -> Labels:
    """Cuts the whole log at two times, before the newest test_share and the valid_share before it.

    All interactions at or after a cut are held out, so a cut never divides equal times.
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
    """Moves ⌊n·valid_share⌋ of each user's n TRAIN interactions to VALID, drawn by (seed, user,
    item), so that the order of the file does not matter.
    """
    train = np.flatnonzero(labels == TRAIN)
    pair = log.user[train] * num_items + log.item[train]
    draw = words(stream_key(seed, "validation share"), pair)
    order = train[np.lexsort((draw, log.user[train]))]
    from_end, count = _position_from_end(log.user[order])
    out = labels.copy()
    out[order[from_end < _share_of(count, valid_share)]] = VALID
    return out


def withhold(labels: Labels, log: Interactions, num_items: int, share: float, seed: int) -> Labels:
    """Cold protocol: a drawn share of items keep 0..3 TRAIN interactions; the rest are WITHHELD.

    The draw is a function of (seed, user, item). Every user keeps at least one interaction.
    """
    items = np.arange(num_items, dtype=np.int64)
    key = stream_key(seed, "withheld items")
    chosen = uniforms(stream_key(key, "items"), items) < share
    num_kept = integers(stream_key(key, "keeps"), items, 4)
    train = np.flatnonzero(labels == TRAIN)
    draw = words(stream_key(key, "edges"), log.user[train] * num_items + log.item[train])
    order = train[np.lexsort((draw, log.item[train]))]
    from_end, _ = _position_from_end(log.item[order])
    dropped = order[chosen[log.item[order]] & (from_end >= num_kept[log.item[order]])]
    out = labels.copy()
    out[dropped] = WITHHELD
    left = np.bincount(log.user[out == TRAIN], minlength=int(log.user.max(initial=-1)) + 1)
    of_empty_users = dropped[left[log.user[dropped]] == 0]
    _, first = np.unique(log.user[of_empty_users], return_index=True)
    out[of_empty_users[first]] = TRAIN
    return out


def rank_in_time(log: Interactions) -> IntArray:
    """Position of each interaction in its user's chronology, 0 the oldest. Shape: [M]."""
    order = chronology(log)
    from_end, count = _position_from_end(log.user[order])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = count - 1 - from_end
    return rank


def _share_of(count: IntArray, share: float) -> IntArray:
    # 0.1 · 30 may be 2.9999999999999996 in floats
    whole: IntArray = np.floor(count * share + 1e-9).astype(np.int64)
    return whole


def _position_from_end(user: IntArray) -> tuple[IntArray, IntArray]:
    """Each element's distance from the end of its user's run, and the length of the run."""
    if not len(user):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    lengths = np.diff(np.r_[starts, len(user)])
    ends = np.repeat(starts + lengths, lengths)
    return ends - 1 - np.arange(len(user)), np.repeat(lengths, lengths)
