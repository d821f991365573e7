"""`ingest_dataset`: files of any known layout → one directory of Parquet files."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
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
    """Reads, cleans and stores a data set, unless the cache has it already (looked up by content).

    If several runs need the same data set at once, one makes it and the others wait.

    Args:
        cache: the directory that holds `<name>/dataset-<key>/`.

    Returns:
        A directory with interactions.parquet (user, item, time, row, and split if given),
        items.parquet and users.parquet (id, then texts), quarantine.jsonl and manifest.json, where
        rows_in = rows_kept + rows_quarantined + repeats_collapsed + filtered_by_rating +
        filtered_by_k_core.

    Raises:
        DataError: a file or column is missing, more than `max_bad_rows` rows are malformed, or no
            row is left.
        StoreError: the cache cannot be written.
    """
    inputs = _inputs(settings)
    key = content_key([SCHEMA, _without_paths(settings), [sha256_file(path) for path in inputs]])
    final = cache / settings.name / f"dataset-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    with building(final):
        if not is_complete(final, KIND, SCHEMA):  # unless another run made it meanwhile
            _ingest(settings, inputs, key, final)
    return final


def _ingest(settings: DatasetSettings, inputs: list[Path], key: str, final: Path) -> None:
    faults.check("ingest")
    quarantine = Quarantine(settings.max_bad_rows)
    clean = None if settings.memory_mb else _clean(settings, quarantine)
    with writing(final.parent.parent), atomic_directory(final) as work:
        written = _write(clean, settings, work) if clean else _stream(settings, quarantine, work)
        quarantine.write(work / "quarantine.jsonl")
        content = {
            "name": settings.name,
            "key": key,
            **written,
            "has_valid": settings.valid is not None,
            "sources": [{"file": str(path), "bytes": path.stat().st_size} for path in inputs],
            "settings": settings.content(),
        }
        write_manifest(work, KIND, SCHEMA, content)


@dataclass(frozen=True)
class _Clean:
    """A data set in memory: the log as read, the rows kept, texts by side, row counts."""

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
    tables = _read_tables(settings, quarantine, log.frame["user"], log.frame["item"])
    frame, dropped = _filtered(settings, log)
    table_rows = len(quarantine.rows) - counts["rows_quarantined"]
    counts |= {"rows_kept": frame.height, **dropped, "table_rows_quarantined": table_rows}
    return _Clean(log, frame, tables, counts)


def _write(clean: _Clean, settings: DatasetSettings, work: Path) -> dict[str, Any]:
    """Writes rows and texts. Returns their entries of the manifest."""
    clean.frame.write_parquet(work / "interactions.parquet")
    counts = dict(clean.counts)
    for side, table in clean.tables.items():
        logged = clean.log.frame.get_column(side).unique()
        kept = clean.frame.get_column(side).unique()
        counts |= _write_texts(work, table, kept, logged, settings, side)
    return {
        "counts": counts,
        "has_time": clean.log.has_time,
        "given_split": "split" in clean.frame.columns,
    }


def _stream(settings: DatasetSettings, quarantine: Quarantine, work: Path) -> dict[str, Any]:
    """As `_clean` and `_write`, in blocks of users."""
    with tempfile.TemporaryDirectory(dir=work.parent, prefix=".partial-spill-") as folder:
        log = stream_log(settings, quarantine, Path(folder) / "log")
        counts = {"rows_in": log.rows_in, "rows_quarantined": len(quarantine.rows), **log.dropped}
        tables = _read_tables(settings, quarantine, log.users, log.items)
        counts["rows_kept"] = write_frames(work / "interactions.parquet", kept_blocks(log))
    for side, ids, keep in zip(("user", "item"), (log.users, log.items), log.keep, strict=True):
        kept = ids.filter(pl.Series(keep))
        counts |= _write_texts(work, tables[side], kept, ids, settings, side)
    counts["table_rows_quarantined"] = len(quarantine.rows) - counts["rows_quarantined"]
    return {"counts": counts, "has_time": log.has_time, "given_split": False}


def write_frames(path: Path, frames: Iterable[pl.DataFrame]) -> int:
    """Writes frames of one schema as row groups of a Parquet file. Returns the number of rows."""
    rows = 0
    with ExitStack() as stack:
        writer: arrow_parquet.ParquetWriter | None = None
        for frame in frames:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = arrow_parquet.ParquetWriter(path, table.schema, compression="zstd")
                stack.enter_context(writer)
            writer.write_table(table)
            rows += frame.height
    return rows


def _read_tables(
    settings: DatasetSettings, quarantine: Quarantine, users: pl.Series, items: pl.Series
) -> dict[str, pl.DataFrame]:
    """The whole text files by side, items first."""
    tables = {}
    for side, table, logged in (("item", settings.items, items), ("user", settings.users, users)):
        tables[side] = empty_table()
        if table is not None:
            tables[side] = read_table(table, side, quarantine)
            _require_common_ids(table, tables[side], logged, side)
    return tables


def is_complete(directory: Path, kind: str, schema: int) -> bool:
    """Whether a cached directory exists and all its files are sound. Warns of a damaged one."""
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
    """Turns the errors of a full disk or a read-only cache into one sentence."""
    try:
        yield
    # polars raises the latter on a full disk
    except (OSError, pl.exceptions.ComputeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("error: ")[2]
        raise StoreError(
            f"{cache}: cannot be written ({reason}): free space or choose another cache"
        ) from error


def _inputs(settings: DatasetSettings) -> list[Path]:
    """All input files, in order. Raises DataError for the first that is missing or empty."""
    items, users = settings.items, settings.users
    named = [(path, "dataset.interactions.path") for path in settings.interactions.paths]
    optional = [
        (settings.valid, "dataset.valid"),
        (settings.test, "dataset.test"),
        (items.path if items else None, "dataset.items.path"),
        (users.path if users else None, "dataset.users.path"),
    ]
    named += [(path, key) for path, key in optional if path is not None]
    for path, key in named:
        check_file(path, key)
    return [path for path, _ in named]


def _without_paths(settings: DatasetSettings) -> dict[str, Any]:
    """Settings with names (`auto` reads them) for paths, so that a moved folder keeps its cache."""
    plain = settings.content()
    plain["interactions"]["path"] = [path.name for path in settings.interactions.paths]
    for side in ("items", "users"):
        if plain[side] is not None:
            plain[side]["path"] = Path(plain[side]["path"]).name
    return plain | {"test": settings.test is not None, "valid": settings.valid is not None}


def _read_logs(settings: DatasetSettings, quarantine: Quarantine) -> Log:
    """The log; of a given split, its three logs with column `split`."""
    need_rating = settings.min_rating is not None
    train = read_log(settings.interactions.paths, settings.interactions, need_rating, quarantine)
    if settings.test is None:
        return train
    parts = [train.frame.with_columns(split=pl.lit("train"))]
    rows_in, has_time = train.rows_in, train.has_time
    for name, path in (("valid", settings.valid), ("test", settings.test)):
        if path is not None:
            log = read_log([path], settings.interactions, need_rating, quarantine, 1 + rows_in)
            parts.append(log.frame.with_columns(split=pl.lit(name)))
            rows_in += log.rows_in
            has_time &= log.has_time
    if not has_time:
        parts = [part.with_columns(time=pl.col("row")) for part in parts]
    return Log(pl.concat(parts, how="vertical_relaxed"), rows_in, has_time)


def _filtered(settings: DatasetSettings, log: Log) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows kept, and the number of rows dropped by each filter."""
    rated = log.frame
    if settings.min_rating is not None:
        rated = by_rating(rated, settings.min_rating)
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


