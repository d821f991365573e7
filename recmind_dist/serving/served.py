"""A bundle in memory: answers many requests with one product of their vectors and the items'.

Legend: q requests, n vectors of all of them, I items, C columns.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recmind_dist.errors import DataError, RecmindError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.explain import gates_of, has_gates, nearest_of, shares_of, unit_views
from recmind_dist.recommend.profiles import Profiles
from recmind_dist.recommend.ranking import best_columns
from recmind_dist.recommend.recommender import Recommender
from recmind_dist.recommend.text_query import TextQuery
from recmind_dist.serving.bodies import RecommendBody, SimilarBody
from recmind_dist.serving.refusal import Refusal
from recmind_dist.serving.users import UsersInMemory
from recmind_dist.storage.keys import content_key
from recmind_dist.types import BoolArray, FloatArray, Int32Array, IntArray

Body: TypeAlias = RecommendBody | SimilarBody
Reply: TypeAlias = dict[str, Any]
_EXAMPLES = 8
_ROWS = 64
"""Vectors of one product: all I scores of each are in memory."""
_PAIRS = 1 << 22
"""Cosines of a ranking's and a history's items that are in memory."""


@dataclass(frozen=True)
class _Asked:
    """A request with its vectors.

    Attributes:
        profiles: whom it asks for.
        allowed: which items it may show; None: all. Shape: [I].
        left_out: ids that the bundle does not know, by the key that the reply lists them under.
    """

    body: Body
    profiles: Profiles
    allowed: BoolArray | None
    left_out: dict[str, list[str]]


class Served:
    """A bundle whose arrays all lie in memory. `answer` is for one thread at a time.

    Attributes:
        name: of the data set.
        version: the first digits of the manifest's hash.
        popularity_penalty: see `Recommender`.
        indexed: rankings of the whole catalogue are the index's.
    """

    def __init__(
        self, bundle: Bundle, popularity_penalty: float = 0.0, indexed: bool = False
    ) -> None:
        bundle.users = UsersInMemory(bundle)
        self.popularity_penalty, self.indexed = popularity_penalty, indexed
        query = text_query_of(bundle)
        self._recommender = Recommender(bundle, query, popularity_penalty, indexed)
        self._bundle = bundle
        self.name, self.num_users, self.num_items = bundle.name, bundle.num_users, bundle.num_items
        self.version = content_key(bundle.manifest)[:12]
        self._items_CI = np.ascontiguousarray(bundle.item_vectors.T)  # twice as fast to multiply by
        self._titles = pa.array(bundle.titles)
        self._ids = pa.array(bundle.item_ids)
        self._item_ids, self._item_titles = bundle.item_ids, bundle.titles
        self._users = sorted(bundle.users.ids)
        self._scores = np.empty((_ROWS, self.num_items), np.float32)
        self._warm()

    def _warm(self) -> None:
        """Reads what the first request would have to wait for."""
        bundle = self._bundle
        _ = (bundle.item_position, bundle.users.position, bundle.metadata, bundle.item_lengths)
        if bundle.manifest["fold_in"] is not None and bundle.num_items:
            first = RecommendBody(history=[bundle.item_ids[0]])
            self.answer([first])

    @property
    def label(self) -> dict[str, str]:
        """Name and version, as every reply has them."""
        return {"name": self.name, "version": self.version}

    def answer(self, bodies: Sequence[Body]) -> list[Reply | Exception]:
        """A reply to each request, or why there is none."""
        found = [self._ask(body) for body in bodies]
        asked = [(at, one) for at, one in enumerate(found) if isinstance(one, _Asked)]
        by_index = [pair for pair in asked if self._by_index(pair[1])]
        exactly = [pair for pair in asked if not self._by_index(pair[1])]
        replies: dict[int, Reply] = {}
        for group in (by_index, exactly):
            if group:
                replies |= zip(
                    (at for at, _ in group), self._rank([one for _, one in group]), strict=True
                )
        return [one if isinstance(one, Exception) else replies[at] for at, one in enumerate(found)]

    def read_texts(self, texts: Sequence[str]) -> list[FloatArray | Exception]:
        """A vector [C] of each text, or why there is none; all go through the language model at
        once.
        """
        query = self._recommender.text_query
        if query is None:
            reads = self._bundle.manifest.get("text") is not None
            why = "to read texts with" if reads else "since it was trained without texts"
            return [Refusal(501, f"{self.name} has no language model {why}")] * len(texts)
        try:
            return list(query(texts))
        except RecmindError as error:
            if len(texts) == 1:
                return [error]
        return [answer for text in texts for answer in self.read_texts([text])]

    def about(self) -> Reply:
        """See `GET /about`."""
        bundle, users = self._bundle, self._bundle.users.ids
        columns = {name: str(bundle.column(name).type) for name in bundle.columns}
        return {
            "bundle": self.label,
            "num_users": self.num_users,
            "num_items": self.num_items,
            "model": bundle.manifest["model"],
            "views": list(dict.fromkeys(bundle.view_names)),
            "columns": columns,
            "folds_in": bundle.manifest["fold_in"] is not None,
            "reads_text": self._recommender.text_query is not None,
            "vector_length": len(self._items_CI),
            "examples": {"users": users[:_EXAMPLES], "items": bundle.item_ids[:_EXAMPLES]},
        }

    def find_users(self, prefix: str, limit: int) -> list[str]:
        """Ids that begin so, in order."""
        start = bisect.bisect_left(self._users, prefix)
        near = self._users[start : start + limit]
        return [user for user in near if user.startswith(prefix)]

    def find_items(self, words: str, limit: int) -> list[dict[str, str]]:
        """Items whose id or title has these characters, in any case; by their order in the bundle,
        an item of this very id first.
        """
        exact = self._bundle.item_position.get(words)
        inside = pc.or_(
            pc.match_substring(self._titles, words, ignore_case=True),
            pc.match_substring(self._ids, words, ignore_case=True),
        )
        rows = np.flatnonzero(inside.to_numpy(zero_copy_only=False))[:limit].tolist()
        rows = rows if exact is None else [exact, *(row for row in rows if row != exact)][:limit]
        return [self._named(row) for row in rows]

    def _ask(self, body: Body) -> _Asked | Exception:
        try:
            if body.k > self.num_items:
                raise DataError(
                    f"k is {body.k}: {self.name} has {self.num_items} items: ask for less"
                )
            profiles, left_out = (
                self._of_item(body) if isinstance(body, SimilarBody) else self._of_users(body)
            )
            allowed = self._recommender.allowed(body.where, body.items, body.exclude)
            listed = [*(body.items or ()), *(body.exclude or ())]
            if unknown := self._recommender.unknown_items(listed):
                left_out["items"] = [*left_out.get("items", ()), *unknown]
            return _Asked(body, profiles, allowed, left_out)
        except (RecmindError, Refusal) as error:
            return error

    def _of_item(self, body: SimilarBody) -> tuple[Profiles, dict[str, list[str]]]:
        row = self._bundle.item_position.get(body.item)
        if row is None:
            raise Refusal(404, f"item {body.item!r} is not in {self.name}")
        vector, seen = np.zeros((1, len(self._items_CI)), np.float32), np.array([row], np.int32)
        views = unit_views(self._bundle, seen)
        vector[:, : views.shape[1]] = views  # and no bias
        return Profiles([None], np.array([-1]), vector, [seen], by_text=True), {}

    def _of_users(self, body: RecommendBody) -> tuple[Profiles, dict[str, list[str]]]:
        recommender = self._recommender
        if body.users is not None:
            profiles, unknown = recommender.profiles(body.users)
            if not len(profiles):
                raise Refusal(404, f"none of these users can be ranked for: {_first(unknown)}")
            return profiles, {"users": list(unknown)} if unknown else {}
        if body.user is not None and body.user not in self._bundle.users.position:
            raise Refusal(404, f"user {body.user!r} is not in {self.name}: give a history")
        if body.vector is not None:
            return recommender.profile(text=self._vector(body.vector)), {}
        known, unknown_items = self._known(body.history)
        profile = recommender.profile(body.user, known)
        return profile, {"items": unknown_items} if unknown_items else {}

    def _vector(self, numbers: list[float]) -> FloatArray:
        if len(numbers) != len(self._items_CI):
            raise DataError(
                f"vector has {len(numbers)} numbers: an item of {self.name} has "
                f"{len(self._items_CI)}"
            )
        vector = np.asarray(numbers, np.float64)
        if np.abs(vector).max() > np.finfo(np.float32).max / 1e6:
            raise DataError("vector has numbers too large to score with")
        return vector.astype(np.float32)

    def _known(self, history: list[str] | None) -> tuple[list[str] | None, list[str]]:
        """Items of a history that the bundle knows, and those that it does not."""
        if history is None:
            return None, []
        position = self._bundle.item_position
        known = [item for item in history if item in position]
        unknown = [item for item in history if item not in position]
        if not known:
            raise Refusal(404, f"no item of the history is in {self.name}: {_first(unknown)}")
        return known, unknown

    def _rank(self, asked: list[_Asked]) -> list[Reply]:
        owners = [one for one in asked for _ in one.profiles.rows]
        profiles = Profiles.joined([one.profiles for one in asked])
        rankings: list[Reply] = []
        for start in range(0, len(owners), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(owners)))
            rankings += self._rank_rows(owners[start : start + _ROWS], profiles.take(rows))
        gates = self._gates(asked)
        for ranking, weights in zip(rankings, gates, strict=True):
            if weights:
                ranking["gates"] = weights
        left = iter(rankings)
        return [self._reply(one, [next(left) for _ in one.profiles.rows]) for one in asked]

    def _rank_rows(self, owners: list[_Asked], profiles: Profiles) -> list[Reply]:
        """A ranking of each vector, at most `_ROWS`.

        Args:
            owners: whose request each is of; all ranked by the index, or all exactly.
        """
        columns, best = self._best(owners, profiles)
        explained = [
            row
            for row, one in enumerate(owners)
            if isinstance(one.body, RecommendBody) and one.body.explain
        ]
        reasons = self._reasons(profiles.take(np.array(explained, np.int64)), columns[explained])
        why = dict(zip(explained, reasons, strict=True))
        return [
            self._ranking(one.body, profiles.user_ids[row], columns[row], best[row], why.get(row))
            for row, one in enumerate(owners)
        ]

    def _best(self, owners: list[_Asked], profiles: Profiles) -> tuple[IntArray, FloatArray]:
        """Positions and scores of the largest k that is asked for, the best first; what is hidden
        has -inf. Shapes: [n, k].
        """
        n, k = len(owners), max(one.body.k for one in owners)
        if self._by_index(owners[0]):
            nobody = np.empty(0, np.int32)
            hidden = [
                history if _hides_seen(one.body) else nobody
                for one, history in zip(owners, profiles.histories, strict=True)
            ]
            return self._recommender.top_items(profiles.vectors, k, hidden)
        scores_nI = np.matmul(profiles.vectors, self._items_CI, out=self._scores[:n])
        self._penalise(scores_nI, owners, profiles.vectors)
        for scores, one, history in zip(scores_nI, owners, profiles.histories, strict=True):
            self._hide(scores, one, history)
        columns = best_columns(scores_nI, k)
        return columns, np.take_along_axis(scores_nI, columns, 1)

    def _by_index(self, one: _Asked) -> bool:
        """Whether the index ranks; it knows no filters, and no cosines."""
        indexed = self._recommender.nearest is not None
        return indexed and one.allowed is None and isinstance(one.body, RecommendBody)

    def _reasons(self, profiles: Profiles, columns_nk: IntArray) -> list[list[Reply]]:
        """Shares of the score and nearest items of the history, for each item of each vector."""
        if not len(profiles):
            return []
        shares = shares_of(self._bundle, profiles.vectors, columns_nk)
        pairs = columns_nk.shape[1] * max(len(history) for history in profiles.histories)
        step = max(1, _PAIRS // max(1, pairs))
        nearest = [
            row
            for start in range(0, len(profiles), step)
            for row in nearest_of(
                self._bundle,
                columns_nk[start : start + step],
                profiles.histories[start : start + step],
            )
        ]
        return [
            [
                {"shares": one, "nearest": self._cosines(near)}
                for one, near in zip(*row, strict=True)
            ]
            for row in zip(shares, nearest, strict=True)
        ]

    def _penalise(
        self, scores_nI: FloatArray, owners: list[_Asked], vectors_nC: FloatArray
    ) -> None:
        """Takes the penalty on popularity from scores that are not of similar items."""
        if (penalty := self._recommender.penalty) is None:
            return
        ranked = [isinstance(one.body, RecommendBody) for one in owners]
        scores_nI -= (penalty.spread(vectors_nC) * ranked)[:, None] * penalty.cost_I

    def _hide(self, scores_I: FloatArray, one: _Asked, history: Int32Array) -> None:
        """Scores of items that are not to be shown become -inf; those of similar items cosines."""
        if isinstance(one.body, SimilarBody):
            scores_I /= self._bundle.item_lengths
        if _hides_seen(one.body):
            scores_I[history] = -np.inf
        if one.allowed is not None:
            scores_I[~one.allowed] = -np.inf

    def _reply(self, one: _Asked, results: list[Reply]) -> Reply:
        reply: Reply = {"bundle": self.label, "results": results}
        return reply | ({"unknown": one.left_out} if one.left_out else {})

    def _ranking(
        self,
        body: Body,
        user_id: str | None,
        columns: IntArray,
        best: FloatArray,
        reasons: list[Reply] | None,
    ) -> Reply:
        """As `Ranking.to_dict`; of similar items without a user. Dictionaries cost a tenth of the
        time of `Recommendation`s.
        """
        count = int(np.isfinite(best[: body.k]).sum())  # what is hidden comes last
        scored = list(zip(columns[:count].tolist(), best[:count].tolist(), strict=True))
        if isinstance(body, SimilarBody):
            return {"items": self._cosines(scored)}
        ids, titles = self._item_ids, self._item_titles
        items: list[Reply] = [
            {"item_id": ids[at], "title": titles[at], "score": score} for at, score in scored
        ]
        for item, why in zip(items, reasons or (), strict=False):
            item |= why
        return {"user_id": user_id, "items": items}

    def _cosines(self, near: Sequence[tuple[int, float]]) -> list[Reply]:
        ids, titles = self._item_ids, self._item_titles
        return [{"item_id": ids[at], "title": titles[at], "cosine": one} for at, one in near]

    def _named(self, position: int) -> Reply:
        return {"item_id": self._item_ids[position], "title": self._item_titles[position]}

    def _gates(self, asked: list[_Asked]) -> list[dict[str, float]]:
        """γ of every vector; empty of texts, items and vectors that came as such."""
        fold_in = self._recommender.fold_in if has_gates(self._bundle.manifest) else None
        users = [one.profiles for one in asked if not one.profiles.by_text]
        found = iter(gates_of(self._bundle, fold_in, Profiles.joined(users)) if users else ())
        return [
            {} if one.profiles.by_text else next(found) for one in asked for _ in one.profiles.rows
        ]


def _hides_seen(body: Body) -> bool:
    return isinstance(body, SimilarBody) or body.seen == "exclude"


def _first(ids: Sequence[str] | dict[str, str]) -> str:
    named = ", ".join(list(ids)[:5])
    return f"{named} and {len(ids) - 5} more" if len(ids) > 5 else named


def text_query_of(bundle: Bundle) -> TextQuery | None:
    """What reads texts; None: the bundle has no language model, or its model no view of texts."""
    try:
        return TextQuery(bundle)
    except DataError:
        return None
