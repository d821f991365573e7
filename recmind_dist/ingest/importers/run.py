"""`import_files`: a publisher's files → a directory of Parquet tables and a config."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.ingest.dataset import writing
from recmind_dist.ingest.importers.columns import REASON, Column, converted
from recmind_dist.ingest.importers.config_file import config_text
from recmind_dist.ingest.importers.counts import FileCounts, SetAside
from recmind_dist.ingest.importers.importer import TABLES, Gatherer, Importer, Kind, Lookup
from recmind_dist.ingest.importers.parsed import Parsed
from recmind_dist.ingest.importers.sources import Block, Source, sources_of
from recmind_dist.ingest.importers.tables import SideIds, TableWriter
from recmind_dist.ingest.importers.words import described_bounds, described_side
from recmind_dist.ingest.rows import CLIP, LINE
from recmind_dist.report.progress import Progress
from recmind_dist.storage import atomic_directory, write_json
from recmind_dist.types import Say

MB = 1_000_000
SIDES = {"items": "item", "users": "user"}
ALIKE = "its id stands on an earlier row, which is equal"
OTHER = "its id stands on an earlier row, which differs and is kept"


@dataclass
class Import:
    """An import at work: what it reads, writes and counts."""

    importer: Importer
    work: Path
    aside: SetAside
    progress: Progress
    writers: dict[str, TableWriter] = field(default_factory=dict)
    ids: dict[str, SideIds] = field(default_factory=dict)
    counts: list[FileCounts] = field(default_factory=list)
    lookups: dict[str, pl.DataFrame] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def import_files(
    importer: Importer,
    files: list[Path],
    to: Path,
    max_bad_rows: int,
    say: Say,
    progress_stream: TextIO | None = None,
) -> Path:
    """Streams files into interactions.parquet, items.parquet and users.parquet as far as they are
    given, with import.json (counts), set_aside.jsonl (rows not kept) and config.yaml.

    Args:
        to: the directory to make, which is absent or empty; nothing is left of it on an error.
        max_bad_rows: malformed rows of all files that may be set aside.

    Returns:
        The config.

    Raises:
        DataError: a file is none of the publisher's, is damaged, or has more malformed rows than
            allowed; the log is missing, or no row of it is left.
        StoreError: the directory cannot be written.
    """
    chosen = _chosen(importer, sources_of(files), say)
    return import_sources(importer, chosen, to, max_bad_rows, say, progress_stream)


def import_sources(
    importer: Importer,
    chosen: list[tuple[Source, Kind]],
    to: Path,
    max_bad_rows: int,
    say: Say,
    progress_stream: TextIO | None = None,
) -> Path:
    """As `import_files`, of files whose kinds are known."""
    chosen = sorted(chosen, key=lambda pair: (bool(pair[1].tables), bool(pair[1].interactions)))
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise DataError(f"{to}: exists and is not empty: name another directory, or remove it")
    total = sum(source.size for source, _ in chosen)
    with (
        writing(to.absolute().parent),
        atomic_directory(to.absolute()) as work,
        ExitStack() as stack,
    ):
        out = stack.enter_context((work / "set_aside.jsonl").open("w", encoding="utf-8"))
        progress = stack.enter_context(
            Progress("import", max(1, total // MB), "MB", stream=progress_stream)
        )
        run = Import(importer, work, SetAside(out, max_bad_rows), progress)
        with ExitStack() as tables:
            _read_all(run, chosen, tables)
        progress.update(progress.total - progress.done)  # files of less than one count too
        _finish(run, to, say)
    return to / "config.yaml"


def _chosen(importer: Importer, sources: list[Source], say: Say) -> list[tuple[Source, Kind]]:
    """The files to read with their kinds."""
    found: list[tuple[Source, Kind]] = []
    for source in sources:
        kind = importer.kind_of(source)
        if kind is not None:
            found.append((source, kind))
        elif source.searched:
            say(f"{source.name}: not read: not a file of {importer.title}")
        else:
            known = ", ".join(kind.name for kind in importer.kinds)
            raise DataError(
                f"{source.name}: not a file of {importer.title} (known are: {known}): its first "
                "lines look otherwise; leave it out, or let `recmind init` look at it"
            )
    needed = {kind.lookup.kind for _, kind in found if kind.lookup}
    chosen = [(s, kind) for s, kind in found if kind.tables or kind.name in needed]
    for source, kind in found:
        if (source, kind) not in chosen:
            say(f"{source.name}: not read: {kind.unused}")
    _check(importer, [kind for _, kind in chosen])
    return chosen


def _check(importer: Importer, kinds: list[Kind]) -> None:
    """Raises DataError if files are missing, or do not go together."""
    names = {kind.name for kind in kinds}
    for table in TABLES:
        giving = list(dict.fromkeys(kind.name for kind in kinds if kind.columns(table)))
        if len(giving) > 1:
            raise DataError(
                f"{importer.title}: {giving[0]} and {giving[1]} both give {table}: import one of "
                "them at a time"
            )
    if not any(kind.interactions for kind in kinds):
        wanted = " or ".join(kind.name for kind in importer.kinds if kind.interactions)
        raise DataError(f"{importer.title}: no file with interactions: give {wanted}")
    for kind in kinds:
        if kind.lookup and kind.lookup.kind not in names and any(one.items for one in kinds):
            raise DataError(
                f"{importer.title}: {kind.name} numbers items by itself, so no text would meet its "
                f"item: give {kind.lookup.kind} too, or leave the items out"
            )


def _read_all(run: Import, chosen: list[tuple[Source, Kind]], stack: ExitStack) -> None:
    for table in TABLES:
        kind = next((kind for _, kind in chosen if kind.columns(table)), None)
        if kind is not None:
            path = run.work / f"{table}.parquet"
            run.writers[table] = stack.enter_context(TableWriter(path, kind.columns(table)))
            if table in SIDES:
                run.ids[table] = SideIds()
    gatherers: dict[str, Gatherer] = {}
    for source, kind in chosen:
        if not kind.tables:
            run.lookups[kind.name] = _lookup(source, kind)
            continue
        if kind.gather and kind.name not in gatherers:
            gatherers[kind.name] = kind.gather()
        _read_file(run, source, kind, gatherers.get(kind.name))
    for gatherer in gatherers.values():
        for frame in gatherer.frames():
            _write_interactions(run, frame)
        run.remarks.append(gatherer.sentence)


def _read_file(run: Import, source: Source, kind: Kind, gatherer: Gatherer | None) -> None:
    counts = FileCounts(source.name, kind.name)
    run.counts.append(counts)
    reader = kind.layout.reader()
    position, before = [0], run.progress.done
    for block in source.blocks(position=position):
        _read_block(run, kind, counts, reader.parse(block), block, gatherer)
        run.progress.update(
            before + position[0] // MB - run.progress.done,
            stage=source.path.name,
            rows=f"{sum(one.rows_in for one in run.counts):,}",
        )
    _read_block(run, kind, counts, reader.finish(), Block(1, b""), gatherer)


def _read_block(
    run: Import,
    kind: Kind,
    counts: FileCounts,
    parsed: Parsed,
    block: Block,
    gatherer: Gatherer | None,
) -> None:
    if gatherer is not None and parsed.frame.height:
        gatherer.take(parsed.frame)
    raw = parsed.frame
    if kind.rows and raw.height:
        raw = kind.rows(raw)
    if kind.lookup and kind.lookup.kind in run.lookups:
        raw = _looked_up(raw, kind.lookup, run.lookups[kind.lookup.kind])
    counts.rows_in += len(parsed.bad) + raw.height
    for line, reason, text in parsed.bad:
        run.aside.add(counts, line, reason, text, malformed=True)
    main, *others = kind.tables
    frame = converted(raw, kind.columns(main))
    lines = _Lines(block)
    for line, reason in frame.filter(pl.col(REASON).is_not_null()).select(LINE, REASON).iter_rows():
        malformed = reason not in kind.aside
        run.aside.add(counts, line, reason, lines.text(line), malformed)
    sound = frame.filter(pl.col(REASON).is_null()).drop(REASON)
    if main == "interactions":
        _write_interactions(run, sound.drop(LINE))
        counts.rows_kept += sound.height
    else:
        new, again = _write_texts(run, main, sound)
        counts.rows_kept += new
        for line, alike in again.select(LINE, "alike").iter_rows():
            run.aside.add(counts, line, ALIKE if alike else OTHER, lines.text(line), False)
    for table in others:  # as artists' names, which stand in the log
        _write_texts(run, table, _sound(raw, kind.columns(table)))


def _lookup(source: Source, kind: Kind) -> pl.DataFrame:
    """All rows of a look-up file, which is as small as a catalogue."""
    reader = kind.layout.reader()
    return pl.concat([reader.parse(block).frame.drop(LINE) for block in source.blocks()])


def _looked_up(frame: pl.DataFrame, lookup: Lookup, table: pl.DataFrame) -> pl.DataFrame:
    """The frame with the ids that its numbers stand for, null where there is none."""
    pairs = table.select(
        pl.col(lookup.key).alias(lookup.column), pl.col(lookup.value).alias("__value")
    ).unique(lookup.column, keep="first")
    joined = frame.join(pairs, on=lookup.column, how="left", maintain_order="left")
    return joined.with_columns(pl.col("__value").alias(lookup.column)).drop("__value")


class _Lines:
    """The beginnings of a block's lines, split only if one is wanted."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._lines: list[bytes] | None = None

    def text(self, line: int) -> str:
        """Of the line with this number."""
        if self._lines is None:
            self._lines = self._block.lines
        place = line - self._block.first
        if not 0 <= place < len(self._lines):  # a record that began in the block before
            return ""
        return self._lines[place][: 4 * CLIP].decode("utf-8", "replace")[:CLIP]


