"""Whom to rank for: vectors of known users, of histories and of texts.

Legend: u users, C columns of a vector.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.types import FloatArray, Int32Array, IntArray

ExternalId: TypeAlias = str | int


@dataclass(frozen=True)
class Profiles:
    """u users or texts, ready to be ranked for.

    Attributes:
        user_ids: external ids; None: a new user or a text.
        rows: of users.parquet; -1: a new user or a text. Shape: [u].
        vectors: shape [u, C].
        histories: positions of each user's items, the oldest first.
        by_text: the vectors are of texts, whoever the users are.
    """

    user_ids: list[str | None]
    rows: IntArray
    vectors: FloatArray
    histories: list[Int32Array]
    by_text: bool = False

    def __len__(self) -> int:
        return len(self.user_ids)

    def take(self, rows: IntArray) -> "Profiles":
        """Some of them."""
        return Profiles(
            [self.user_ids[row] for row in rows],
            self.rows[rows],
            self.vectors[rows],
            [self.histories[row] for row in rows],
            self.by_text,
        )

    @staticmethod
    def joined(parts: Sequence["Profiles"]) -> "Profiles":
        """One after another, to be ranked at once."""
        return Profiles(
            [user_id for part in parts for user_id in part.user_ids],
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.vectors for part in parts]),
            [history for part in parts for history in part.histories],
            all(part.by_text for part in parts),
        )


def external_ids(values: Iterable[Any]) -> list[str]:
    """Ids as text: of a list, an array, an Arrow column, or a series of polars or pandas."""
    listed = getattr(values, "to_pylist", None) or getattr(values, "tolist", None)
    return [str(value) for value in (listed() if listed else values)]


def rows_of_users(bundle: Bundle, user_ids: Sequence[str]) -> tuple[IntArray, dict[str, str]]:
    """Rows of the known users, and for each other why it has none."""
    known = bundle.users.position
    rows = [known[user_id] for user_id in user_ids if user_id in known]
    left_out = {user_id: f"not in {bundle.name}" for user_id in user_ids if user_id not in known}
    return np.array(rows, np.int64), left_out


def row_of_user(bundle: Bundle, user_id: ExternalId) -> int:
    """Raises DataError: the user is not in the bundle."""
    users = bundle.users
    row = users.position.get(str(user_id))
    if row is None:
        example = f", whose users have ids like {users.ids[0]!r}" if users.ids else ""
        raise DataError(f"user {str(user_id)!r} is not in {bundle.name}{example}: give a history")
    return row


def known_profiles(bundle: Bundle, rows: IntArray) -> Profiles:
    """Of users by their rows, as they stand in the bundle."""
    users = bundle.users
    ids: list[str | None] = [users.ids[row] for row in rows]
    return Profiles(ids, rows, users.vectors(rows), users.histories(rows))


def folded_profiles(
    fold_in: FoldIn, bundle: Bundle, histories: Sequence[Int32Array], row: int | None = None
) -> Profiles:
    """Of histories; with `row` of a known user, whose own row and text join the items of one."""
    base = text = None
    if row is not None:
        users, at = bundle.users, np.array([row])
        base = users.base(at) if "base" in users.columns else None
        text = users.text(at) if "text" in users.columns else None
    vectors = fold_in(Histories.of(histories), base, text)
    rows = np.full(len(histories), -1 if row is None else row, np.int64)
    ids = [None if row is None else bundle.users.ids[row]] * len(histories)
    return Profiles(ids, rows, vectors, list(histories))


def positions_of_history(bundle: Bundle, history: Iterable[Any]) -> Int32Array:
    """Positions of a history's items.

    Raises:
        DataError: it is empty, or names an item twice or one that the bundle does not have.
    """
    ids, known = external_ids(history), bundle.item_position
    if not ids:
        raise DataError(
            "the history is empty: give item ids, the oldest first, or rank for a user of "
            f"{bundle.name}"
        )
    if unknown := [item_id for item_id in ids if item_id not in known]:
        raise DataError(
            f"item {unknown[0]!r} of the history is not in {bundle.name}, whose "
            f"{bundle.num_items} items have ids like {bundle.item_ids[0]!r}: leave it out, or "
            "train again with it"
        )
    if twice := [item_id for item_id, count in Counter(ids).items() if count > 1]:
        raise DataError(
            f"item {twice[0]!r} stands twice in the history: give it once, at its newest place"
        )
    return np.array([known[item_id] for item_id in ids], np.int32)
