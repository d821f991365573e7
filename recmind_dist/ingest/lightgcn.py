"""The layout published with LightGCN: one user a line, `user item item …`, no header, no time."""

from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import (
    LINE,
    BadRow,
    Rows,
    encoding_remedy,
    looks_like_header,
    not_of_encoding,
    numbered_lines,
)

MOST_LOOKED_AT = 100_000  # lines that tell whether a file is of the layout
CHUNK = 2_000_000  # pairs held as Python objects at a time


def read_lightgcn(path: Path, limit: int, encoding: str = "utf-8") -> Rows:
    """(user, item) pairs as text columns, in file order. A line of only a user has no pair.

    Args:
        limit: the reader stops once more lines than this are bad.
    """
    bad: list[BadRow] = []
    frames: list[pl.DataFrame] = []
    heads: list[tuple[int, str, int]] = []  # line, user, number of items
    items: list[str] = []
    for line, raw in numbered_lines(path, encoding):
        try:
            words = raw.decode("utf-8").split()
        except UnicodeDecodeError as error:
            reason = not_of_encoding(encoding, error.start)
            bad.append(BadRow(path, line, reason, remedy=encoding_remedy(encoding)))
            if len(bad) > limit:
                break
            continue
        if line == 1 and looks_like_header(words):
            bad.append(BadRow(path, line, "looks like a header, which this layout does not have"))
        elif len(words) > 1:
            heads.append((line, words[0], len(words) - 1))
            items += words[1:]
        if len(items) >= CHUNK:
            frames.append(_frame(heads, items))
            heads, items = [], []
    frames.append(_frame(heads, items))
    return Rows(path, pl.concat(frames), bad)


def refuse_other_layout(path: Path, encoding: str = "utf-8") -> None:
    """Raises DataError for a file of LightGCN's name but with other content: lines of one
    interaction, or words that hold several values.
    """
    first_line_of: dict[str, int] = {}
    again: tuple[int, int] | None = None  # the first two lines of one user
    widths: set[int] = set()
    for line, raw in islice(numbered_lines(path, encoding), MOST_LOOKED_AT):
        words = raw.decode("utf-8", "replace").split()
        if not words:
            continue
        joint = next((word for word in words if any(map(word.count, ",;|:"))), None)
        if joint is not None:
            raise DataError(
                f"{path}:{line}: {joint!r} is no id of LightGCN's layout (user item item …, by "
                "blanks): set dataset.interactions.format: csv with separator and columns, or "
                "format: lightgcn if ids are written so"
            )
        widths.add(len(words))
        if again is None and words[0] in first_line_of:
            again = first_line_of[words[0]], line
        first_line_of.setdefault(words[0], line)
    if again is not None and len(widths) == 1 and max(widths) > 2:
        raise DataError(
            f"{path}:{again[1]}: its user has line {again[0]} too, and all lines have "
            f"{max(widths)} words. Either each line is one interaction (user item weight …): set "
            'dataset.interactions to {path, format: csv, separator: " ", has_header: false, '
            "columns: {user: 0, item: 1, rating: 2}}; or each is a user with items: set format: "
            "lightgcn"
        )


def _frame(heads: list[tuple[int, str, int]], items: list[str]) -> pl.DataFrame:
    counts = np.array([count for _, _, count in heads], dtype=np.int64)
    head_of_item = np.repeat(np.arange(len(heads)), counts)
    users = pl.Series("user", [user for _, user, _ in heads], dtype=pl.String)
    lines = np.array([line for line, _, _ in heads], dtype=np.int64)
    item_column = pl.Series("item", items, dtype=pl.String)
    return pl.DataFrame(
        [users.gather(head_of_item), item_column, pl.Series(LINE, lines[head_of_item])]
    )
