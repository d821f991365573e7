"""Any bytes as a log or a table: every line of the file is a row that was kept, a line set aside,
or blank.
"""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recmind_dist.errors import DataError
from recmind_dist.ingest import DatasetSettings, ingest_dataset
from recmind_dist.ingest.dataset import SCHEMA
from recmind_dist.ingest.delimited import (
    Dialect,
    _read_fast,
    _read_slow,
    read_delimited,
    read_header,
)
from recmind_dist.ingest.log import Log, read_log
from recmind_dist.ingest.rows import LINE, Quarantine
from recmind_dist.ingest.settings import LogSettings, TableSettings
from recmind_dist.ingest.tables import read_rows, without_repeats
from recmind_dist.storage import read_manifest

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = [
    b"1",
    b"22",
    b"u",
    b"a b",
    b"",
    b" ",
    b'"',
    b'""',
    b'"q"',
    b'"q',
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\x00",
    b"\x0b",
    b"NaN",
    b"inf",
    b"1e999",
    b"-3.5",
    b"007",
    b"1.0",
    b"9" * 30,
    b"2020-01-01",
    "é\u2028\u0085".encode(),
    b"\\",
    b"[" * 40,
    b"{}",
    b"null",
    b"'",
    b";",
    b"|",
    b"a\rb",
    b"__line",
    b"user",
]
OBJECTS = [
    b'{"user": 1, "item": 2, "time": 3}',
    b'{"user": "u", "item": "i"}',
    b'{"user": null}',
    b'{"id": 1}',
    b"{}",
    b"[]",
    b'{"item": {"a": [1]}, "user": 1.0, "time": "x"}',
    b'{"user": "\\ud800", "item": 1, "time": 1}',
    b"1",
    b'"',
    b"{",
    b'{"user": 1e999, "item": 1, "time": 2}',
    b'{"id": 2, "__line": 3}',
    b'{"id": ' + b"[" * 2000,
    b'{"id": "x"} {}',
    b'{"id": ' + b"9" * 5000 + b"}",
    b'{"id": 3, "title": "a", "title": "b"}',
    b"\xff",
    b"",
    b" ",
    b"\x00",
]
SOUND = b"user,item,time\nu1,i1,5\nu2,i2,6\n"
SEPARATORS = {"csv": b",", "tsv": b"\t", "inter": b"\t"}


def lines_of(separator: bytes) -> st.SearchStrategy[bytes]:
    """Lines of two or three fields, most of them sound, some of any pieces."""
    sound = st.tuples(
        st.sampled_from([b"u1", b"u2", b"3"]), st.sampled_from([b"i1", b"i2", b"4"]), st.just(b"5")
    )
    odd = st.lists(st.sampled_from(ODD), max_size=4)
    return st.one_of(sound, odd).map(lambda fields: separator.join(fields))


def files(kind: str, header: list[bytes]) -> st.SearchStrategy[bytes]:
    """Whole files, with either line end, with or without a last one and a byte order mark."""
    separator = SEPARATORS[kind]
    body = st.lists(lines_of(separator), max_size=12)
    heads = st.sampled_from(
        [separator.join(header)] * 5 + [b"", b"\n" + separator.join(header), separator * 2]
    )
    ends = st.sampled_from([b"\n", b"\n", b"\r\n"])
    marks = st.sampled_from([b"", b"", b"\xef\xbb\xbf"])
    return st.builds(
        lambda head, rest, end, mark, last: mark + end.join([head, *rest]) + (end if last else b""),
        heads,
        body,
        ends,
        marks,
        st.booleans(),
    )


def try_log(path: Path) -> tuple[Log, Quarantine] | None:
    """The log, or None if it was refused in one sentence that names the file."""
    quarantine = Quarantine(1000)
    try:
        return read_log([path], LogSettings(path=path), False, quarantine), quarantine
    except DataError as error:
        must_name(path, error)
        return None


def must_name(path: Path, error: DataError) -> None:
    """A refusal is one sentence that begins with the file."""
    assert str(error).startswith(str(path))
    assert "\n" not in str(error)


def must_add_up(log: Log, quarantine: Quarantine, content: list[tuple[int, bytes]]) -> None:
    """Every line with content is one row: kept in its place, or set aside under its number."""
    bad = [row.line for row in quarantine.rows]
    kept = [content[place - 1][0] for place in log.frame["row"].to_list()]
    assert log.rows_in == len(content)
    assert sorted([*bad, *kept]) == [line for line, _ in content]
    assert log.frame.null_count().row(0) == (0,) * log.frame.width


def content_of(path: Path, header: bool, separator: bytes) -> list[tuple[int, bytes]]:
    """The lines with something in them, by number; a line of separators alone is one, as its fields
    are empty.
    """
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = [(number, line.rstrip(b"\r\n")) for number, line in enumerate(raw, 1)]
    content = [
        (n, line) for n, line in lines if line and (line.strip(b" \t\r") or separator in line)
    ]
    return content[int(header) :]


@pytest.mark.parametrize("kind", SEPARATORS)
def test_every_line_of_a_delimited_log_is_accounted_for(tmp_path: Path, kind: str) -> None:
    header = (
        [b"user:token", b"item:token", b"time:float"]
        if kind == "inter"
        else [b"user", b"item", b"time"]
    )

    @quick
    @given(data=files(kind, header))
    def check(data: bytes) -> None:
        path = tmp_path / f"log.{kind}"
        path.write_bytes(data)
        if (read := try_log(path)) is None:
            return
        content = content_of(path, True, SEPARATORS[kind])
        if kind == "csv" and any(line.count(b'"') % 2 for _, line in content):
            log, quarantine = read  # a record may be of several lines
            assert log.rows_in == log.frame.height + len(quarantine.rows) <= len(content)
        else:
            must_add_up(*read, content)

    check()


