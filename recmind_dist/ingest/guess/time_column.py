"""Which column of a log is the time, and how its dates are written."""

from recmind_dist.ingest.guess.facts import DAY_FIRST, MONTH_FIRST, Facts
from recmind_dist.ingest.guess.tables import NONE, Answers, Roles, Unclear
from recmind_dist.ingest.guess.vocabulary import is_later, speaks_for


def take_time(roles: Roles, answers: Answers) -> None:
    if answers.time is None:
        found = [
            one
            for one in roles.log.facts.values()
            if one.is_instant
            and one.name not in roles.columns.values()
            and (speaks_for(one.name, "time") or not _speaks_for_other(one.name))
        ]
        named = [one for one in found if speaks_for(one.name, "time")]
        named = [one for one in named if not _speaks_for_other(one.name)] or named
        named = [one for one in named if not is_later(one.name)] or named
        best = _of_most_rows(roles, named or found) or _called_time(roles)
        if len(best) > 1:
            names = [one.name for one in best]
            raise Unclear(
                f"Which column of {roles.log.sample.source.name} is the time of the interaction?",
                "time",
                [*names, NONE],
            )
        if best:
            roles.columns["time"] = best[0].name
    if "time" in roles.columns:
        _take_format(roles, answers)


def _of_most_rows(roles: Roles, found: list[Facts]) -> list[Facts]:
    """Those that most rows have: not every order is paid. Names of folders come last."""
    folders = roles.log.sample.folders
    found = [one for one in found if one.name not in folders] or found
    most = max((one.filled for one in found), default=0)
    return [one for one in found if one.filled == most]


def _speaks_for_other(name: str) -> bool:
    return any(speaks_for(name, role) for role in ("user", "item", "rating"))


def _called_time(roles: Roles) -> list[Facts]:
    """Columns that are called time but hold numbers of no known unit, or dates of no one format."""
    named = [one for name, one in roles.log.facts.items() if speaks_for(name, "time")]
    named = [one for one in named if one.distinct > 1 and not _speaks_for_other(one.name)]
    return [one for one in named if one.is_number] or named


def _take_format(roles: Roles, answers: Answers) -> None:
    time = roles.log.facts[roles.columns["time"]]
    formats = list(time.date_formats)
    if answers.time_format is not None:
        roles.time_format = answers.time_format
        return
    if time.unit is not None or (time.is_number and not formats):
        return
    if not formats:
        raise Unclear(
            f"In what format are the dates of column {time.name} "
            f"({roles.log.example(time.name)!r}), if it is the time? No format that this program "
            f"knows reads them all.",
            "time_format",
            ["'%d.%m.%Y %H:%M' (for example; --time none: it is not the time)"],
        )
    if any(form in DAY_FIRST for form in formats) and any(f in MONTH_FIRST for f in formats):
        raise Unclear(
            f"Is {roles.log.example(time.name)!r} in column {time.name} day, month, year, or "
            "month, day, year?",
            "time_format",
            [f"'{form}'" for form in formats],
        )
    roles.time_format = formats[0]
