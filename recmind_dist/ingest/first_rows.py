"""What the first rows of a data set's files say: read by the same code as all of them."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recmind_dist.ingest.dataset import (
    NO_ROWS,
    inputs_of,
    read_logs,
    read_tables,
    row_counts,
    take_points_off,
)
from recmind_dist.ingest.ids import natural_order
from recmind_dist.ingest.read_warnings import SIDES
from recmind_dist.ingest.rows import Quarantine
from recmind_dist.ingest.settings import DatasetSettings
from recmind_dist.ingest.sources import only_beginnings
from recmind_dist.ingest.streaming import refuse_unstreamed
from recmind_dist.ingest.summary import (
    columns_line,
    first_bad,
    rows_line,
    what_was_read,
)
from recmind_dist.ingest.tables import Table, rows_with_text, without_repeats

FILE_BYTES, ALL_BYTES, LEAST_BYTES = 4 << 20, 32 << 20, 64 << 10


@dataclass(frozen=True)
class FirstRows:
    """What was read of the first rows.

    Attributes:
        lines: for people.
        longer: files of which there is more.
        columns: of the item and the user file, by side.
    """

    lines: list[str]
    longer: list[Path]
    columns: dict[str, list[str]]


def read_first_rows(settings: DatasetSettings) -> FirstRows:
    """Reads the beginning of every file.

    Raises:
        DataError: what `ingest_dataset` would refuse in these rows.
    """
    inputs = inputs_of(settings)
    if settings.memory_mb:
        refuse_unstreamed(settings, inputs["log"])
    quarantine = Quarantine(settings.max_bad_rows)
    limit = max(LEAST_BYTES, min(FILE_BYTES, ALL_BYTES // sum(map(len, inputs.values()))))
    with only_beginnings(limit) as begun:
        log = read_logs(settings, inputs, quarantine)
        counts = NO_ROWS | {"rows_in": log.rows_in, "rows_quarantined": len(quarantine.rows)}
        counts |= log.dropped | {"rows_kept": log.frame.height}
        tables = read_tables(settings, quarantine)
        take_points_off(settings, log, tables)
        for side, table in (("item", settings.items), ("user", settings.users)):
            if table is not None:
                without_repeats(tables[side], table, side)
        logged = {side: natural_order(log.frame.get_column(side)) for side in SIDES}
        rows_of = {side: row_counts(log.frame, side) for side in SIDES}
        read = what_was_read(settings, inputs["log"][0], log, tables, logged, rows_of)
    rows = rows_line(counts, log.examples | first_bad(quarantine))
    lines = [f"first rows of the {rows}", columns_line(read)]
    lines += [_table_line(side, table, log.frame[side]) for side, table in tables.items()]
    lines += [f"warning: {warning}" for warning in read["warnings"]]
    columns = {side: table.texts.columns for side, table in tables.items()}
    return FirstRows(lines, begun.longer, columns)


def _table_line(side: str, table: Table, logged: pl.Series) -> str:
    if not table.files:
        return f"{side}s: no {side} file"
    names = ", ".join(table.texts.columns[1:]) or "no texts"
    met = int(table.frame["id"].is_in(logged.unique().implode()).sum())
    empty = table.frame.height - rows_with_text(table.texts)
    without = f"; {empty} without a text (all fields are empty)" if empty else ""
    return (
        f"{side}s: first {table.frame.height} rows of {table.files[0].name}: {names}; {met} of "
        f"their ids are in the first rows of the log{without}"
    )
