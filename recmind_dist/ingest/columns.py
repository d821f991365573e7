"""Which column of a log is which, and which rows of it count."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.layouts import by_name_or_number
from recmind_dist.ingest.rows import HEADS, LINE, Rows, missing_column
from recmind_dist.ingest.settings import DatasetSettings, LogSettings, WeightSettings

USUAL = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp", "order"),
    "rating": ("rating",),
}
ROLES = tuple(USUAL)
MARK = "\ufeff"
MARKED = "begins with a byte order mark, as where two files were joined: remove it"
KEEP = "keep:"  # before the names of columns that choose rows


@dataclass(frozen=True)
class LogRules:
    """Which rows of a log count, and how its ids are read; see `DatasetSettings`."""

    need_rating: bool = False
    keep: dict[str, list[Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    user_ids: str = "auto"
    item_ids: str = "auto"
    weights: WeightSettings | None = None

    @classmethod
    def of(cls, settings: DatasetSettings) -> "LogRules":
        """The rules of a data set."""
        return cls(
            settings.min_rating is not None,
            dict(settings.keep),
            [text.strip() for text in settings.missing],
            settings.user_ids,
            settings.item_ids,
            settings.weights,
        )

    def ids_of(self, side: str) -> str:
        """How the ids of a side ("user", "item") are read."""
        return self.user_ids if side == "user" else self.item_ids


def columns_of(
    path: Path, settings: LogSettings, present: list[str], rules: LogRules
) -> dict[str, str]:
    """Role → column of this file; `KEEP` + name → name for those that choose rows.

    Raises:
        DataError: the file does not have one of them.
    """
    found: dict[str, str] = {}
    for role in ROLES:
        declared = getattr(settings.columns, role)
        wanted: Any = declared
        if declared is not None:
            column = by_name_or_number(declared, present)
        elif role == "rating" and not rules.need_rating:
            continue
        else:
            wanted = " or ".join(USUAL[role])
            column = next((name for name in USUAL[role] if name in present), None)
        if column is not None:
            found[role] = column
        elif declared is not None or role != "time":
            raise missing_column(path, f"dataset.interactions.columns.{role}", wanted, present)
    if rules.weights is not None:
        if rules.weights.column not in present:
            raise missing_column(path, "dataset.weights.column", rules.weights.column, present)
        found["weight"] = rules.weights.column
    for name in rules.keep:
        if name not in present:
            raise missing_column(path, "dataset.keep", name, present)
        found[KEEP + name] = name
    return found


def header_again(rows: Rows, columns: dict[str, str], has_header: bool) -> pl.Series:
    """Reasons for rows that repeat the names of columns, or look like names where none are, as in
    files that were joined. Shape: as the rows.

    Args:
        rows: columns `user` and `item` as they stand in the file.
        columns: role → column; none: a layout without names.

    Raises:
        DataError: names in another order, so that all rows below would be misread.
    """
    names = [name.lower() for name in columns.values()] if has_header else []
    if not _names_a_column(rows, {*names, *HEADS["user"], *HEADS["item"]}):
        return pl.repeat(None, rows.frame.height, dtype=pl.String, eager=True).alias("header")
    cells = {role: pl.col(role).cast(pl.String) for role in ("user", "item")}
    plain = {role: cell.str.strip_prefix(MARK).str.to_lowercase() for role, cell in cells.items()}
    like = pl.all_horizontal(plain[role].is_in(HEADS[role]) for role in cells)
    reason: Any
    if names:
        own = [plain[role].str.split(":").list.first() for role in cells]
        again = own[0].is_in(names) & own[1].is_in(names) & (own[0] != own[1])
        _refuse_other_order(rows, again & (own[0] != columns["user"].lower()))
        reason = pl.when(again).then(pl.lit("the header again"))
        if rows.delimited:
            reason = reason.when(like).then(pl.lit("the header again, under other names"))
            for role, half in _half_headers(rows, columns).items():
                reason = reason.when(half).then(
                    pl.lit(
                        f"{role} is {columns[role]!r}, as its column is called: the header again? "
                        "If it is an id, give the column another name"
                    )
                )
    else:
        reason = pl.when(like & pl.lit(not has_header)).then(
            pl.lit("looks like a header: set has_header: true if it is one")
        )
    marked = pl.any_horizontal(cell.str.starts_with(MARK) for cell in cells.values())
    reason = reason.when(marked).then(pl.lit(MARKED))
    return rows.frame.select(reason.alias("header")).to_series()


def _names_a_column(rows: Rows, words: set[str]) -> bool:
    """Whether a user or an item may be one of `words`, or is not plain ASCII, as a mark: one pass
    over the cells, where `header_again` takes a dozen.
    """
    pattern = f"(?i)^(?:{'|'.join(map(re.escape, sorted(words)))})(?::|$)|[^\\x00-\\x7f]"
    cells = (pl.col(role).cast(pl.String).str.contains(pattern).any() for role in ("user", "item"))
    return any(rows.frame.select(cells).row(0))


def _refuse_other_order(rows: Rows, other: pl.Expr) -> None:
    found = rows.frame.filter(other)
    if len(found):
        raise DataError(
            f"{rows.file}:{found[LINE][0]}: the header again, in another order: the rows below it "
            "are of other columns: make a file of each part and name both"
        )


def _half_headers(rows: Rows, columns: dict[str, str]) -> dict[str, pl.Series]:
    """Rows of which one of user and item is its column's name, and the other stands on no other
    rows. A file with times needs no such look: there a header is no time.
    """
    found: dict[str, pl.Series] = {}
    if "time" in columns or "rating" in columns:
        return found
    for role, other in (("user", "item"), ("item", "user")):
        same = rows.frame[role] == columns[role]
        if same.any():
            elsewhere = rows.frame[other].filter(~same)
            found[role] = same & ~rows.frame[other].is_in(elsewhere.implode())
    return found


def refuse_data_as_header(
    path: Path,
    settings: LogSettings,
    columns: dict[str, str],
    frame: pl.DataFrame,
    present: list[str],
) -> None:
    """Raises DataError where columns are named by number, and the header is a row like others: one
    of its ids stands below, or it has a number that does not count the columns.
    """
    by_number = [
        role for role in ("user", "item") if isinstance(getattr(settings.columns, role), int)
    ]
    if not by_number:
        return
    found = [columns[role] for role in by_number if (frame[role] == columns[role]).any()]
    number = re.compile(r"[+-]?\d+(\.\d+)?")
    found += [name for k, name in enumerate(present) if number.fullmatch(name) and name != str(k)]
    if found:
        raise DataError(
            f"{path}:1: {found[0]!r} stands in the header, and looks like a value of a row: set "
            "dataset.interactions.has_header: false if the first line is a row"
        )
