"""Where results are kept whose users have one held-out item each, in benchmarks/results:

    <name>.json                a line a result: dataset, model, history, seed; settings, metrics
    <name>/<dataset>.parquet   a row a user: their node, and a column a result, named
                               <model>/<history>/<seed>: the rank of the held-out item, 0 if > 40

The name is `baselines` or `defaults`. Under leave-one-out the rank says all: `users_metric` gives
Recall@K and NDCG@K of each user from it, and `ranks_of` gives it from a user's NDCG@40.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.measure import RESULTS, rounded
from recmind_dist.errors import DataError
from recmind_dist.storage import read_json, write_bytes
from recmind_dist.types import IntArray

Row = dict[str, Any]
"""A result: the fields of KEY, and "validation", "users", "seconds", "commit", "recall@20", …; of a
baseline "looks" and "settings", too, of a run with defaults "epoch", "norm_exponent" and "device".
"""

KEY = ("dataset", "model", "history", "seed")


class RankStore:
    """All results, read and written whole.

    Args:
        folder: where the files lie. Default: benchmarks/results.
        name: of the files.
    """

    def __init__(self, folder: Path = RESULTS, name: str = "baselines") -> None:
        self.name = name
        self.folder = folder
        self.results_file = folder / f"{name}.json"
        self.users_folder = folder / name

    def rows(self) -> list[Row]:
        """All results, in the order in which they were first stored."""
        if not self.results_file.is_file():
            return []
        return list(read_json(self.results_file, DataError)["rows"])

    def put(self, row: Row, user_U: IntArray, rank_U: IntArray | None) -> None:
        """Stores a result in place of the one with the same key.

        Args:
            user_U: nodes of the users with held-out items.
            rank_U: of their held-out item, from 1; 0 where it is not among the first 40. None where
                users have several: then the means alone are kept.
        """
        if rank_U is not None:
            self._put_users(row, user_U, rank_U)
        key = [row[field] for field in KEY]
        rows = [old for old in self.rows() if [old[field] for field in KEY] != key]
        lines = ",\n".join(json.dumps(rounded(r), ensure_ascii=False) for r in [*rows, row])
        text = f'{{"benchmark": "{self.name}", "rows": [\n{lines}\n]}}\n'
        write_bytes(self.results_file, text.encode())

    def ranks(self, dataset: str, model: str, history: str) -> tuple[IntArray, NDArray[np.int64]]:
        """The users [U] and the ranks of their held-out items by seed [S, U].

        Raises:
            DataError: there is no such result.
        """
        frame = self._users(dataset)
        columns = (
            []
            if frame is None
            else [c for c in frame.columns if c.startswith(f"{model}/{history}/")]
        )
        if frame is None or not columns:
            raise DataError(f"{self.users_folder}: no {model} of {dataset} with history {history}")
        ranks = np.stack([frame.get_column(c).cast(pl.Int64).to_numpy() for c in columns])
        return frame.get_column("user").to_numpy(), ranks

    def _put_users(self, row: Row, user_U: IntArray, rank_U: IntArray) -> None:
        new = pl.DataFrame({"user": user_U}, schema={"user": pl.Int64})
        frame = self._users(row["dataset"])
        if frame is None:
            frame = new
        if not frame.get_column("user").equals(new.get_column("user")):
            raise DataError(
                f"{self.users_folder}: has other users of {row['dataset']}: delete its file"
            )
        name = f"{row['model']}/{row['history']}/{row['seed']}"
        frame = frame.with_columns(pl.Series(name, rank_U, pl.UInt8))
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression="zstd", statistics=False)
        self.users_folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._users_file(row["dataset"]), buffer.getvalue())

    def _users(self, dataset: str) -> pl.DataFrame | None:
        path = self._users_file(dataset)
        return pl.read_parquet(path) if path.is_file() else None

    def _users_file(self, dataset: str) -> Path:
        return self.users_folder / f"{dataset}.parquet"


def users_metric(rank: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
    """A user's "recall@K" or "ndcg@K", K up to 40, from the rank of their one held-out item."""
    kind, _, k = metric.partition("@")
    hit = (rank > 0) & (rank <= int(k))
    if kind == "recall":
        return hit.astype(np.float64)
    return np.where(hit, 1.0 / np.log2(np.maximum(rank, 1) + 1.0), 0.0)


def ranks_of(ndcg_U: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rank of each user's one held-out item from their NDCG@40, which is 1 / log2(1 + rank)."""
    hit = ndcg_U > 0
    rank = 2.0 ** (1.0 / np.where(hit, ndcg_U, 1.0)) - 1.0
    return np.where(hit, np.rint(rank), 0).astype(np.int64)
