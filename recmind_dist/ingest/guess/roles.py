"""Which file is the log, which column is what, which files hold the texts of items and users.

Names of columns and files speak first, then what their values have in common, then what is left.
Where that does not decide, `Unclear` holds the question.
"""

from recmind_dist.errors import DataError
from recmind_dist.ingest.guess.samples import SAMPLE_ROWS, Sample
from recmind_dist.ingest.guess.tables import NONE, ONE_WORD, Answers, Roles, Table, Texts, Unclear
from recmind_dist.ingest.guess.time_column import take_time
from recmind_dist.ingest.guess.vocabulary import speaks_for, words

MET = 0.5  # share of a log's ids that a table of texts must have
MET_NAMED = 0.1  # the same where the names agree
MAX_FIELDS = 6
EVENTS = 20  # different events at most


def roles_of(samples: list[Sample], answers: Answers) -> Roles:
    """Raises Unclear where something is open, DataError where nothing fits."""
    tables = [Table(sample) for sample in samples]
    log = _log(tables, answers)
    others = [table for table in tables if table is not log]
    roles = Roles(log)
    _take_answers(roles, answers)
    take_time(roles, answers)
    _take_ids(roles, others)
    _take_rating(roles)
    _take_event(roles)
    for table in others:
        _take_texts(roles, table)
    return roles


def _log(tables: list[Table], answers: Answers) -> Table:
    if answers.log is not None:
        found = [t for t in tables if answers.log in (t.sample.source.name, t.sample.stem)]
        if not found:
            raise DataError(f"--log {answers.log}: not among the files")
        return found[0]
    scores = [_log_score(table, tables) for table in tables]
    best = [table for table, s in zip(tables, scores, strict=True) if s == max(scores)]
    if len(best) > 1:
        names = [table.sample.source.name for table in best]
        raise Unclear("Which file is the log of interactions?", "log", names)
    return best[0]


def _log_score(table: Table, tables: list[Table]) -> float:
    """Users beside items, instants, ids of other tables."""
    score = 0.0
    for role in ("user", "item"):
        named = [name for name in table.ids if speaks_for(name, role)]
        score += any(not table.facts[name].is_unique for name in named)
    score += any(one.is_instant for one in table.facts.values())
    score += table.sample.format == "lightgcn"
    for other in tables:
        if other is not table:
            ids = [name for name in table.ids if not table.facts[name].is_unique]
            score += any(_meeting(table, name, other) for name in ids)
    return score


def _take_answers(roles: Roles, answers: Answers) -> None:
    for role in ("user", "item", "time"):
        column = getattr(answers, role)
        if column is None or (role == "time" and column == NONE):
            continue
        if column not in roles.log.facts:
            known = ", ".join(roles.log.facts)
            raise DataError(
                f"{roles.log.sample.source.name}: no column {column!r}: --{role} is one of {known}"
            )
        roles.columns[role] = column


def _take_ids(roles: Roles, others: list[Table]) -> None:
    """User and item: by name, by the table whose ids they hold, by a name that says less, as the
    only ones left.
    """
    _take_named(roles, others, weakly=False)
    for table in others:
        side = _role_of_table(table)
        if side and side not in roles.columns and (column := _met(roles, table)):
            roles.columns[side] = column
    _take_named(roles, others, weakly=True)
    missing = [role for role in ("user", "item") if role not in roles.columns]
    if not missing:
        return
    left = _left(roles, len(missing))
    if len(left) < len(missing):
        taken = roles.columns.values()
        left = [n for n in roles.log.repeated if n not in taken and not speaks_for(n, "rating")]
    called = [name for name in left if "id" in words(name)]
    if len(missing) == 1 and len(called) == 1:
        left = called
    if len(missing) == 1 and len(left) == 1:
        roles.columns[missing[0]] = left[0]
        return
    if len(left) < len(missing):
        lists = ", ".join(sorted(roles.log.sample.nested))
        inner = f"; write one row for each element of {lists}" if lists else ""
        raise DataError(
            f"{roles.log.sample.source.name}: no column that may be the {missing[0]} (columns: "
            f"{', '.join(roles.log.facts)}): a log has a user and an item a row; say --user and "
            f"--item{inner}"
        )
    counts = ", ".join(f"{name} has {roles.log.facts[name].distinct:,}" for name in left)
    raise Unclear(
        f"Which column of {roles.log.sample.source.name} is the {missing[0]} (different values: "
        f"{counts})?",
        missing[0],
        left,
    )


def _left(roles: Roles, needed: int = 1) -> list[str]:
    """Columns that may be ids and are nothing else yet: ratings and row numbers are left out, and
    counts beside `needed` better ones.
    """
    log = roles.log
    ids = log.ids if log.sample.has_header else [*log.ids, *log.names]
    free = [name for name in log.facts if name in ids and name not in roles.columns.values()]
    free = [n for n in free if not (speaks_for(n, "rating") or speaks_for(n, "event"))]
    plain = [n for n in free if not log.facts[n].is_unique and log.facts[n].distinct > 1]
    better = [n for n in plain if not log.facts[n].may_be_rating]
    if len(better) >= needed:
        plain = better
    return plain or free


def _take_named(roles: Roles, others: list[Table], weakly: bool) -> None:
    for role in ("user", "item"):
        if role not in roles.columns and (column := _named(roles, role, others, weakly)):
            roles.columns[role] = column


