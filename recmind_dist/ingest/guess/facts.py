"""What the values of a column look like: instants, numbers, ids, words."""

from dataclasses import dataclass

import polars as pl

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLIEST, LATEST = 631_152_000, 2_208_988_800  # seconds: 1990 and 2040
KNOWN_DATES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d")  # readers take them
DAYS = ("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y")
DATES = (
    *KNOWN_DATES,
    *("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%:z"),
    *("%Y-%m-%d %H:%M:%S%.f UTC", "%Y-%m-%d %H:%M:%S%.f %z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y%m%d"),
    *("%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y"),
    *(day + at for day in (*DAYS, "%B %d, %Y") for at in ("", " %H:%M", " %H:%M:%S", " %I:%M %p")),
)
DAY_FIRST = tuple(f"%d{s}%m{s}%Y{t}" for s in "/-" for t in ("", " %H:%M", " %H:%M:%S"))
MONTH_FIRST = tuple(
    f"%m{s}%d{s}%Y{t}" for s in "/-" for t in ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p")
)
RATINGS = 25  # different values of a rating at most


@dataclass(frozen=True)
class Facts:
    """Of one column of a sample.

    Attributes:
        filled: rows with a value.
        distinct: different values.
        unit: of whole numbers that are instants of 1990 to 2040.
        date_formats: that read all values; two where day and month cannot be told apart.
        low, high: of numbers.
        is_whole: all of them are whole.
        words: mean number of words.
        letters: share of values with letters.
    """

    name: str
    rows: int
    filled: int
    distinct: int
    unit: str | None
    date_formats: tuple[str, ...]
    low: float | None
    high: float | None
    is_whole: bool
    words: float
    letters: float
    is_address: bool

    @property
    def is_instant(self) -> bool:
        """Whether all values are instants."""
        return self.unit is not None or bool(self.date_formats)

    @property
    def is_number(self) -> bool:
        """Whether all values are numbers."""
        return self.low is not None

    @property
    def is_unique(self) -> bool:
        """Whether no value stands twice, and none is missing."""
        return self.filled == self.distinct == self.rows > 0

    @property
    def may_be_rating(self) -> bool:
        """Few values, all numbers of a small range."""
        small = self.low is not None and self.high is not None and 0 <= self.low < self.high <= 100
        return small and self.distinct <= RATINGS and self.distinct < self.filled

    @property
    def may_be_text(self) -> bool:
        """Words, no address and not one value for all."""
        return self.letters > 0.5 and not self.is_address and self.distinct > 1


def facts(column: pl.Series) -> Facts:
    """Looks at all values of a text column."""
    texts = column.str.strip_chars()
    texts = texts.filter((texts != "") & texts.is_not_null())
    numbers = texts.cast(pl.Float64, strict=False)
    numeric = len(texts) > 0 and numbers.null_count() == 0 and bool(numbers.is_finite().all())
    mean_words = texts.str.count_matches(r"\S+").mean() if len(texts) else 0.0
    letters = texts.str.contains(r"\p{L}").mean() if len(texts) else 0.0
    addresses = texts.str.contains(r"^https?://").mean() if len(texts) else 0.0
    return Facts(
        name=column.name,
        rows=len(column),
        filled=len(texts),
        distinct=texts.n_unique(),
        unit=_unit(texts) if numeric else None,
        date_formats=_date_formats(texts),
        low=_float(numbers.min()) if numeric else None,
        high=_float(numbers.max()) if numeric else None,
        is_whole=numeric and bool((numbers == numbers.floor()).all()),
        words=_float(mean_words) or 0.0,
        letters=_float(letters) or 0.0,
        is_address=(_float(addresses) or 0.0) > 0.5,
    )


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _unit(texts: pl.Series) -> str | None:
    """The unit by which all whole numbers lie between 1990 and 2040."""
    whole = texts.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    if whole.null_count() and texts.str.contains(r"^\d{9,10}\.\d+$").all():
        return "seconds"  # with fractions
    if whole.null_count():
        return None
    for unit, scale in UNITS.items():
        if whole.is_between(EARLIEST * scale, LATEST * scale).all():
            return unit
    return None


def _date_formats(texts: pl.Series) -> tuple[str, ...]:
    if not len(texts) or not texts.str.contains(r"\d").all():
        return ()
    first = texts.head(50)
    found = []
    for form in (*DATES, *DAY_FIRST, *MONTH_FIRST):
        if _reads(first, form) and _reads(texts, form):
            found.append(form)
            if form in DATES:
                break
    return tuple(found)


def _reads(texts: pl.Series, form: str) -> bool:
    plain = texts.str.strip_suffix("Z") if form in KNOWN_DATES else texts
    try:
        dates = plain.str.to_datetime(form, time_unit="us", strict=False)
    except pl.exceptions.PolarsError:
        return False
    years = dates.dt.year()
    return dates.null_count() == 0 and bool(years.is_between(1970, 2100).all())
