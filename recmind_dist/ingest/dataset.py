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
from recmind_dist.ingest.columns import LogRules
from recmind_dist.ingest.filters import by_rating, collapse_repeats, join_weights, k_core
from recmind_dist.ingest.ids import natural_order, without_point
from recmind_dist.ingest.log import Log, read_log
from recmind_dist.ingest.read_warnings import (
    SIDES,
    joined_by_point,
    takes_points_off,
    weight_warnings,
)
from recmind_dist.ingest.rows import Quarantine, check_file
from recmind_dist.ingest.settings import DatasetSettings, files_of
from recmind_dist.ingest.sources import partition_columns
from recmind_dist.ingest.streaming import kept_blocks, sort_log, spill_log
from recmind_dist.ingest.summary import (
    REASONS,
    check_tables,
    first_bad,
    nothing_left,
    row_example,
    summary_lines,
    what_was_read,
)
from recmind_dist.ingest.tables import (
    Table,
    empty_table,
    read_rows,
    rows_with_text,
    take_point_off_table,
)
from recmind_dist.storage import (
    atomic_directory,
    building,
    content_key,
    read_manifest,
    sha256_file,
    verify_manifest,
    write_manifest,
)
from recmind_dist.storage.space import cannot_be_written

KIND = "dataset"
SCHEMA = 2
NO_ROWS = dict.fromkeys(REASONS, 0)
KEYS = {"log": "dataset.interactions.path", "test": "dataset.test", "valid": "dataset.valid"}

logger = logging.getLogger(__name__)


def ingest_dataset(settings: DatasetSettings, cache: Path) -> Path:
    """Reads, cleans and stores a data set, unless the cache has it already (looked up by content).

    If several runs need the same data set at once, one makes it and the others wait.

    Args:
        cache: the directory that holds `<name>/dataset-<key>/`.

    Returns:
        A directory with interactions.parquet (user, item, time, row, and split, weight if given),
        items.parquet and users.parquet (id, then texts), quarantine.jsonl and manifest.json, where
        rows_in = rows_kept + rows_quarantined + rows_missing + filtered_by_keep +
        repeats_collapsed + filtered_by_rating + filtered_by_k_core (`summary_lines` says it).

    Raises:
        DataError: a file or column is missing, more than `max_bad_rows` rows are malformed, or no
            row is left.
        StoreError: the cache cannot be written.
    """
    inputs = inputs_of(settings)
    read = [path for paths in inputs.values() for path in paths]
    key = content_key(
        [SCHEMA, _without_paths(settings, inputs), [sha256_file(path) for path in read]]
    )
    final = cache / settings.name / f"dataset-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    with building(final):
        if not is_complete(final, KIND, SCHEMA):  # unless another run made it meanwhile
            _ingest(settings, inputs, key, final)
    return final


def dataset_summary(directory: Path) -> list[str]:
    """What was read of a data set that `ingest_dataset` made, as lines. Raises StoreError."""
    return summary_lines(read_manifest(directory, KIND, SCHEMA))


def dataset_reading(directory: Path) -> dict[str, Any]:
    """What results and reports keep of it: counts of rows by what became of them with the first of
    each, columns, times, warnings, and all of it as lines. Raises StoreError.
    """
    manifest = read_manifest(directory, KIND, SCHEMA)
    return {"counts": manifest["counts"], **manifest["read"], "lines": summary_lines(manifest)}


InputFiles = dict[str, list[Path]]
"""log, valid, test, items, users → files in the order of reading."""


def _ingest(settings: DatasetSettings, inputs: InputFiles, key: str, final: Path) -> None:
    faults.check("ingest")
    quarantine = Quarantine(settings.max_bad_rows)
    clean = None if settings.memory_mb else _clean(settings, inputs, quarantine)
    with writing(final.parent.parent), atomic_directory(final) as work:
        if clean is not None:
            written = _write(clean, settings, work)
        else:
            written = _stream(settings, inputs["log"], quarantine, work)
        quarantine.write(work / "quarantine.jsonl")
        content = {
            "name": settings.name,
            "key": key,
            **written,
            "has_valid": settings.valid is not None,
            "sources": [
                {"file": str(path), "bytes": path.stat().st_size}
                for paths in inputs.values()
                for path in paths
            ],
            "settings": settings.content(),
        }
        write_manifest(work, KIND, SCHEMA, content)


@dataclass(frozen=True)
class _Clean:
    """A data set in memory: the log as read, the rows kept, texts by side, what was read."""

    log: Log
    frame: pl.DataFrame
    tables: dict[str, Table]
    counts: dict[str, int]
    read: dict[str, Any]


