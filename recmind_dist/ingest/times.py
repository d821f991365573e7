"""Times of a log: numbers and dates of many forms → numbers of one unit over all its files."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.errors import DataError

POWER = {"s": 0, "ms": 3, "us": 6, "ns": 9}
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LEAST, MOST = 1e8, 5e9  # seconds since 1970 that look like a time of our days: 1973 to 2128
# date, then time of day, fraction and offset, if any
ISO = (
    r"^(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?)?"
    r"\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
RFC_2822 = (  # Fri, 25 Aug 2017 13:55:02 -0700
    r"^(?:[A-Z][a-z]{2}, )?(?P<d>\d{1,2}) (?P<m>[A-Z][a-z]{2}) (?P<y>\d{4}) "
    r"(?P<t>\d{2}:\d{2}(?::\d{2})?) ?(?P<o>Z|UTC|GMT|[+-]\d{4})?$"
)
CTIME = (  # Fri Aug 25 13:55:02 -0700 2017
    r"^[A-Z][a-z]{2} (?P<m>[A-Z][a-z]{2}) +(?P<d>\d{1,2}) (?P<t>\d{2}:\d{2}:\d{2})"
    r"(?: (?P<o>UTC|GMT|[+-]\d{4}))? (?P<y>\d{4})$"
)
JAVASCRIPT = (  # Fri Aug 25 2017 13:55:02 GMT+0200 (CEST)
    r"^[A-Z][a-z]{2} (?P<m>[A-Z][a-z]{2}) (?P<d>\d{2}) (?P<y>\d{4}) (?P<t>\d{2}:\d{2}:\d{2}) "
    r"GMT(?P<o>[+-]\d{4})?(?: \(.*\))?$"
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
MONTHS = {name: number for number, name in enumerate(_MONTHS, 1)}
ZONED = r":\d{2}(?:[.,]\d+)?\s*(?:Z|UTC|GMT|[+-]\d{2})"  # an offset behind the time of day
SHORT_NUMBER = r"^\s*\d(\.\d{1,7})?[Ee]\+?\d\d\s*$"  # 1.7E+09 of a spreadsheet
AMBIGUOUS = r"^\d{1,2}([/.-])\d{1,2}[/.-](\d{2}|\d{4})(?: (\d{1,2}:\d{2})(:\d{2})?)?$"


@dataclass
class TimeLook:
    """What the times of one file, or part of it, look like.

    Attributes:
        counts: rows by unit: s, ms, us, ns (numbers of that size), dates, small, large.
        first: the first line of each.
        whole: no fraction of a second in dates.
        integers: no fraction in numbers.
        zoned: whether dates have an offset → the first line of such.
        rounded: numbers have lost digits.
    """

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    zoned: dict[bool, int] = field(default_factory=dict)
    whole: bool = True
    integers: bool = True
    rounded: bool = False

    @property
    def units(self) -> set[str]:
        """The units of what looks like a time of our days."""
        return set(self.counts) - {"small", "large"}

    def add(self, other: "TimeLook", lines_before: int = 0) -> None:
        """Adds the look of the rows behind."""
        for unit, count in other.counts.items():
            self.counts[unit] = self.counts.get(unit, 0) + count
            self.first.setdefault(unit, other.first[unit] + lines_before)
        for zoned, line in other.zoned.items():
            self.zoned.setdefault(zoned, line + lines_before)
        self.whole &= other.whole
        self.integers &= other.integers
        self.rounded |= other.rounded


@dataclass(frozen=True)
class TimeRule:
    """How the times of all files become comparable.

    Attributes:
        unit: of the result: s, ms, us, ns, or none where they are plain numbers.
        mixed: several units were found, so each number is scaled by its size.
        rounded: see `TimeLook`.
        zoned: where the first dates with an offset (True) and without stand, file:line.
    """

    unit: str | None
    mixed: bool = False
    integers: bool = True
    rounded: bool = False
    zoned: dict[bool, str] = field(default_factory=dict)

    def scaled(self, times: pl.Series, dates: bool) -> pl.Series:
        """Times as read (`read_times`) in the unit. Shape: as `times`."""
        if dates:
            power = 6 - POWER[self.unit or "s"]
            if power > 0 and self.integers:
                times = times // 10**power
            elif power > 0:
                times = times / 10**power
            elif power < 0:
                times = times * 10**-power
        elif self.mixed:
            times = _scaled_by_size(times, POWER[self.unit or "s"])
        return times.cast(pl.Int64 if self.integers else pl.Float64).alias("time")


def rule_of(looks: list[TimeLook], declared: str | None = None) -> TimeRule:
    """The rule for all files of a log.

    Args:
        declared: `time_format`; one of the units says what numbers are.

    Raises:
        DataError: a file has numbers that are no times of our days, while another has times.
    """
    integers = all(look.integers for look in looks)
    rounded = any(look.rounded for look in looks)
    if declared in POWER:
        return TimeRule(declared, integers=integers, rounded=rounded)
    units = {unit for look in looks for unit in look.units}
    if not units:
        return TimeRule(None, integers=integers)
    whole = all(look.whole for look in looks)
    mixed = len(units) > 1
    _refuse_plain_numbers(looks, mixed)
    scales = (units - {"dates"}) | ({"s" if whole or not mixed else "us"} & _of_dates(units))
    unit = max(scales, key=POWER.__getitem__)
    zoned = {is_so: f"{o.path}:{line}" for o in looks[::-1] for is_so, line in o.zoned.items()}
    return TimeRule(unit, mixed, integers and (mixed or whole), rounded, zoned)


def _of_dates(units: set[str]) -> set[str]:
    return set(POWER) if "dates" in units else set()


def _refuse_plain_numbers(looks: list[TimeLook], mixed: bool) -> None:
    """Raises DataError where one file has times and another only plain numbers, or where sizes tell
    units apart and a number is too large for each.
    """
    timed = next(look for look in looks if look.units)
    for look in looks:
        odd = {"large"} & set(look.counts) if look.units and mixed else set()
        if not look.units:
            odd = set(look.counts)
        if odd:
            line = min(look.first[kind] for kind in odd)
            unit = min(timed.units, key=timed.first.__getitem__)
            raise DataError(
                f"{look.path}:{line}: a plain number as time, while {timed.path}:"
                f"{timed.first[unit]} has {NAMES.get(unit, unit)} since 1970: write both alike, or "
                "name the unit in dataset.interactions.time_format"
            )


def _scaled_by_size(times: pl.Series, power: int) -> pl.Series:
    """Each number in the unit 10^-power s, from the unit that its size tells."""
    column = pl.col("t")
    scaled = column
    for own in POWER.values():
        low, high = LEAST * 10**own, MOST * 10**own
        inside = (column.abs() >= low) & (column.abs() < high)
        factor = 10 ** (power - own) if power >= own else 10.0 ** (power - own)
        scaled = pl.when(inside).then(column * factor).otherwise(scaled)
    return pl.DataFrame({"t": times}).select(scaled.alias("time")).to_series()


def read_times(
    column: pl.Series,
    lines: pl.Series,
    path: Path,
    declared: str | None,
    is_dates: bool | None = None,
) -> tuple[pl.DataFrame, TimeLook, bool]:
    """Times of one file, or part of it.

    Args:
        declared: see `LogSettings.time_format`.
        is_dates: None: what most rows are, in a draw what the first is.

    Returns:
        Columns `time` (numbers as written, or microseconds since 1970 of dates; null: none) and
        `reason` (why there is none); their look; whether they are dates.
    """
    dates, numbers, text = both_readings(column, path, declared)
    look = TimeLook(path)
    if is_dates is None:
        is_dates = Readings.of(dates, numbers).are_dates
    times, others = (dates, numbers) if is_dates else (numbers, dates)
    if is_dates:
        sound = times.drop_nulls()
        if len(sound):
            look.counts["dates"] = len(sound)
            look.first["dates"] = int(lines.filter(times.is_not_null())[0])
            look.whole = bool((sound % 1_000_000 == 0).all())
            if declared is None:  # else all are alike
                look.zoned = _zoned(column, lines, times)
    else:
        look_at_numbers(times, lines, look)
        short = column.dtype == pl.String and column.str.contains(SHORT_NUMBER).any()
        look.rounded = bool(short) or column.dtype in (pl.Float16, pl.Float32)
    odd = "a number among dates" if is_dates else "a date among numbers"
    frame = pl.DataFrame({"time": times, "other": others, "text": text})
    reason = (
        pl.when(pl.col("time").is_not_null())
        .then(None)
        .when(pl.col("text").is_null() | (pl.col("text") == ""))
        .then(pl.lit("no time"))
        .when(pl.col("other").is_not_null())
        .then(pl.format("time {} is " + odd, pl.col("text")))
        .when(pl.col("text").cast(pl.Float64, strict=False).is_not_null())
        .then(pl.lit("time is not a finite number"))
        .otherwise(pl.format("not a time: '{}'", pl.col("text").str.slice(0, 60)))
    )
    return frame.select("time", reason.alias("reason")), look, is_dates


def _zoned(column: pl.Series, lines: pl.Series, times: pl.Series) -> dict[bool, int]:
    """See `TimeLook`."""
    if column.dtype != pl.String:
        return {getattr(column.dtype, "time_zone", None) is not None: int(lines[0])}
    frame = pl.DataFrame({"zoned": column.str.contains(ZONED), "line": lines})
    frame = frame.filter(times.is_not_null())
    return dict(frame.group_by("zoned").agg(pl.col("line").min()).rows())


@dataclass
class Readings:
    """How many rows can be read as dates and as numbers, and the first of each."""

    dates: int = 0
    numbers: int = 0
    dates_first: bool = False

    @classmethod
    def of(cls, dates: pl.Series, numbers: pl.Series) -> "Readings":
        """Of one file, or part of it."""
        date, number = dates.is_not_null(), numbers.is_not_null()
        first_date = date.arg_max() if date.any() else len(date)
        first_number = number.arg_max() if number.any() else len(number)
        return cls(int(date.sum()), int(number.sum()), (first_date or 0) < (first_number or 0))

    def add(self, other: "Readings") -> None:
        """Adds those of the rows behind."""
        if not self.dates + self.numbers:
            self.dates_first = other.dates_first
        self.dates += other.dates
        self.numbers += other.numbers

    @property
    def are_dates(self) -> bool:
        """What most rows are, in a draw what the first is."""
        if self.dates == self.numbers:
            return self.dates_first
        return self.dates > self.numbers


def both_readings(
    column: pl.Series, path: Path, declared: str | None
) -> tuple[pl.Series, pl.Series, pl.Series]:
    """A column read as dates (microseconds), as finite numbers, and as text."""
    nothing = pl.Series([None] * len(column), dtype=pl.Int64)
    kind = column.dtype
    if kind.is_temporal():
        if kind not in (pl.Date, pl.Datetime):
            raise DataError(f"{path}: column 'time' holds {kind}: give a number or a date")
        dates = (column.cast(pl.Datetime("us")) if kind == pl.Date else column).dt.epoch("us")
        return dates, nothing, column.cast(pl.String)
    text = column.cast(pl.String).str.strip_chars()
    if declared is not None and declared not in POWER:
        parsed = text.str.to_datetime(declared, time_unit="us", strict=False, exact=True)
        return parsed.dt.epoch("us"), nothing, text
    numbers = finite_numbers(column)
    if kind != pl.String:
        return nothing, numbers, text
    if declared in POWER or numbers.null_count() == text.null_count() + (text == "").sum():
        return nothing, numbers, text
    return read_dates(text), numbers, text


def finite_numbers(column: pl.Series) -> pl.Series:
    """As int64 if all are integers, else float64; null where there is no finite number."""
    raw = column.str.strip_chars() if column.dtype == pl.String else column
    floats = raw.cast(pl.Float64, strict=False)
    floats = pl.select(pl.when(floats.is_finite()).then(floats)).to_series()
    if raw.dtype == pl.String or raw.dtype.is_integer():
        integers = raw.cast(pl.Int64, strict=False)
        if integers.null_count() == floats.null_count():
            return integers.alias(column.name)
    return floats.alias(column.name)


def look_at_numbers(numbers: pl.Series, lines: pl.Series, look: TimeLook) -> None:
    """Adds what numbers look like to the look of their file."""
    size = pl.col("t").abs()
    unit: Any = pl.when(size < LEAST).then(pl.lit("small"))
    for name, power in POWER.items():
        low, high = LEAST * 10**power, MOST * 10**power
        unit = unit.when((size >= low) & (size < high)).then(pl.lit(name))
    frame = pl.DataFrame({"t": numbers, "line": lines}).drop_nulls()
    found = frame.group_by(unit.otherwise(pl.lit("large")).alias("unit")).agg(
        pl.len().alias("count"), pl.col("line").min()
    )
    look.counts = dict(zip(found["unit"], found["count"], strict=True))
    look.first = dict(zip(found["unit"], found["line"], strict=True))
    look.integers = not numbers.dtype.is_float() or not len(frame)


def read_dates(text: pl.Series) -> pl.Series:
    """Microseconds since 1970 of dates that can be read in one way only; null: none. Without an
    offset a date is in UTC.
    """
    frame = pl.DataFrame({"text": text})
    group = {k: pl.col("text").str.extract(ISO, k) for k in range(1, 9)}
    numbers = [group[k].cast(pl.Int32, strict=False) for k in range(1, 7)]
    year, month, day, hour, minute, second = numbers
    micros = group[7].str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64, strict=False)
    iso = _instant(year, month, day, hour, minute, second, group[8])
    iso = iso + micros.fill_null(0)
    others = [_worded(form) for form in (RFC_2822, CTIME, JAVASCRIPT)]
    matches = pl.col("text").str.contains(ISO)
    if frame.select(matches.fill_null(False).all()).item():
        return frame.select(iso).to_series().alias("time")
    return frame.select(pl.coalesce(iso, *others)).to_series().alias("time")


def _worded(form: str) -> pl.Expr:
    """Microseconds of a form with the month's name."""
    part = pl.col("text").str.extract_groups(form).struct
    clock = part.field("t").str.split(":").list
    hour, minute, second = (
        clock.get(k, null_on_oob=True).cast(pl.Int32, strict=False) for k in range(3)
    )
    month = part.field("m").replace_strict(MONTHS, default=None, return_dtype=pl.Int32)
    return _instant(
        part.field("y").cast(pl.Int32, strict=False),
        month,
        part.field("d").cast(pl.Int32, strict=False),
        hour,
        minute,
        second,
        part.field("o"),
    )