def _named(roles: Roles, role: str, others: list[Table], weakly: bool) -> str | None:
    """The column whose name speaks for a role; of several the one that is an id, or meets texts."""
    taken = roles.columns.values()
    names = [n for n in roles.log.ids if n not in taken and speaks_for(n, role, weakly)]
    other = "item" if role == "user" else "user"
    names = [n for n in names if not speaks_for(n, other)] or ([] if weakly else names)
    for better in (
        lambda n: any(_meeting(roles.log, n, table) for table in others),
        lambda n: words(n)[-1:] in (["id"], ["code"], ["no"]) or n.lower().endswith("id"),
        lambda n: not roles.log.facts[n].is_unique,
    ):
        names = [name for name in names if better(name)] or names
    if len(names) > 1:
        raise Unclear(f"Which column of {roles.log.sample.source.name} is the {role}?", role, names)
    return names[0] if names else None


def _role_of_table(table: Table) -> str | None:
    """Whose texts a table holds: by the file's name, its columns' names, sentences."""
    for role in ("user", "item"):
        if speaks_for(table.sample.stem, role):
            return role
    for name in table.ids:
        for role in ("user", "item"):
            if table.facts[name].is_unique and speaks_for(name, role):
                return role
    return "item" if any(one.words > 1.5 for one in table.facts.values()) else None


def _met(roles: Roles, table: Table) -> str | None:
    """The log's column whose ids a table has best; of several the one that has its name there."""
    taken = roles.columns.values()
    free = [n for n in roles.log.ids if n not in taken and not roles.log.facts[n].may_be_rating]
    met = {name: meeting[1] for name in free if (meeting := _meeting(roles.log, name, table))}
    best = [name for name, share in met.items() if share == max(met.values())]
    best = [name for name in best if name in table.facts] or best
    return best[0] if len(best) == 1 else None


def _meeting(log: Table, column: str, table: Table) -> tuple[str, float] | None:
    """The column of `table` that has most of the values of a log's column, and their share."""
    values = log.values(column)
    best: tuple[str, float] | None = None
    for name in table.ids:
        one = table.facts[name]
        if one.distinct < 0.9 * one.filled or one.filled < 2:  # ids may stand twice, not often
            continue
        share = len(values & table.values(name)) / max(1, len(values))
        least = MET_NAMED if name == column else MET
        if share >= least and (best is None or share > best[1]):
            best = (name, share)
    return best


def _take_rating(roles: Roles) -> None:
    named = [
        name
        for name, one in roles.log.facts.items()
        if one.is_number and speaks_for(name, "rating") and name not in roles.columns.values()
    ]
    if len(named) == 1:
        roles.columns["rating"] = named[0]


def _take_event(roles: Roles) -> None:
    """A column of few words that says what happened: view, transaction."""
    for name, one in roles.log.facts.items():
        few = 1 < one.distinct <= EVENTS and one.letters == 1 and one.words <= ONE_WORD
        if few and speaks_for(name, "event") and name not in roles.columns.values():
            roles.columns["event"] = name
            return


def _take_texts(roles: Roles, table: Table) -> None:
    """Takes a table as texts of items or users, by the column that it meets, or by its name."""
    user, item = roles.columns["user"], roles.columns["item"]
    if table.sample.has_header and {user, item} <= set(table.facts):
        raise DataError(
            f"{table.sample.source.name} has the log's columns {user} and {item} too, but not all "
            f"columns of {roles.log.sample.source.name}: is it a part of the log? Give all parts "
            "the same columns, or leave it out"
        )
    if not table.sample.has_header and len(table.facts) == len(roles.log.facts):
        raise DataError(
            f"{table.sample.source.name} has as many columns as "
            f"{roles.log.sample.source.name} and no header: if it is a part of the log, give it "
            "the same header, or leave it out"
        )
    meetings = {
        role: meeting
        for role in ("item", "user")
        if (meeting := _meeting(roles.log, roles.columns[role], table))
    }
    role = _role_of_table(table)
    if len(meetings) == 1 or (meetings and role not in meetings):
        role = next(iter(meetings))
    if role is None:
        raise Unclear(
            f"What are the rows of {table.sample.source.name}? None of its columns has the log's "
            "users or items: leave it out, or is another column the item?",
            "item",
            _left(roles) or list(roles.log.facts),
        )
    identity = meetings[role][0] if role in meetings else _identity(roles, table, role)
    texts = Texts(table, identity, _fields(table, identity))
    if getattr(roles, f"{role}s") is not None:
        raise DataError(
            f"{table.sample.source.name}: a second file of {role}s: give one, or join them"
        )
    setattr(roles, f"{role}s", texts)


def _identity(roles: Roles, table: Table, role: str) -> str:
    """The id column of a table that is too long to have met the log in its first rows."""
    unique = [name for name in table.ids if table.facts[name].is_unique]
    named = [n for n in unique if n == roles.columns[role] or speaks_for(n, role)]
    if table.sample.frame.height < SAMPLE_ROWS or not named:
        raise DataError(
            f"{table.sample.source.name}: none of its columns has the ids of the log's column "
            f"{roles.columns[role]} ({roles.log.example(roles.columns[role])!r}): leave it out, "
            f"or say another column with --{role}"
        )
    return named[0]


def _fields(table: Table, identity: str) -> list[str]:
    """Columns with words: the title first, the longest last."""
    chosen = [n for n, one in table.facts.items() if n != identity and one.may_be_text]
    outer = {name.rpartition(".")[0] for name in chosen if "." in name}  # whose keys are chosen
    chosen = [name for name in chosen if name not in outer]
    return sorted(
        chosen,
        key=lambda n: (not speaks_for(n, "title"), table.facts[n].words > 12),
    )[:MAX_FIELDS]