def _clean(settings: DatasetSettings, inputs: InputFiles, quarantine: Quarantine) -> _Clean:
    log = read_logs(settings, inputs, quarantine)
    counts = NO_ROWS | {"rows_in": log.rows_in, "rows_quarantined": len(quarantine.rows)}
    counts |= log.dropped
    if log.frame.is_empty():
        raise nothing_left(inputs["log"][0], counts, log.examples, quarantine)
    tables = read_tables(settings, quarantine)
    take_points_off(settings, log, tables)
    logged = {side: natural_order(log.frame.get_column(side)) for side in SIDES}
    check_tables(settings, tables, logged)
    rows = {side: row_counts(log.frame, side) for side in SIDES}
    read = what_was_read(settings, inputs["log"][0], log, tables, logged, rows)
    frame, dropped = _filtered(settings, log)
    table_rows = len(quarantine.rows) - counts["rows_quarantined"]
    counts |= {"rows_kept": frame.height, **dropped, "table_rows_quarantined": table_rows}
    read["examples"] = log.examples | first_bad(quarantine)
    read["warnings"] += weight_warnings(frame)
    return _Clean(log, frame, tables, counts, read)


def read_logs(settings: DatasetSettings, inputs: InputFiles, quarantine: Quarantine) -> Log:
    """The log, with the held-out files of a given split."""
    held_out = {name: inputs[name] for name in ("valid", "test") if inputs[name]}
    given = held_out if settings.test is not None else None
    rules = LogRules.of(settings)
    return read_log(inputs["log"], settings.interactions, rules, quarantine, given)


def row_counts(frame: pl.DataFrame, side: str) -> pl.DataFrame:
    """The ids of a side and how many rows each has."""
    return frame.group_by(pl.col(side).alias("id"), maintain_order=True).agg(pl.len().alias("rows"))


def take_points_off(settings: DatasetSettings, log: Log, tables: dict[str, Table]) -> None:
    """12 for 12.0 where all files of a side agree that pandas wrote it so."""
    for side in SIDES:
        if takes_points_off(settings, side, log, tables[side]):
            ids = without_point(log.frame[side])
            log.notes += joined_by_point(side, log.frame[side], ids)
            log.frame = log.frame.with_columns(ids.alias(side))
            take_point_off_table(tables[side])


def _write(clean: _Clean, settings: DatasetSettings, work: Path) -> dict[str, Any]:
    """Writes rows and texts. Returns their entries of the manifest."""
    clean.frame.write_parquet(work / "interactions.parquet")
    counts = dict(clean.counts)
    for side, table in clean.tables.items():
        logged = clean.log.frame.get_column(side).unique()
        kept = clean.frame.get_column(side).unique()
        counts |= _write_texts(work, table.texts, kept, logged, settings, side)
    return {
        "counts": counts,
        "has_time": clean.log.has_time,
        "given_split": "split" in clean.frame.columns,
        "read": clean.read,
    }


def _stream(
    settings: DatasetSettings, files: list[Path], quarantine: Quarantine, work: Path
) -> dict[str, Any]:
    """As `_clean` and `_write`, in blocks of users."""
    with tempfile.TemporaryDirectory(dir=work.parent, prefix=".partial-spill-") as folder:
        log = spill_log(settings, files, quarantine, Path(folder) / "log")
        counts = NO_ROWS | {"rows_in": log.rows_in, "rows_quarantined": len(quarantine.rows)}
        if not log.num_users:
            counts |= log.dropped
            raise nothing_left(files[0], counts, log.examples, quarantine, settings.min_rating)
        tables = read_tables(settings, quarantine)
        sort_log(log, settings, tables)
        logged = {"user": log.users, "item": log.items}
        check_tables(settings, tables, logged)
        read = what_was_read(settings, files[0], log, tables, logged, log.rows_of)
        counts |= log.dropped
        counts["rows_kept"] = write_frames(work / "interactions.parquet", kept_blocks(log))
    for side, ids, keep in zip(SIDES, (log.users, log.items), log.keep, strict=True):
        kept = ids.filter(pl.Series(keep))
        counts |= _write_texts(work, tables[side].texts, kept, ids, settings, side)
    counts["table_rows_quarantined"] = len(quarantine.rows) - counts["rows_quarantined"]
    read["examples"] = log.examples | first_bad(quarantine)
    return {"counts": counts, "has_time": log.has_time, "given_split": False, "read": read}


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


def read_tables(settings: DatasetSettings, quarantine: Quarantine) -> dict[str, Table]:
    """The whole text files by side, items first."""
    tables = {"item": empty_table(), "user": empty_table()}
    for side, table in (("item", settings.items), ("user", settings.users)):
        if table is not None:
            how = settings.ids_of(side)
            tables[side] = read_rows(table, side, quarantine, how, settings.missing)
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
        raise cannot_be_written(cache, reason) from error


