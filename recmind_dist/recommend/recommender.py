"""Ranks items for users, by a bundle or by the bundle of a finished run."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import DataError, StoreError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.explain import explained, gates_of, has_gates, unit_views
from recmind_dist.recommend.fold_in import FoldIn
from recmind_dist.recommend.popularity import PopularityPenalty
from recmind_dist.recommend.profiles import (
    ExternalId,
    Profiles,
    external_ids,
    folded_profiles,
    known_profiles,
    positions_of_history,
    row_of_user,
    rows_of_users,
)
from recmind_dist.recommend.ranking import top_items
from recmind_dist.recommend.replies import Neighbor, Ranking, Rankings, Recommendation
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.types import BoolArray, FloatArray, IntArray

__all__ = ["Neighbor", "Ranking", "Rankings", "Recommendation", "Recommender", "load"]

RUN_BUNDLE = "bundle"
"""The bundle's directory in a run directory."""

NOTHING_KNOWN = "no interaction and no text"

Seen: TypeAlias = Literal["exclude", "include"]
Query: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Vectors of texts that items can be ranked by. Shape: [texts, C], the bundle's columns."""


class Recommender:
    """Ranks by a bundle; reads no more of it than a call needs. For one thread at a time.

    Attributes:
        bundle: the opened bundle.
        text_query: turns texts into vectors to rank by; None: the bundle's language model does,
            read when the first text comes.
        popularity_penalty: λ, by which popular items are shown less; see `PopularityPenalty`.
        index: rank by the bundle's index of nearest neighbours.

    Attributes:
        nearest: that index; None: every ranking is exact.
    Raises:
        DataError: `index` is true, and the bundle has none, faiss is not installed, or there is a
            penalty.
        StoreError: its index is damaged.
    """

    def __init__(
        self,
        bundle: Bundle,
        text_query: Query | None = None,
        popularity_penalty: float = 0.0,
        index: bool = False,
    ) -> None:
        self.bundle, self.text_query, self.nearest = bundle, text_query, None
        self.penalty: PopularityPenalty | None = None
        if popularity_penalty:
            if index:
                raise DataError("popularity_penalty: the index ranks without it: give one of both")
            self.penalty = PopularityPenalty(bundle, popularity_penalty)
        if index:
            from recmind_dist.recommend.nearest import NearestItems

            self.nearest = NearestItems(bundle)
        self._where = lru_cache(maxsize=64)(self._mask_of)

    @overload
    def recommend(
        self,
        user_id: ExternalId | None = None,
        k: int = 10,
        *,
        history: Iterable[Any] | None = None,
        text: str | FloatArray | None = None,
        where: str | None = None,
        items: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        seen: Seen = "exclude",
    ) -> Ranking: ...
    @overload
    def recommend(
        self,
        *,
        users: Iterable[Any],
        k: int = 10,
        where: str | None = None,
        items: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        seen: Seen = "exclude",
    ) -> Rankings: ...
    def recommend(
        self,
        user_id: ExternalId | None = None,
        k: int = 10,
        *,
        users: Iterable[Any] | None = None,
        history: Iterable[Any] | None = None,
        text: str | FloatArray | None = None,
        where: str | None = None,
        items: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
        seen: Seen = "exclude",
    ) -> Ranking | Rankings:
        """The k best items of a user, of a new user with a history, of a text, or of many users.

        Args:
            user_id: external id. The user's whole history counts, the items that evaluation held
                out among it.
            k: items, fewer where the catalogue or the filter has fewer.
            users: many external ids, in place of one: a list, an array, an Arrow column or a
                series. Those that cannot be ranked for are in `Rankings.left_out`.
            history: external ids of all items that count, the oldest first. Of a new user, or of
                `user_id` in place of what the bundle knows.
            text: what to look for, or its vector [C]. A user or a history beside it says only
                what has been seen.
            where: a condition on items, as 'category == "Kids" and price < 20' (`filters`).
            items: external ids of the only items that may be ranked.
            exclude: external ids of items that are not.
            seen: "exclude" leaves the items of the history out.
        Raises:
            DataError: the user, an item of the history or a column of `where` is not in the
                bundle; the history is empty or names an item twice; k is below 1; the model reads
                no histories; there is nothing to encode texts with.

        Example:
            >>> load("runs/shop").recommend("B-17", k=5, where="price < 20")
            >>> load("runs/shop").recommend(users=["B-17", "B-1042"]).to_arrow()
        """
        allowed = self.allowed(where, items, exclude)
        if users is None:
            return self.rank(self.profile(user_id, history, text), k, allowed, seen)[0]
        if user_id is not None or history is not None or text is not None:
            raise DataError("users: stands alone: give one user_id beside a history or a text")
        profiles, left_out = self.profiles(users)
        return self.rank(profiles, k, allowed, seen, left_out)

    def recommend_from(
        self, history: Iterable[Any], k: int = 10, user_id: ExternalId | None = None
    ) -> Ranking:
        """As `recommend(user_id, k, history=history)`."""
        return self.recommend(user_id, k, history=history)

    def similar(
        self,
        item_id: ExternalId,
        k: int = 10,
        *,
        where: str | None = None,
        items: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
    ) -> list[Neighbor]:
        """The k items whose vectors have the largest cosine with an item's, biases left out.

        Raises:
            DataError: the item, or a column of `where`, is not in the bundle; k is below 1.
        """
        at = np.array([self._position(item_id)])
        unit_IC = self._unit_items
        found, cosines = top_items(
            unit_IC[at], unit_IC, self.size(k), [at], self.allowed(where, items, exclude)
        )
        ids, titles = self.bundle.item_ids, self.bundle.titles
        return [
            Neighbor(ids[item], titles[item], cosine)
            for item, cosine in zip(found[0].tolist(), cosines[0].tolist(), strict=True)
            if item >= 0
        ]

    def profile(
        self,
        user_id: ExternalId | None = None,
        history: Iterable[Any] | None = None,
        text: str | FloatArray | None = None,
    ) -> Profiles:
        """One user or text, to be ranked for; see `recommend`."""
        if text is not None:
            return self._of_text(text, user_id, history)
        row = None if user_id is None else row_of_user(self.bundle, user_id)
        if history is not None:
            positions = positions_of_history(self.bundle, history)
            return folded_profiles(self.fold_in, self.bundle, [positions], row)
        if row is None:
            raise DataError("nobody to rank for: give user_id, history or text")
        found = known_profiles(self.bundle, np.array([row]))
        if not np.isfinite(found.vectors).all():
            raise DataError(f"user {str(user_id)!r}: {NOTHING_KNOWN}: give a history")
        return found

    def profiles(self, users: Iterable[Any]) -> tuple[Profiles, dict[str, str]]:
        """Many known users, in their order, and why others are left out, by external id."""
        rows, left_out = rows_of_users(self.bundle, external_ids(users))
        found = known_profiles(self.bundle, rows)
        finite = np.isfinite(found.vectors).all(axis=1)
        left_out |= {str(found.user_ids[row]): NOTHING_KNOWN for row in np.flatnonzero(~finite)}
        return (found if finite.all() else found.take(np.flatnonzero(finite))), left_out

    def rank(
        self,
        profiles: Profiles,
        k: int = 10,
        allowed: BoolArray | None = None,
        seen: Seen = "exclude",
        left_out: dict[str, str] | None = None,
    ) -> Rankings:
        """The k best items of each profile.

        Args:
            allowed: see `allowed`.
        """
        if seen not in ("exclude", "include"):
            raise DataError(f"seen: {seen!r}: choose exclude or include")
        hidden = profiles.histories if seen == "exclude" else None
        positions, scores = self.top_items(profiles.vectors, self.size(k), hidden, allowed)

        def explain(row: int) -> Ranking:
            at = positions[row] >= 0
            items = explained(
                self.bundle,
                profiles.vectors[row],
                profiles.histories[row],
                positions[row][at].tolist(),
                scores[row][at].tolist(),
            )
            return Ranking(profiles.user_ids[row], items, self._gates(profiles, row))

        left = left_out or {}
        return Rankings(profiles.user_ids, positions, scores, left, self.bundle, explain)

    def top_items(
        self,
        vectors_uC: FloatArray,
        k: int,
        hidden: Sequence[NDArray[np.integer[Any]]] | None = None,
        allowed: BoolArray | None = None,
    ) -> tuple[IntArray, FloatArray]:
        """As `ranking.top_items`, over the bundle's items: with the penalty on popularity, or by
        the index where there is one to rank by and all items are allowed.
        """
        if self.nearest is not None and allowed is None:
            return self.nearest.top_items(vectors_uC, k, hidden)
        if self.penalty is None:
            return top_items(vectors_uC, self.bundle.item_vectors, k, hidden, allowed)
        vectors = self.penalty.vectors(vectors_uC)
        return top_items(vectors, self.penalty.items_IC, k, hidden, allowed)

    def allowed(
        self,
        where: str | None = None,
        items: Iterable[Any] | None = None,
        exclude: Iterable[Any] | None = None,
    ) -> BoolArray | None:
        """Which items may be ranked. Shape: [I]; None: all.

        Items that are not in the bundle count for nothing; `unknown_items` lists them.

        Raises:
            DataError: none of `items` or a column is not in the bundle; `where` cannot be read.
        """
        if where is None and items is None and exclude is None:
            return None
        allowed = np.ones(self.bundle.num_items, np.bool_)
        if items is not None:
            allowed[:] = False
            allowed[self._known_items(items)] = True
            if not allowed.any():
                raise DataError(
                    f"items: none of them is in {self.bundle.name}, whose items have ids like "
                    f"{self.bundle.item_ids[0]!r}"
                )
        if exclude is not None:
            allowed[self._known_items(exclude)] = False
        return allowed if where is None else allowed & self._where(where)

    def unknown_items(self, items: Iterable[Any]) -> list[str]:
        """Those of some external ids that are not in the bundle."""
        known = self.bundle.item_position
        return [item for item in external_ids(items) if item not in known]

    @cached_property
    def fold_in(self) -> FoldIn:
        """Made when the first history comes, on one rank alone. Raises DataError: the model folds
        nobody in.
        """
        return FoldIn(self.bundle)

    @cached_property
    def _unit_items(self) -> FloatArray:
        return unit_views(self.bundle, slice(None))

    def _gates(self, profiles: Profiles, row: int) -> dict[str, float]:
        fold_in = self.fold_in if has_gates(self.bundle.manifest) else None
        return gates_of(self.bundle, fold_in, profiles.take(np.array([row])))[0]

    def _mask_of(self, where: str) -> BoolArray:
        from recmind_dist.recommend.filters import mask

        return mask(where, self.bundle)

    def _known_items(self, items: Iterable[Any]) -> IntArray:
        known = self.bundle.item_position
        rows = [known[item] for item in external_ids(items) if item in known]
        return np.array(rows, np.int64)

    def _position(self, item_id: ExternalId) -> int:
        found = self.bundle.item_position.get(str(item_id))
        if found is None:
            raise DataError(
                f"item {str(item_id)!r} is not in {self.bundle.name}, whose "
                f"{self.bundle.num_items} items have ids like {self.bundle.item_ids[0]!r}"
            )
        return found

    def size(self, k: int) -> int:
        """k, or the whole catalogue where that is smaller. Raises DataError: k is below 1."""
        if k < 1:
            raise DataError(f"k: {k}: ask for one item at least")
        return min(k, self.bundle.num_items)

    def _of_text(
        self, text: str | FloatArray, user_id: ExternalId | None, history: Iterable[Any] | None
    ) -> Profiles:
        if not isinstance(text, str):
            vectors = np.asarray(text, np.float32).reshape(1, -1)
        else:
            if self.text_query is None:
                from recmind_dist.recommend.text_query import TextQuery

                self.text_query = TextQuery(self.bundle)
            vectors = self.text_query([text])
        width = self.bundle.item_vectors.shape[1]
        if vectors.shape != (1, width) or not np.isfinite(vectors).all():
            raise DataError(f"text: give a text, or a vector of {width} finite numbers")
        row = -1 if user_id is None else row_of_user(self.bundle, user_id)
        seen = np.empty(0, np.int32)
        if history is not None:
            seen = positions_of_history(self.bundle, history)
        elif row >= 0:
            seen = self.bundle.users.histories(np.array([row]))[0]
        name = None if user_id is None else str(user_id)
        return Profiles([name], np.array([row]), vectors, [seen], by_text=True)


def load(path: str | Path, popularity_penalty: float = 0.0, index: bool = False) -> Recommender:
    """Opens a bundle, or the bundle that a finished run has.

    Args:
        popularity_penalty: see `Recommender`.
        index: rank by the bundle's index of nearest neighbours, which misses some items; see
            docs/bundle.md.
    Raises:
        DataError: the penalty is below 0; `index`, and the bundle has none.
        StoreError: neither, or damaged.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        if not (path / "config.yaml").is_file():
            raise StoreError(f"{path}: neither a bundle nor a run: give the directory of one")
        if not (path / RUN_BUNDLE / MANIFEST).is_file():
            raise StoreError(
                f"{path}: a run without a bundle: train it to the end, or run `recmind export "
                f"{path} --to {path / RUN_BUNDLE}`"
            )
        path = path / RUN_BUNDLE
    return Recommender(Bundle.open(path), popularity_penalty=popularity_penalty, index=index)