@quick
@given(rows=st.lists(st.sampled_from(OBJECTS), max_size=10))
def test_every_line_of_a_json_log_is_accounted_for(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(rows))
    if (read := try_log(path)) is not None:
        content = [
            (number, line)
            for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
            if line.strip()
        ]
        must_add_up(*read, content)


@quick
@given(lines=st.lists(st.lists(st.sampled_from(ODD), max_size=5).map(b" ".join), max_size=10))
def test_every_pair_of_a_lightgcn_file_is_accounted_for(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"\n".join(lines))
    if (read := try_log(path)) is None:
        return
    log, quarantine = read
    pairs, broken = 0, []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            user, *items = line.decode().split() or [""]
        except UnicodeDecodeError:
            broken.append(number)
            continue
        # a byte order mark within a file is where two were joined: the pair is set aside
        marked = sum(user.startswith("\ufeff") or item.startswith("\ufeff") for item in items)
        pairs += len(items) - marked
        broken += [number] * marked
    assert [row.line for row in quarantine.rows] == broken
    assert log.frame.height == pairs
    assert log.rows_in == pairs + len(broken)


@quick
@given(data=files("csv", [b"id", b"title", b"more"]))
def test_every_line_of_a_table_is_a_record_part_of_one_or_set_aside(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(data)
    dialect = Dialect(",", quoted=True)
    try:
        rows = read_delimited(path, dialect, read_header(path, dialect), 1000)
    except DataError as error:
        must_name(path, error)
        return
    seen = [row.line for row in rows.bad]
    for record in rows.frame.iter_rows(named=True):
        first = record.pop(LINE)
        breaks = sum(text.count("\n") for text in record.values())
        seen += range(first, first + 1 + breaks)
    assert len(seen) == len(set(seen)), "no line stands for two"
    missing = {line for line, _ in content_of(path, True, b",")} - set(seen)
    assert missing == set(), "no line is lost"


@quick
@given(data=files("csv", [b"user", b"item", b"time"]), quoted=st.booleans())
@example(data=SOUND, quoted=True)
def test_the_fast_way_of_reading_gives_what_the_slow_one_gives(
    tmp_path: Path, data: bytes, quoted: bool
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(data)
    dialect = Dialect(",", quoted)
    try:
        names = read_header(path, dialect)
    except DataError:
        return
    fast = _read_fast(path, dialect, names, names)
    assert fast is not None or data != SOUND
    if fast is not None:
        slow = _read_slow(path, dialect, names, names, 1000)
        assert slow.bad == []
        assert slow.frame.rows() == fast.frame.rows()


@quick
@given(rows=st.lists(st.sampled_from(OBJECTS), max_size=8))
def test_every_object_of_a_table_is_kept_or_set_aside(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"\n".join(rows))
    quarantine = Quarantine(1000)
    try:
        table = read_rows(TableSettings(path=path), "item", quarantine)
        frame = without_repeats(table, TableSettings(path=path), "item").frame
    except DataError as error:
        must_name(path, error)
        return
    kept = frame.height + table.counts["rows_alike"]
    assert kept + len(quarantine.rows) == sum(bool(line.strip()) for line in rows)


@example(b'user,item,rating\nu1,i1,5\n"\n\n"', 0, None)  # a blank line in a bad record
@settings(quick, max_examples=60)
@given(
    data=files("csv", [b"user", b"item", b"rating"]),
    core=st.sampled_from([0, 2]),
    least=st.sampled_from([None, 5]),
)
def test_the_counts_of_a_data_set_add_up(
    tmp_path: Path, data: bytes, core: int, least: int | None
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(data)
    words = {
        "name": "x",
        "interactions": path,
        "k_core": core,
        "min_rating": least,
        "max_bad_rows": 1000,
    }
    try:
        made = ingest_dataset(DatasetSettings.model_validate(words), tmp_path / "cache")
    except DataError:
        assert not list(tmp_path.rglob(".partial-*"))
        return
    counts = read_manifest(made, "dataset", SCHEMA)["counts"]
    parts = (
        "rows_kept",
        "rows_quarantined",
        "repeats_collapsed",
        "filtered_by_rating",
        "filtered_by_k_core",
    )
    assert (
        counts["rows_in"]
        == sum(counts[part] for part in parts)
        <= len(content_of(path, True, b","))
    )
    assert len((made / "quarantine.jsonl").read_text().splitlines()) == counts["rows_quarantined"]


@settings(quick, max_examples=200)
@given(seed=st.integers(0, 2**32), packed=st.sampled_from(["none", "zstd"]))
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, seed: int, packed: str) -> None:
    path = tmp_path / "log.parquet"
    columns = {
        "user": [f"u{n % 7}" for n in range(30)],
        "item": [f"i{n}" for n in range(30)],
        "time": list(range(30)),
    }
    arrow_parquet.write_table(pa.table(columns), path, compression=packed, row_group_size=20)
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] = draw.choice([0, 127, 255, draw.randrange(256)])
    path.write_bytes(data)
    if (read := try_log(path)) is not None:
        log, quarantine = read
        assert log.rows_in == 30 == log.frame.height + len(quarantine.rows)
