"""Item and user files → one frame of texts, id first; bad rows set aside, repeated ids told."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.ids import (
    ROUNDED,
    IdLook,
    id_column,
    is_rounded,
    missing_rows,
    text_id,
    without_point,
)
from recmind_dist.ingest.layouts import (
    by_name_or_number,
    columns_present,
    format_of,
    read_raw,
    with_partitions,
)
from recmind_dist.ingest.objects import flat_text, read_jsonl, unpaired, value_of
from recmind_dist.ingest.rows import (
    FILE,
    HEADS,
    LINE,
    BadRow,
    Quarantine,
    Rows,
    check_file,
    missing_column,
)
from recmind_dist.ingest.settings import TableSettings
from recmind_dist.ingest.sources import partition_columns

COUNTS = ("rows_in", "rows_quarantined", "rows_missing")


@dataclass
class Table:
    """The texts of a side.

    Attributes:
        frame: id, then the text fields as strings, null where there is no text, then LINE and FILE.
        looks: of the ids of each file.
        counts: rows in, set aside, missing, and repeats that are one.
        first_bad: the first row set aside and why; "": none was.
        notes: what may have been misread.
        identity: the column of the ids in the first file.
    """

    frame: pl.DataFrame
    files: list[Path] = field(default_factory=list)
    looks: list[IdLook] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    first_bad: str = ""
    notes: list[str] = field(default_factory=list)
    identity: str = ""

    @property
    def texts(self) -> pl.DataFrame:
        """Id and texts alone."""
        return self.frame.select(pl.exclude(LINE, FILE))


def empty_table() -> Table:
    """The table of a data set without a text file."""
    schema = {"id": pl.String, LINE: pl.Int64, FILE: pl.Int64}
    return Table(pl.DataFrame(schema=schema))


def read_table(settings: TableSettings, side: str, quarantine: Quarantine) -> pl.DataFrame:
    """Columns: id, then the text fields as strings, null where there is no text.

    Args:
        side: "item" or "user", for the usual id columns and for error messages.

    Raises:
        DataError: a file or column is missing, an id is repeated, or too many rows are malformed.
    """
    table = read_rows(settings, side, quarantine)
    return without_repeats(table, settings, side).texts


def read_rows(
    settings: TableSettings,
    side: str,
    quarantine: Quarantine,
    how: str = "auto",
    missing: Iterable[str] = (),
) -> Table:
    """All rows with an id, of all files.

    Args:
        how: see `DatasetSettings.user_ids`.
        missing: see `DatasetSettings.missing`.
    """
    table = Table(pl.DataFrame(), counts=dict.fromkeys(COUNTS, 0))
    frames = []
    texts_none = list(missing)
    for number, path in enumerate(settings.files(f"dataset.{side}s.path")):
        check_file(path, f"dataset.{side}s.path")
        quarantine.encodings[path] = settings.encoding
        rows, identity = _read(path, settings, side, quarantine.room)
        table.identity = table.identity or identity
        table.notes += rows.notes
        table.counts["rows_in"] += rows.frame.height + len(rows.bad)
        frame = rows.frame
        if texts_none:
            lost = missing_rows(frame["id"], texts_none)
            table.counts["rows_missing"] += int(lost.sum())
            frame = frame.filter(~lost)
        ids, why = id_column(frame.get_column("id"), how)
        bad = rows.bad + _without_id(rows, frame, ids, why, side)
        quarantine.add(bad)
        table.counts["rows_quarantined"] += len(bad)
        if bad and not table.first_bad:
            table.first_bad = f"{path}:{bad[0].line}: {bad[0].reason}"
        table.files.append(path)
        table.looks.append(IdLook())
        table.looks[-1].add(ids)
        frame = frame.with_columns(ids.alias("id"), pl.lit(number, pl.Int64).alias(FILE))
        frames.append(frame.filter(pl.col("id").is_not_null()))
    frame = pl.concat(frames, how="diagonal")
    fields = [name for name in frame.columns if name not in ("id", LINE, FILE)]
    none = pl.lit(None, pl.String)
    texts = [
        pl.when((pl.col(name) != "") & ~pl.col(name).is_in(texts_none))
        .then(pl.col(name))
        .otherwise(none)
        .alias(name)
        for name in fields
    ]
    table.frame = frame.select("id", *texts, LINE, FILE)
    return table


def rows_with_text(texts: pl.DataFrame) -> int:
    """How many rows of id and text fields have a text in one of the fields; all where there are
    no fields, so that none can be empty.
    """
    fields = [pl.col(name).is_not_null() for name in texts.columns if name != "id"]
    return texts.filter(pl.any_horizontal(*fields)).height if fields else texts.height


def take_point_off_table(table: Table) -> None:
    """12 for 12.0 in the ids."""
    if len(table.frame):
        table.frame = table.frame.with_columns(without_point(table.frame["id"]).alias("id"))


def _without_id(
    rows: Rows, frame: pl.DataFrame, ids: pl.Series, why: pl.Series, side: str
) -> list[BadRow]:
    found = []
    for place in ids.is_null().arg_true():
        reason = f"{side} id {why[place]}" if why[place] else f"no {side} id"
        text = "" if rows.textual else "null"
        found.append(BadRow(rows.file, int(frame[LINE][place]), reason, text))
    return found


def _read(path: Path, settings: TableSettings, side: str, limit: int) -> tuple[Rows, str]:
    """The rows of a file, and which column has the ids."""
    key = f"dataset.{side}s"
    layout = format_of(path, settings.format, f"{key}.format", settings.encoding)
    if layout == "lightgcn":
        raise DataError(
            f"{path}: the lightgcn layout holds no texts: give another file in {key}.path"
        )
    if layout in ("jsonl", "python"):
        return _read_objects(path, settings, side, limit, layout == "python")
    identity, fields = _choose(path, settings, side, columns_present(path, layout, settings, key))
    rows = read_raw(path, layout, settings, [identity, *fields], limit, fields, key)
    texts = [_text_column(rows.frame.get_column(name), path) for name in fields]
    ids = rows.frame.get_column(identity)
    if ids.dtype.is_nested() or ids.dtype in (pl.Binary, pl.Boolean):
        raise DataError(f"{path}: column {identity!r} holds {ids.dtype}: ids are text or numbers")
    frame = pl.DataFrame([ids.alias("id"), *texts, rows.frame.get_column(LINE)])
    bad = list(rows.bad)
    if rows.delimited:
        why = _headers(frame, identity, fields, side, settings.has_header)
        bad += [
            BadRow(path, line, reason)
            for line, reason in zip(frame[LINE], why, strict=True)
            if reason is not None
        ]
        frame = frame.filter(why.is_null())
    return replace(rows, frame=frame, bad=bad), identity


def _headers(
    frame: pl.DataFrame, identity: str, fields: list[str], side: str, has_header: bool
) -> pl.Series:
    """Why rows that repeat the names of the columns, as in files that were joined, or look like
    names where none are, are no rows. Shape: as the rows.
    """
    cell = pl.col("id").cast(pl.String)
    if not has_header:
        like = cell.str.to_lowercase().is_in(("id", *HEADS[side])) & (pl.col(LINE) == 1)
        found = pl.lit("looks like a header: set has_header: true if it is one")
        return frame.select(pl.when(like).then(found).alias("why")).to_series()
    rest = [pl.col(name) == name for name in fields[:1]]
    whole = pl.all_horizontal(cell == identity, *rest)
    half = pl.lit(
        f"{side} id is {identity!r}, as its column is called: the header again? If it is an id, "
        "give the column another name"
    )
    reason = pl.when(whole).then(pl.lit("the header again")).when(cell == identity).then(half)
    return frame.select(reason.alias("why")).to_series()


def _text_column(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype == pl.String:
        return _unescaped(column.str.strip_chars())
    if column.dtype == pl.Binary:
        raise DataError(
            f"{path}: column {column.name!r} holds {column.dtype}: leave it out by naming the "
            "fields to keep"
        )
    if column.dtype.is_nested():
        texts = [flat_text(value) for value in column.to_list()]
        return _unescaped(pl.Series(column.name, texts, dtype=pl.String))
    return column.cast(pl.String)


def _unescaped(column: pl.Series) -> pl.Series:
    """HTML's entities as the letters they stand for: & for &amp;."""
    if not column.str.contains(r"&#?\w+;").any():
        return column
    return pl.Series(
        column.name, [text and html.unescape(text).strip() for text in column], dtype=pl.String
    )