def _require_common_ids(
    settings: TableSettings, table: pl.DataFrame, logged: pl.Series, side: str
) -> None:
    """Raises DataError if a text file has no id of the log: a wrong file or id column."""
    if table.is_empty():
        raise DataError(
            f"{settings.path}: no row with a {side} id: give a file with rows or unset "
            f"dataset.{side}s"
        )
    if not table.get_column("id").is_in(logged.unique().implode()).any():
        raise DataError(
            f"{settings.path}: no {side} id in common with the log: {table['id'][0]!r} here, "
            f"{logged[0]!r} there: check dataset.{side}s.id and dataset.interactions.columns.{side}"
        )


def _write_texts(
    work: Path,
    table: pl.DataFrame,
    kept: pl.Series,
    logged: pl.Series,
    settings: DatasetSettings,
    side: str,
) -> dict[str, int]:
    """Writes the texts of the future nodes. Returns the counts of nodes, by side.

    Args:
        table: the whole text file.
        kept: distinct ids that have an interaction after the filters.
        logged: distinct ids of the log.
    """
    in_log = pl.col("id").is_in(kept.implode())
    is_node = in_log
    if settings.include_unseen:
        dropped = pl.col("id").is_in(logged.implode()) & ~in_log
        is_node = ~dropped if settings.k_core > 1 else pl.lit(True)
    chosen = table.filter(is_node)
    chosen.write_parquet(work / f"{side}s.parquet")
    with_text = table.filter(in_log).height
    return {
        f"{side}s_in_log": len(kept),
        f"{side}s_without_text": len(kept) - with_text,
        f"{side}s_unseen": chosen.height - with_text,
    }
