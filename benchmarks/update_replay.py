"""A log replayed in time: 80 % at first, then steps of 5 %, each with the items that it brings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recmind_dist.recommend.recommender import Recommender

CUTS = (0.0, 0.8, 0.85, 0.9, 0.95, 1.0)
K = 20


@dataclass(frozen=True)
class Replay:
    """A log in steps: files log<k>.tsv and items<k>.jsonl in `home`, step 0 the first 80 %."""

    name: str
    home: Path
    steps: tuple[pl.DataFrame, ...]

    @staticmethod
    def make(name: str, log: Path, items: Path, home: Path) -> "Replay":
        """Cuts a log with a column of unix seconds. Items are in the step of their first event.

        Rows whose time is no number are left out.
        """
        home.mkdir(parents=True, exist_ok=True)
        frame = pl.read_csv(log, separator="\t", infer_schema_length=0)
        time = pl.col("timestamp").cast(pl.Int64, strict=False).alias("time")
        frame = frame.select("user", "item", time).drop_nulls().sort("time", maintain_order=True)
        texts, seen, steps = pl.read_ndjson(items), set[str](), []
        for k in range(len(CUTS) - 1):
            step = frame[int(CUTS[k] * frame.height) : int(CUTS[k + 1] * frame.height)]
            step.write_csv(home / f"log{k}.tsv", separator="\t")
            new = set(step["item"]) - seen
            texts.filter(pl.col("id").is_in(list(new))).write_ndjson(home / f"items{k}.jsonl")
            seen |= new
            steps.append(step)
        texts.filter(pl.col("id").is_in(list(seen))).write_ndjson(home / "items.jsonl")
        return Replay(name, home, tuple(steps))

    def log(self, step: int) -> Path:
        """The log of one step alone."""
        return self.home / f"log{step}.tsv"

    def items(self, step: int) -> Path:
        """Texts of the items that came with a step."""
        return self.home / f"items{step}.jsonl"

    def histories(self, step: int) -> dict[str, list[str]]:
        """What users have had up to and with a step, the oldest first."""
        frame = pl.concat(self.steps[: step + 1]).unique(["user", "item"], maintain_order=True)
        return dict(frame.group_by("user", maintain_order=True).agg("item").iter_rows())

    def tests(self, step: int) -> dict[str, set[str]]:
        """What users of `histories` take in the step after, of items that there were by then."""
        known = self.histories(step)
        items = {item for history in known.values() for item in history}
        frame = self.steps[step + 1].filter(
            pl.col("user").is_in(list(known)) & pl.col("item").is_in(list(items))
        )
        tests = {user: set(new) for user, new in frame.group_by("user").agg("item").iter_rows()}
        left = {user: new - set(known[user]) for user, new in sorted(tests.items())}
        return {user: new for user, new in left.items() if new}


def ndcg(ranked: Sequence[str], wanted: set[str]) -> float:
    """NDCG@20 of one user."""
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked[:K]) if item in wanted)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(K, len(wanted))))
    return gain / ideal


class Ranker:
    """Ranks for the users of a replay by one recommender, and hides what they have had.

    Args:
        folds: whether users are folded in with all they have had by now, new ones too; else known
            users are ranked for as the recommender has them.
        popular: items to give to users whom the recommender does not know.
    """

    def __init__(self, recommender: Recommender, folds: bool, popular: Sequence[str]) -> None:
        self._recommender, self._folds, self._popular = recommender, folds, popular
        bundle = recommender.bundle
        self._users, self._items = set(bundle.users.ids), set(bundle.item_ids)

    def ndcg(self, histories: dict[str, list[str]], tests: dict[str, set[str]]) -> list[float]:
        """NDCG@20 of each user of `tests`."""
        return [ndcg(self._rank(user, histories[user]), new) for user, new in tests.items()]

    def _rank(self, user: str, history: list[str]) -> list[str]:
        known, k = user in self._users, K + len(history)
        items = [item for item in history if item in self._items]
        if self._folds and items:
            found = self._recommender.recommend_from(items, k, user if known else None)
            ranked = [one.item_id for one in found]
        elif known:
            ranked = [one.item_id for one in self._recommender.recommend(user, k)]
        else:
            ranked = list(self._popular)
        hidden = set(history)
        return [item for item in ranked if item not in hidden]