def _usual_ids(settings: TableSettings, side: str) -> tuple[str | int, ...]:
    return (settings.id,) if settings.id is not None else ("id", f"{side}_id", side)


def _refuse_two_ids(path: Path, settings: TableSettings, side: str, names: list[str]) -> None:
    """Raises DataError where it is left open which of two columns has the ids."""
    if settings.id is None and "id" in names and f"{side}_id" in names:
        raise DataError(
            f"{path}: both 'id' and '{side}_id' may be the {side}'s id: set dataset.{side}s.id, "
            f"and the texts to keep in dataset.{side}s.fields"
        )


def _fields(settings: TableSettings, names: Iterable[str], identity: str) -> list[str]:
    """The text columns to keep."""
    present = list(names)
    if settings.fields == "all":
        return [name for name in present if name not in (identity, "")]  # "": an index
    chosen = []
    for wanted in settings.fields:
        found = by_name_or_number(wanted, present) if isinstance(wanted, int) else wanted
        chosen.append(str(wanted) if found is None else found)
    return chosen


def _choose(
    path: Path, settings: TableSettings, side: str, present: list[str]
) -> tuple[str, list[str]]:
    """The id column and the text columns. Raises DataError if the file lacks one of them."""
    _refuse_two_ids(path, settings, side, present)
    usual = _usual_ids(settings, side)
    found = (by_name_or_number(wanted, present) for wanted in usual)
    identity = next((name for name in found if name is not None), None)
    if identity is None:
        wanted = " or ".join(map(str, usual))
        raise missing_column(path, f"dataset.{side}s.id", wanted, present)
    fields = _fields(settings, present, identity)
    for name in fields:
        if name not in present:
            raise missing_column(path, f"dataset.{side}s.fields", name, present)
    if "id" in fields:
        raise DataError(
            f"{path}: text column 'id' clashes with the id, {identity!r}: "
            f"name the columns to keep in dataset.{side}s.fields"
        )
    return identity, fields


