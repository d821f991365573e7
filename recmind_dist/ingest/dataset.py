"""`ingest_dataset`: files of any known layout → one directory of Parquet that every later room
reads.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow.parquet as arrow_parquet

from recmind_dist import faults
from recmind_dist.errors import DataError, StoreError
from recmind_dist.ingest.filters import by_rating, collapse_repeats, k_core
from recmind_dist.ingest.log import Log, read_log
from recmind_dist.ingest.rows import Quarantine, check_file
from recmind_dist.ingest.settings import DatasetSettings, TableSettings
from recmind_dist.ingest.streaming import kept_blocks, stream_log
from recmind_dist.ingest.tables import empty_table, read_table
from recmind_dist.storage import (
    atomic_directory,
    building,
    content_key,
    read_manifest,
    sha256_file,
    verify_manifest,
    write_manifest,
)

KIND = "dataset"
SCHEMA = 1

logger = logging.getLogger(__name__)


def ingest_dataset(settings: DatasetSettings, cache: Path) -> Path:
    """Reads, cleans and stores a data set. What was done before is found by content and returned
    untouched.

    Of runs that want the same data set at once, one makes it and the others wait for it.

    Args:
        cache: the directory that holds `<name>/dataset-<key>/`.

    Returns:
        A directory with interactions.parquet (user, item, time, row, and split if given),
        items.parquet and users.parquet (id, then texts), quarantine.jsonl and manifest.json, whose
        counts add up:
        rows_in = rows_kept + rows_quarantined + repeats_collapsed + filtered_by_rating +
        filtered_by_k_core.

    Raises:
        DataError: a file or column is missing, rows are malformed beyond `max_bad_rows`, or nothing
        is left.
        StoreError: the cache cannot be written.
    """
    inputs = _inputs(settings)
    key = content_key([SCHEMA, _without_paths(settings), [sha256_file(path) for path in inputs]])
    final = cache / settings.name / f"dataset-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    with building(final):
        if not is_complete(
            final, KIND, SCHEMA
        ):  # another run may have made it while this one waited
            _ingest(settings, inputs, key, final)
    return final


def _ingest(settings: DatasetSettings, inputs: list[Path], key: str, final: Path) -> None:
    faults.check("ingest")
    quarantine = Quarantine(settings.max_bad_rows)
    clean = None if settings.memory_mb else _clean(settings, quarantine)
    with writing(final.parent.parent), atomic_directory(final) as work:
        found = (
            _write(clean, settings, work)
            if clean is not None
            else _stream(settings, quarantine, work)
        )
        quarantine.write(work / "quarantine.jsonl")
        content = {
            "name": settings.name,
            "key": key,
            **found,
            "has_valid": settings.valid is not None,
        }
        sources = [{"file": str(path), "bytes": path.stat().st_size} for path in inputs]
        write_manifest(
            work, KIND, SCHEMA, {**content, "sources": sources, "settings": settings.content()}
        )


@dataclass(frozen=True)
class _Clean:
    """A data set in memory: rows as read and as chosen, texts by side, counts so far."""

    log: Log
    frame: pl.DataFrame
    tables: dict[str, pl.DataFrame]
    counts: dict[str, int]


def _clean(settings: DatasetSettings, quarantine: Quarantine) -> _Clean:
    log = _read_logs(settings, quarantine)
    if log.frame.is_empty():
        raise DataError(
            f"{settings.interactions.paths[0]}: the log has no interaction: give a file with at "
            "least one row"
        )
    counts = {"rows_in": log.rows_in, "rows_quarantined": len(quarantine.rows)}
    tables = _read_tables(
        settings, quarantine, log.frame.get_column("user"), log.frame.get_column("item")
    )
    frame, dropped = _choose_rows(settings, log)
    table_rows = len(quarantine.rows) - counts["rows_quarantined"]
    counts |= {"rows_kept": frame.height, **dropped, "table_rows_quarantined": table_rows}
    return _Clean(log, frame, tables, counts)


def _write(clean: _Clean, settings: DatasetSettings, work: Path) -> dict[str, Any]:
    """Writes rows and texts. Returns what the manifest says of them."""
    clean.frame.write_parquet(work / "interactions.parquet")
    counts = dict(clean.counts)
    for side, table in clean.tables.items():
        kept, logged = clean.frame.get_column(side), clean.log.frame.get_column(side)
        counts |= _write_texts(work, table, kept, logged, settings, side)
    return {
        "counts": counts,
        "has_time": clean.log.has_time,
        "given_split": "split" in clean.frame.columns,
    }


def _stream(settings: DatasetSettings, quarantine: Quarantine, work: Path) -> dict[str, Any]:
    """The same in blocks of users."""
    with tempfile.TemporaryDirectory(dir=work.parent, prefix=".partial-spill-") as folder:
        log = stream_log(settings, quarantine, Path(folder) / "log")
        counts = {
            "rows_in": log.rows_in,
            "rows_quarantined": len(quarantine.rows),
            "rows_kept": 0,
            **log.dropped,
        }
        tables = _read_tables(settings, quarantine, log.users, log.items)
        with ParquetWriter(work / "interactions.parquet") as writer:
            for frame in kept_blocks(log):
                writer.write(frame)
                counts["rows_kept"] += frame.height
    for side, ids, keep in (("user", log.users, log.keep[0]), ("item", log.items, log.keep[1])):
        counts |= _write_texts(work, tables[side], ids.filter(pl.Series(keep)), ids, settings, side)
    counts |= {"table_rows_quarantined": len(quarantine.rows) - counts["rows_quarantined"]}
    return {"counts": counts, "has_time": log.has_time, "given_split": False}


class ParquetWriter:
    """Frames of one schema → one Parquet file, a row group each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: arrow_parquet.ParquetWriter | None = None

    def write(self, frame: pl.DataFrame) -> None:
        """Appends a frame."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        self._writer = self._writer or arrow_parquet.ParquetWriter(
            self._path, table.schema, compression="zstd"
        )
        self._writer.write_table(table)

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _read_tables(
    settings: DatasetSettings, quarantine: Quarantine, users: pl.Series, items: pl.Series
) -> dict[str, pl.DataFrame]:
    """Texts by side, items first, as they were read."""
    found = {}
    for side, table, logged in (("item", settings.items, items), ("user", settings.users, users)):
        found[side] = read_table(table, side, quarantine) if table else empty_table()
        _must_meet(logged, found[side], table, side)
    return found


def _write_texts(
    work: Path,
    table: pl.DataFrame,
    kept: pl.Series,
    logged: pl.Series,
    settings: DatasetSettings,
    side: str,
) -> dict[str, int]:
    chosen, counts = _choose_texts(table, kept.unique(), logged, settings, side)
    chosen.write_parquet(work / f"{side}s.parquet")
    return counts


def is_complete(directory: Path, kind: str, schema: int) -> bool:
    """Whether a cached directory is there with all its files sound; a damaged one is reported and
    made again.
    """
    if not directory.exists():
        return False
    try:
        manifest = read_manifest(directory, kind, schema)
        verify_manifest(directory, manifest)
    except (OSError, StoreError, LookupError, TypeError) as error:
        logger.warning("%s: damaged, made again (%s)", directory, error)
        return False
    return True


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turns a full disk or a read-only cache into one sentence. Nothing half-written is left."""
    try:
        yield
    except (
        OSError,
        pl.exceptions.ComputeError,
    ) as error:  # the second is what polars makes of a full disk
        reason = getattr(error, "strerror", None) or str(error).rpartition("error: ")[2]
        raise StoreError(
            f"{cache}: cannot be written ({reason}): free space or choose another cache"
        ) from error


