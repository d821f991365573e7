"""What a recommender answers with, and why.

Legend: u users, k items each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

import numpy as np
import pyarrow as pa

from recmind_dist.recommend.bundle import Bundle, arrow_numbers
from recmind_dist.types import FloatArray, IntArray


@dataclass(frozen=True)
class Neighbor:
    """An item near another: external id, title (empty without one), cosine of their vectors."""

    item_id: str
    title: str
    cosine: float


@dataclass(frozen=True)
class Recommendation:
    """One ranked item.

    Attributes:
        item_id: external id.
        title: empty without one.
        score: inner product of the user's and the item's vector, less a penalty on popularity
            where there is one.
        shares: what each view adds to the score, and "bias", what the item adds for everybody.
        nearest: items of the user's history, the nearest to this one first.
    """

    item_id: str
    title: str
    score: float
    shares: Mapping[str, float] = field(default_factory=dict)
    nearest: tuple[Neighbor, ...] = ()


@dataclass(frozen=True)
class Ranking(Sequence[Recommendation]):
    """A user's items, the best first.

    Attributes:
        user_id: external id; None: a new user, or a text.
        items: at most k.
        gates: γ, the weight that the user gives each view; empty where the model has no gates.
    """

    user_id: str | None
    items: tuple[Recommendation, ...]
    gates: Mapping[str, float] = field(default_factory=dict)

    @overload
    def __getitem__(self, place: int) -> Recommendation: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, place: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self.items[place]

    def __len__(self) -> int:
        return len(self.items)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Rankings(Sequence[Ranking]):
    """Items of many users. `rankings[0]` is a user's `Ranking`, explained when it is asked for.

    Attributes:
        user_ids: external ids of the users that were ranked for; None: new ones. Length: u.
        positions: rows of the bundle's items, the best first; -1 where none is left. Shape: [u, k].
        scores: -inf where none is left. Shape: [u, k].
        left_out: users that were asked for and are not ranked, and why.
    """

    user_ids: Sequence[str | None]
    positions: IntArray
    scores: FloatArray
    left_out: Mapping[str, str]
    bundle: Bundle = field(repr=False)
    explain: Callable[[int], Ranking] = field(repr=False)

    @overload
    def __getitem__(self, row: int) -> Ranking: ...
    @overload
    def __getitem__(self, row: slice) -> list[Ranking]: ...
    def __getitem__(self, row: int | slice) -> Ranking | list[Ranking]:
        rows = range(len(self))[row]
        return self.explain(rows) if isinstance(rows, int) else [self.explain(r) for r in rows]

    def __iter__(self) -> Iterator[Ranking]:
        return (self.explain(row) for row in range(len(self)))

    def __len__(self) -> int:
        return len(self.user_ids)

    def plain(self, row: int) -> Ranking:
        """A user's ranking without reasons."""
        ids, titles, at = self.bundle.item_ids, self.bundle.titles, self.positions[row] >= 0
        items = (
            Recommendation(ids[item], titles[item], score)
            for item, score in zip(
                self.positions[row][at].tolist(), self.scores[row][at].tolist(), strict=True
            )
        )
        return Ranking(self.user_ids[row], tuple(items))

    def to_arrow(self) -> pa.Table:
        """A row an item of each user: user, rank (from 1), item, score. For polars and pandas:
        `polars.from_arrow(rankings.to_arrow())`, `rankings.to_arrow().to_pandas()`.
        """
        item_ids = pa.array(self.bundle.item_ids)
        return ranking_table(self.user_ids, self.positions, self.scores, item_ids)


_IDS = pa.dictionary(pa.int32(), pa.string())
RANKING = pa.schema([("user", _IDS), ("rank", pa.int32()), ("item", _IDS), ("score", pa.float32())])


def ranking_table(
    user_ids: Sequence[str | None], positions: IntArray, scores: FloatArray, item_ids: pa.Array
) -> pa.Table:
    """Columns user, rank, item, score; ids are dictionaries of strings."""
    row, place = np.nonzero(positions >= 0)
    users, items = (
        pa.DictionaryArray.from_arrays(arrow_numbers(at.astype(np.int32)), ids)
        for at, ids in ((row, pa.array(user_ids, pa.string())), (positions[row, place], item_ids))
    )
    rank, score = arrow_numbers((place + 1).astype(np.int32)), arrow_numbers(scores[row, place])
    return pa.Table.from_arrays([users, rank, items, score], schema=RANKING)