class _ObjectPicker:
    """Picks id and texts of JSON objects. The first object with a usual id key decides which."""

    def __init__(self, settings: TableSettings, side: str) -> None:
        self._settings = settings
        self._side = side
        self.identity: str | None = None
        self.keys: dict[str, None] = {}  # of all objects, in order of first occurrence
        self.nested: set[str] = set()  # keys that have a list or an object somewhere
        wanted = [settings.id, *(settings.fields if settings.fields != "all" else ())]
        self._inner = [name for name in map(str, wanted) if "." in name]  # of objects in objects

    def __call__(self, value: dict[str, Any]) -> dict[str, str | None] | str:
        inner = {name: None for name in self._inner if value_of(value, name) is not None}
        names = {**dict.fromkeys(value), **inner}
        self.keys.update(names)
        self.nested.update(k for k, v in value.items() if isinstance(v, list | dict))
        if self.identity is None:
            usual = map(str, _usual_ids(self._settings, self._side))
            self.identity = next((name for name in usual if name in names), None)
        if self.identity is None or self.identity not in names:
            return f"no {self._side} id"
        raw = value_of(value, self.identity)
        try:
            fields = _fields(self._settings, value, self.identity)
            picked = {name: flat_text(value_of(value, name)) for name in fields}
        except RecursionError:
            return "JSON nested too deep"
        picked["id"] = text_id(raw)
        if picked["id"] is None:
            return "the id is not text or a number"
        if is_rounded(raw):
            return f"the id {ROUNDED}"
        if any(map(unpaired, picked.values())) or any(map(unpaired, picked)):
            return "a text holds half a surrogate pair"
        return picked


def _read_objects(
    path: Path, settings: TableSettings, side: str, limit: int, python: bool
) -> tuple[Rows, str]:
    picker = _ObjectPicker(settings, side)
    rows = read_jsonl(path, picker, limit, settings.encoding, python)
    if rows.bad and not picker.keys:  # no line is an object
        empty = pl.DataFrame(schema={"id": pl.String, LINE: pl.Int64})
        return Rows(rows.file, empty, rows.bad), ""
    present = list(picker.keys | dict.fromkeys(partition_columns(path)))
    _refuse_two_ids(path, settings, side, present)
    chosen = settings.model_copy(update={"id": picker.identity or settings.id})
    identity, fields = _choose(path, chosen, side, present)
    own = [name for name in fields if name in picker.keys]
    missing = [name for name in ("id", *own) if name not in rows.frame.columns]
    nulls = [pl.lit(None, pl.String).alias(name) for name in missing]
    frame = rows.frame.with_columns(nulls)
    frame = frame.with_columns(_unescaped(frame.get_column(name)) for name in own)
    # a list is another thing than the one value that a folder has
    plain = [name for name in fields if name not in picker.nested]
    frame = with_partitions(frame, path, plain, own).select("id", *fields, LINE)
    return Rows(rows.file, frame, rows.bad, rows.textual), identity


def without_repeats(table: Table, settings: TableSettings, side: str) -> Table:
    """One row an id: rows alike in all fields are one, others as `repeats` says.

    Raises:
        DataError: rows of one id differ, and `repeats` does not say which to keep.
    """
    fields = [name for name in table.frame.columns if name not in (LINE, FILE)]
    distinct = table.frame.unique(fields, keep="first", maintain_order=True)
    table.counts["rows_alike"] = table.frame.height - distinct.height
    if settings.repeats == "refuse":
        _refuse_repeated_ids(distinct, table.files, side)
        kept = distinct
    else:
        source = table.frame if settings.repeats == "last" else distinct
        kept = source.unique("id", keep=settings.repeats, maintain_order=True)
    table.counts["repeats_collapsed"] = distinct.height - kept.height
    table.frame = kept
    return table


def _refuse_repeated_ids(frame: pl.DataFrame, files: list[Path], side: str) -> None:
    repeated = frame.filter(pl.col("id").is_duplicated())
    if not repeated.height:
        return
    identity = repeated.get_column("id")[0]
    places = repeated.filter(pl.col("id") == identity).select(FILE, LINE).rows()[:2]
    first, second = (f"{files[file]}:{line}" for file, line in places)
    count = repeated.get_column("id").n_unique()
    more = f" and differs (and {count - 1} other ids)" if count > 1 else " and differs"
    raise DataError(
        f"{first} and {second}: {side} id {identity!r} stands on both lines{more}: remove one, or "
        f"set dataset.{side}s.repeats: first or last"
    )