def _sound(raw: pl.DataFrame, columns: tuple[Column, ...]) -> pl.DataFrame:
    return converted(raw, columns).filter(pl.col(REASON).is_null()).drop(REASON)


def _write_interactions(run: Import, frame: pl.DataFrame) -> None:
    run.writers["interactions"].write(frame)
    for table, side in SIDES.items():
        if table in run.ids:
            run.ids[table].add_log(frame.get_column(side))


def _write_texts(run: Import, table: str, frame: pl.DataFrame) -> tuple[int, pl.DataFrame]:
    """Writes rows of new ids. Returns their number and the other rows."""
    new, again = run.ids[table].first_rows(frame, "id")
    run.writers[table].write(new.drop(LINE))
    return new.height, again


def _finish(run: Import, to: Path, say: Say) -> None:
    """Says what was read and writes import.json and the config."""
    log = run.writers["interactions"]
    for counts in run.counts:
        for line in counts.lines():
            say(line)
    if not log.rows:
        raise DataError(f"{run.counts[-1].file}: no interaction is left of it: see the lines above")
    sides = {table: ids.counts() for table, ids in run.ids.items()}
    said = [f"interactions.parquet: {log.rows:,} rows{described_bounds(log.bounds)}"]
    said += [described_side(table, run.writers[table].rows, n) for table, n in sides.items()]
    for line in (*said, *run.remarks):
        say(line)
    record = {
        "importer": run.importer.name,
        "files": [counts.plain() for counts in run.counts],
        "rows": {table: writer.rows for table, writer in run.writers.items()},
        "sides": sides,
        "time": log.bounds,
        "remarks": run.remarks,
    }
    write_json(run.work / "import.json", record)
    config = config_text(run.importer, to, set(run.writers), log.rows)
    (run.work / "config.yaml").write_text(config, encoding="utf-8")
