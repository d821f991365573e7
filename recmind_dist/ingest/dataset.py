"""`ingest_dataset`: files of any known layout → one directory of Parquet that every later room reads."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError, StoreError
from recmind_dist.ingest.filters import by_rating, collapse_repeats, k_core
from recmind_dist.ingest.log import Log, read_log
from recmind_dist.ingest.rows import Quarantine, check_file
from recmind_dist.ingest.settings import DatasetSettings, TableSettings
from recmind_dist.ingest.tables import empty_table, read_table
from recmind_dist.storage import (
    atomic_directory,
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
    """Reads, cleans and stores a data set. What was done before is found by content and returned untouched.

    Args:
        cache: the directory that holds `<name>/dataset-<key>/`.

    Returns:
        A directory with interactions.parquet (user, item, time, row, and split if given), items.parquet and
        users.parquet (id, then texts), quarantine.jsonl and manifest.json, whose counts add up:
        rows_in = rows_kept + rows_quarantined + repeats_collapsed + filtered_by_rating + filtered_by_k_core.

    Raises:
        DataError: a file or column is missing, rows are malformed beyond `max_bad_rows`, or nothing is left.
        StoreError: the cache cannot be written.
    """
    inputs = _inputs(settings)
    key = content_key([SCHEMA, _without_paths(settings), [sha256_file(path) for path in inputs]])
    final = cache / settings.name / f"dataset-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    quarantine = Quarantine(settings.max_bad_rows)
    log = _read_logs(settings, quarantine)
    if log.frame.is_empty():
        raise DataError(f"{inputs[0]}: the log has no interaction: give a file with at least one row")
    log_bad = len(quarantine.rows)
    items = read_table(settings.items, "item", quarantine) if settings.items else empty_table()
    users = read_table(settings.users, "user", quarantine) if settings.users else empty_table()
    _must_meet(log.frame, items, settings.items, "item")
    _must_meet(log.frame, users, settings.users, "user")
    frame, counts = _choose_rows(settings, log)
    counts = {"rows_in": log.rows_in, "rows_kept": frame.height, "rows_quarantined": log_bad, **counts}
    items, item_counts = _choose_texts(items, frame, log.frame, settings, "item")
    users, user_counts = _choose_texts(users, frame, log.frame, settings, "user")
    counts |= {**item_counts, **user_counts, "table_rows_quarantined": len(quarantine.rows) - log_bad}
    with writing(cache), atomic_directory(final) as work:
        frame.write_parquet(work / "interactions.parquet")
        items.write_parquet(work / "items.parquet")
        users.write_parquet(work / "users.parquet")
        quarantine.write(work / "quarantine.jsonl")
        content = {"name": settings.name, "key": key, "counts": counts, "has_time": log.has_time}
        content |= {"given_split": "split" in frame.columns, "has_valid": settings.valid is not None}
        sources = [{"file": str(path), "bytes": path.stat().st_size} for path in inputs]
        write_manifest(
            work, KIND, SCHEMA, {**content, "sources": sources, "settings": settings.model_dump(mode="json")}
        )
    return final


def is_complete(directory: Path, kind: str, schema: int) -> bool:
    """Whether a cached directory is there with all its files sound; a damaged one is reported and made again."""
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
    except (OSError, pl.exceptions.ComputeError) as error:  # the second is what polars makes of a full disk
        reason = getattr(error, "strerror", None) or str(error).rpartition("error: ")[2]
        raise StoreError(f"{cache}: cannot be written ({reason}): free space or choose another cache") from error


def _inputs(settings: DatasetSettings) -> list[Path]:
    """Every file read, in order. Raises DataError for the first that is not there or empty."""
    logs = [(path, "dataset.interactions.path") for path in settings.interactions.paths]
    given = [(settings.valid, "dataset.valid"), (settings.test, "dataset.test")]
    tables = [
        (t.path, f"dataset.{side}.path") for side, t in (("items", settings.items), ("users", settings.users)) if t
    ]
    chosen = [*logs, *((path, key) for path, key in given if path is not None), *tables]
    for path, key in chosen:
        check_file(path, key)
    return [path for path, _ in chosen]


def _without_paths(settings: DatasetSettings) -> dict[str, Any]:
    """Settings without where the files lie, so that a moved folder keeps its cache; `auto` reads the names."""
    plain = settings.model_dump(mode="json")
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
    rated = by_rating(log.frame, settings.min_rating) if settings.min_rating is not None else log.frame
    distinct = collapse_repeats(rated, settings.repeats)
    kept = k_core(distinct, settings.k_core) if settings.k_core > 1 else distinct
    if rated.is_empty():
        raise DataError(f"dataset.min_rating = {settings.min_rating:g} leaves no interaction: lower it")
    if kept.is_empty():
        raise DataError(f"dataset.k_core = {settings.k_core} leaves no interaction: lower it")
    counts = {
        "repeats_collapsed": rated.height - distinct.height,
        "filtered_by_rating": log.frame.height - rated.height,
        "filtered_by_k_core": distinct.height - kept.height,
    }
    columns = ["user", "item", "time", "row", *(["split"] if "split" in kept.columns else [])]
    return kept.select(columns), counts


def _must_meet(log: pl.DataFrame, table: pl.DataFrame, settings: TableSettings | None, side: str) -> None:
    """Raises DataError if a text file has no id in common with the log: a sign of a wrong column or a wrong file."""
    if settings is None:
        return
    if table.is_empty():
        raise DataError(f"{settings.path}: no row with a {side} id: give a file with rows or unset dataset.{side}s")
    if not table.get_column("id").is_in(log.get_column(side).unique().implode()).any():
        raise DataError(
            f"{settings.path}: no {side} id in common with the log: {table.get_column('id')[0]!r} here, "
            f"{log.get_column(side)[0]!r} there: check dataset.{side}s.id and dataset.interactions.columns.{side}"
        )


def _choose_texts(
    table: pl.DataFrame, kept: pl.DataFrame, log: pl.DataFrame, settings: DatasetSettings, side: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Texts of the nodes there will be, and how many nodes have none or no interaction."""
    present = kept.get_column(side).unique()
    chosen = table.filter(pl.col("id").is_in(present.implode()))
    unseen = table.filter(~pl.col("id").is_in(present.implode()))
    if settings.k_core > 1:
        unseen = unseen.filter(~pl.col("id").is_in(log.get_column(side).unique().implode()))
    if settings.include_unseen:
        chosen = table.filter(pl.col("id").is_in(pl.concat([chosen["id"], unseen["id"]]).implode()))
    counts = {
        f"{side}s_in_log": len(present),
        f"{side}s_without_text": len(present) - table.filter(pl.col("id").is_in(present.implode())).height,
        f"{side}s_unseen": chosen.height - chosen.filter(pl.col("id").is_in(present.implode())).height,
    }
    return chosen, counts
