"""What an import says of its tables."""

from datetime import UTC, datetime

MILLI = 100_000_000_000  # whole numbers from here on are milliseconds: seconds of the year 5138


def described_bounds(bounds: tuple[int, int] | None) -> str:
    """The first and last instant of the log, by its unit."""
    if bounds is None:
        return ", without times: what is held out of each user is drawn"
    milli = max(bounds) >= MILLI
    first, last = (_day(bound / 1000 if milli else bound) for bound in bounds)
    return f", time in {'milliseconds' if milli else 'seconds'}, {first} to {last}"


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def described_side(table: str, rows: int, counts: dict[str, int]) -> str:
    """How many rows of texts, and how they meet the log."""
    without = counts["log"] - counts["both"]
    return (
        f"{table}.parquet: {rows:,} rows; of {counts['log']:,} {table} of the log {without:,} have "
        f"none, {counts['file'] - counts['both']:,} are only here"
    )