def inputs_of(settings: DatasetSettings) -> InputFiles:
    """All input files. Raises DataError for the first that is missing or empty."""
    log, items, users = settings.interactions, settings.items, settings.users
    inputs: InputFiles = {"log": log.files("dataset.interactions.path")}
    for name, held_out in (("valid", settings.valid), ("test", settings.test)):
        inputs[name] = files_of(held_out, f"dataset.{name}")
    _refuse_tested_in_training(inputs)
    for name, table in (("items", items), ("users", users)):
        inputs[name] = table.files(f"dataset.{name}.path") if table is not None else []
    for name, paths in inputs.items():
        for path in paths:
            check_file(path, KEYS.get(name, f"dataset.{name}.path"))
    return inputs


def _refuse_tested_in_training(inputs: InputFiles) -> None:
    """Raises DataError for a file of a given split that is of two of its parts."""
    part_of: dict[Path, str] = {}
    for name in ("log", "valid", "test"):
        for path in inputs[name]:
            other = part_of.setdefault(path.resolve(), name)
            if other != name:
                what = "trained on" if other == "log" else "tested as well as validated on"
                raise DataError(
                    f"{path}: named in {KEYS[other]} and in {KEYS[name]}: what is held out would "
                    f"be {what}: name it in one"
                )


def _without_paths(settings: DatasetSettings, inputs: InputFiles) -> dict[str, Any]:
    """Settings with names (`auto` reads them) for paths, so that a moved folder keeps its cache."""
    plain = settings.content()
    names = {
        name: [[path.name, partition_columns(path)] for path in paths]
        for name, paths in inputs.items()
    }
    for side in ("interactions", "items", "users"):
        if plain[side] is not None:
            plain[side]["path"] = names["log" if side == "interactions" else side]
    return plain | {"test": names["test"], "valid": names["valid"]}


def _filtered(settings: DatasetSettings, log: Log) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows kept, and the number of rows dropped by each filter."""
    rated = log.frame
    if settings.min_rating is not None:
        rated = by_rating(rated, settings.min_rating)
    if settings.weights is not None:
        rated = join_weights(rated, settings.weights.values)
    distinct = collapse_repeats(rated, settings.repeats)
    kept = k_core(distinct, settings.k_core) if settings.k_core > 1 else distinct
    if rated.is_empty():
        raise DataError(
            f"dataset.min_rating = {settings.min_rating:g} leaves no interaction: lower it"
        )
    if kept.is_empty():
        raise DataError(f"dataset.k_core = {settings.k_core} leaves no interaction: lower it")
    steps = {
        "filtered_by_rating": (log.frame, rated),
        "repeats_collapsed": (rated, distinct),
        "filtered_by_k_core": (distinct, kept),
    }
    counts = {name: before.height - after.height for name, (before, after) in steps.items()}
    for name, (before, after) in steps.items():
        if counts[name]:
            log.examples[name] = _first_lost(before, after)
    also = [name for name in ("split", "weight") if name in kept.columns]
    return kept.select("user", "item", "time", "row", *also), counts


def _first_lost(before: pl.DataFrame, after: pl.DataFrame) -> str:
    """The first row of `before` that `after` has not; both are sorted by row."""
    rows = before["row"].head(after.height)
    differs = (rows != after["row"]).arg_max() if after.height else 0
    at = after.height if rows.equals(after["row"], check_names=False) else int(differs or 0)
    lost = before.row(at, named=True)
    return row_example(lost["user"], lost["item"], lost["row"])


def _write_texts(
    work: Path,
    table: pl.DataFrame,
    kept: pl.Series,
    logged: pl.Series,
    settings: DatasetSettings,
    side: str,
) -> dict[str, int]:
    """Writes the texts of the future nodes: all but those that k_core dropped.

    Args:
        table: the whole text file.
        kept: distinct ids that have an interaction after the filters.
        logged: distinct ids of the log.
    Returns: the counts of nodes, by side: in the log; of these without a text, not in the file or
        with empty fields alone; the latter; in the file alone.
    """
    in_log = pl.col("id").is_in(kept.implode())
    dropped = pl.col("id").is_in(logged.implode()) & ~in_log
    chosen = table.filter(~dropped) if settings.k_core > 1 else table
    chosen.write_parquet(work / f"{side}s.parquet")
    there = table.filter(in_log)
    with_text = rows_with_text(there)
    return {
        f"{side}s_in_log": len(kept),
        f"{side}s_without_text": len(kept) - with_text,
        f"{side}s_with_empty_text": there.height - with_text,
        f"{side}s_unseen": chosen.height - there.height,
    }
