"""The layout published with LightGCN: one user a line, `user item item …`, no header, no time."""

from pathlib import Path

import numpy as np
import polars as pl

from recmind_dist.ingest.rows import LINE, BadRow, Rows, numbered_lines

CHUNK = 2_000_000  # pairs held as Python objects at a time


def read_lightgcn(path: Path, limit: int) -> Rows:
    """(user, item) pairs as text columns, in file order. A line of only a user has no pair.

    Args:
        limit: the reader stops once more lines than this are bad.
    """
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    heads: list[tuple[int, str, int]] = []  # line, user, number of items
    items: list[str] = []
    for line, raw in numbered_lines(path):
        try:
            words = raw.decode("utf-8").split()
        except UnicodeDecodeError as error:
            bad.append(BadRow(path, line, f"not UTF-8 at byte {error.start} of the line"))
            if len(bad) > limit:
                break
            continue
        if len(words) > 1:
            heads.append((line, words[0], len(words) - 1))
            items += words[1:]
        if len(items) >= CHUNK:
            frames.append(_frame(heads, items))
            heads, items = [], []
    frames.append(_frame(heads, items))
    return Rows(path, pl.concat(frames), bad)


def _frame(heads: list[tuple[int, str, int]], items: list[str]) -> pl.DataFrame:
    counts = np.array([count for _, _, count in heads], dtype=np.int64)
    head_of_item = np.repeat(np.arange(len(heads)), counts)
    users = pl.Series("user", [user for _, user, _ in heads], dtype=pl.String)
    lines = np.array([line for line, _, _ in heads], dtype=np.int64)
    item_column = pl.Series("item", items, dtype=pl.String)
    return pl.DataFrame(
        [users.gather(head_of_item), item_column, pl.Series(LINE, lines[head_of_item])]
    )
