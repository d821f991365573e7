"""Ranks items for users, by a bundle or by the bundle of a finished run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recmind_dist.errors import DataError, StoreError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.ranking import top_items
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.types import FloatArray, Int32Array

RUN_BUNDLE = "bundle"
"""The bundle's directory in a run directory."""


@dataclass(frozen=True)
class Recommendation:
    """One ranked item: external id, title (empty without one), score."""

    item_id: str
    title: str
    score: float


class Recommender:
    """Ranks by a bundle; reads no more of it than a call needs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def recommend(self, user_id: str | int, k: int = 10) -> list[Recommendation]:
        """The k best items that the user has not seen, best first. The user's whole history
        counts, the items that evaluation held out among it.

        Raises:
            DataError: the user is not in the bundle, or has neither interactions nor text.
        """
        row = np.array([self._row_of(user_id)])
        history = self.bundle.users.histories(row)[0]
        vector = self.bundle.users.vectors(row)
        if not len(history) and not np.isfinite(vector).all():
            raise DataError(f"user {str(user_id)!r} has no interaction and no text: give a history")
        return self._rank(vector, history, k)

    def recommend_from(
        self, history: Sequence[str | int], k: int = 10, user_id: str | int | None = None
    ) -> list[Recommendation]:
        """The k best items that are not in a history, best first.

        Args:
            history: external ids of all items that count, the oldest first. It stands in place of
                what the bundle knows of the user.
            user_id: whose own row and text join the items; None: a new user.
        Raises:
            DataError: the history is empty, names an item twice or one that the bundle does not
                know; or the user is not in the bundle; or its model reads no histories.

        Example:
            >>> load("runs/shop").recommend_from(["B-17", "B-1042"], k=5)
        """
        items = self._items_of(history)
        base = text = None
        if user_id is not None:
            row = np.array([self._row_of(user_id)])
            users = self.bundle.users
            base = users.base(row) if "base" in users.columns else None
            text = users.text(row) if "text" in users.columns else None
        return self._rank(self.fold_in(Histories.of([items]), base, text), items, k)

    @cached_property
    def fold_in(self) -> FoldIn:
        """Made when the first history comes, on one rank alone."""
        return FoldIn(self.bundle)

    def _row_of(self, user_id: str | int) -> int:
        users = self.bundle.users
        row = users.position.get(str(user_id))
        if row is None:
            example = f", whose users have ids like {users.ids[0]!r}" if users.ids else ""
            raise DataError(
                f"user {str(user_id)!r} is not in {self.bundle.name}{example}: give a history"
            )
        return row

    def _items_of(self, history: Sequence[str | int]) -> Int32Array:
        """Positions of a history's items."""
        ids = [str(item_id) for item_id in history]
        known = self.bundle.item_position
        if not ids:
            raise DataError(
                "the history is empty: give item ids, the oldest first, or rank for a user of "
                f"{self.bundle.name}"
            )
        if unknown := [item_id for item_id in ids if item_id not in known]:
            raise DataError(
                f"item {unknown[0]!r} of the history is not in {self.bundle.name}, whose "
                f"{self.bundle.num_items} items have ids like {self.bundle.item_ids[0]!r}: leave "
                "it out, or train again with it"
            )
        if twice := [item_id for item_id, count in Counter(ids).items() if count > 1]:
            raise DataError(
                f"item {twice[0]!r} stands twice in the history: give it once, at its newest place"
            )
        return np.array([known[item_id] for item_id in ids], np.int32)

    def _rank(self, vector: FloatArray, hidden: Int32Array, k: int) -> list[Recommendation]:
        found, scores = top_items(
            vector, self.bundle.item_vectors, min(k, self.bundle.num_items), [hidden]
        )
        ids, titles = self.bundle.item_ids, self.bundle.titles
        return [
            Recommendation(ids[item], titles[item], score)
            for item, score in zip(found[0].tolist(), scores[0].tolist(), strict=True)
            if item >= 0
        ]


def load(path: str | Path) -> Recommender:
    """Opens a bundle, or the bundle that a finished run has.

    Raises:
        StoreError: neither, or damaged.
    """
    path = Path(path)
    if (path / "config.yaml").is_file() and not (path / MANIFEST).is_file():
        if not (path / RUN_BUNDLE / MANIFEST).is_file():
            raise StoreError(
                f"{path}: a run without a bundle: train it to the end, or run `recmind export "
                f"{path}`"
            )
        path = path / RUN_BUNDLE
    return Recommender(Bundle.open(path))