def _instant(
    year: pl.Expr,
    month: pl.Expr,
    day: pl.Expr,
    hour: pl.Expr,
    minute: pl.Expr,
    second: pl.Expr,
    offset: pl.Expr,
) -> pl.Expr:
    """Microseconds since 1970; null for a day or hour that does not exist."""
    # by text, since pl.datetime raises for a date that does not exist
    parts = (year, month, day, hour, minute, second)
    padded = [
        part.fill_null(0).cast(pl.String).str.zfill(width)
        for part, width in zip(parts, (4, 2, 2, 2, 2, 2), strict=True)
    ]
    written = pl.concat_str(padded)
    there = pl.when(year.is_not_null() & month.is_not_null() & day.is_not_null())
    moment = there.then(written).str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
    signs = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    hours = offset.str.extract(r"^[+-](\d{2})", 1).cast(pl.Int64).fill_null(0)
    minutes = offset.str.extract(r"^[+-]\d{2}:?(\d{2})$", 1).cast(pl.Int64).fill_null(0)
    seconds = signs.fill_null(1) * (3600 * hours + 60 * minutes)
    return moment.dt.epoch("us") - 1_000_000 * seconds


def remedy_for(text: str) -> str:
    """What to set for a date in a form that can be read in two ways, or is not known."""
    found = pl.Series([text]).str.extract_groups(AMBIGUOUS).struct.unnest().row(0)
    mark, year, clock, seconds = found
    if mark is None:
        return (
            "known are numbers, 2024-03-31, 2024-03-31T01:30:00+01:00, Sun, 31 Mar 2024 01:30:00 "
            'GMT; give another form as dataset.interactions.time_format: "%d %b %Y"'
        )
    tail = ("%Y" if len(year) == 4 else "%y") + (" %H:%M" if clock else "")
    tail += ":%S" if seconds else ""
    american, european = f"%m{mark}%d{mark}{tail}", f"%d{mark}%m{mark}{tail}"
    return (
        f'set dataset.interactions.time_format to "{american}" (month first) or "{european}" (day '
        "first)"
    )


def instant_text(time: float, unit: str | None) -> str:
    """A time for people: the instant in UTC, or the number."""
    if unit is None:
        return f"{time:.15g}"
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=time / 10 ** POWER[unit])
    except OverflowError:
        return f"{time:.15g} {unit}"
    return moment.strftime("%Y-%m-%d %H:%M:%S")