def _inputs(settings: DatasetSettings) -> list[Path]:
    """Every file read, in order. Raises DataError for the first that is not there or empty."""
    logs = [(path, "dataset.interactions.path") for path in settings.interactions.paths]
    given = [(settings.valid, "dataset.valid"), (settings.test, "dataset.test")]
    tables = [
        (t.path, f"dataset.{side}.path")
        for side, t in (("items", settings.items), ("users", settings.users))
        if t
    ]
    chosen = [*logs, *((path, key) for path, key in given if path is not None), *tables]
    for path, key in chosen:
        check_file(path, key)
    return [path for path, _ in chosen]


def _without_paths(settings: DatasetSettings) -> dict[str, Any]:
    """Settings without where the files lie, so that a moved folder keeps its cache; `auto` reads
    the names.
    """
    plain = settings.content()
    plain["interactions"]["path"] = [path.name for path in settings.interactions.paths]
    for side in ("items", "users"):
        if plain[side] is not None:
            plain[side]["path"] = Path(plain[side]["path"]).name
    return plain | {"test": settings.test is not None, "valid": settings.valid is not None}


def _read_logs(settings: DatasetSettings, quarantine: Quarantine) -> Log:
    """The log, or the three logs of a given split with their names in `split`."""
    rating = settings.min_rating is not None
    train = read_log(settings.interactions.paths, settings.interactions, rating, quarantine)
    if settings.test is None:
        return train
    parts = [train.frame.with_columns(split=pl.lit("train"))]
    rows_in, has_time = train.rows_in, train.has_time
    for name, path in (("valid", settings.valid), ("test", settings.test)):
        if path is not None:
            log = read_log([path], settings.interactions, rating, quarantine, 1 + rows_in)
            parts.append(log.frame.with_columns(split=pl.lit(name)))
            rows_in, has_time = rows_in + log.rows_in, has_time and log.has_time
    if not has_time:
        parts = [part.with_columns(time=pl.col("row")) for part in parts]
    return Log(pl.concat(parts, how="vertical_relaxed"), rows_in, has_time)


def _choose_rows(settings: DatasetSettings, log: Log) -> tuple[pl.DataFrame, dict[str, int]]:
    rated = (
        by_rating(log.frame, settings.min_rating) if settings.min_rating is not None else log.frame
    )
    distinct = collapse_repeats(rated, settings.repeats)
    kept = k_core(distinct, settings.k_core) if settings.k_core > 1 else distinct
    if rated.is_empty():
        raise DataError(
            f"dataset.min_rating = {settings.min_rating:g} leaves no interaction: lower it"
        )
    if kept.is_empty():
        raise DataError(f"dataset.k_core = {settings.k_core} leaves no interaction: lower it")
    counts = {
        "repeats_collapsed": rated.height - distinct.height,
        "filtered_by_rating": log.frame.height - rated.height,
        "filtered_by_k_core": distinct.height - kept.height,
    }
    columns = ["user", "item", "time", "row", *(["split"] if "split" in kept.columns else [])]
    return kept.select(columns), counts


def _must_meet(
    logged: pl.Series, table: pl.DataFrame, settings: TableSettings | None, side: str
) -> None:
    """Raises DataError if a text file has no id in common with the log: a sign of a wrong column or
    a wrong file.
    """
    if settings is None:
        return
    if table.is_empty():
        raise DataError(
            f"{settings.path}: no row with a {side} id: give a file with rows or unset "
            f"dataset.{side}s"
        )
    if not table.get_column("id").is_in(logged.unique().implode()).any():
        raise DataError(
            f"{settings.path}: no {side} id in common with the log: {table.get_column('id')[0]!r} "
            "here, "
            f"{logged[0]!r} there: check dataset.{side}s.id and dataset.interactions.columns.{side}"
        )


def _choose_texts(
    table: pl.DataFrame, present: pl.Series, logged: pl.Series, settings: DatasetSettings, side: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Texts of the nodes there will be, and how many nodes have none or no interaction."""
    chosen = table.filter(pl.col("id").is_in(present.implode()))
    unseen = table.filter(~pl.col("id").is_in(present.implode()))
    if settings.k_core > 1:
        unseen = unseen.filter(~pl.col("id").is_in(logged.unique().implode()))
    if settings.include_unseen:
        chosen = table.filter(pl.col("id").is_in(pl.concat([chosen["id"], unseen["id"]]).implode()))
    counts = {
        f"{side}s_in_log": len(present),
        f"{side}s_without_text": len(present)
        - table.filter(pl.col("id").is_in(present.implode())).height,
        f"{side}s_unseen": chosen.height
        - chosen.filter(pl.col("id").is_in(present.implode())).height,
    }
    return chosen, counts
