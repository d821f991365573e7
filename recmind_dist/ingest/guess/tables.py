"""Tables that `recmind init` looks at, what their columns may be, and what is made of them."""

from dataclasses import dataclass, field
from functools import cached_property

from recmind_dist.errors import DataError
from recmind_dist.ingest.guess.facts import Facts, facts
from recmind_dist.ingest.guess.samples import Sample
from recmind_dist.ingest.guess.vocabulary import speaks_for

ONE_WORD, FEW_WORDS = 1.5, 5  # mean words of ids, and of names that are ids
NONE = "none"  # the answer that there is no such column


class Unclear(DataError):
    """Something that the files leave open.

    Attributes:
        option: of the command line, which answers it.
        choices: the answers.
    """

    def __init__(self, question: str, option: str, choices: list[str]) -> None:
        self.question = question
        self.option = option
        self.choices = choices
        listed = " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)
        super().__init__(f"{question} Say --{option.replace('_', '-')} {listed}")


@dataclass
class Answers:
    """What the user has said. Names of columns; `log` a file; "none": there is none."""

    log: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_format: str | None = None


@dataclass(frozen=True)
class Table:
    """A sample and the facts of its columns."""

    sample: Sample

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """By column."""
        return {name: facts(self.sample.frame.get_column(name)) for name in self.sample.columns}

    def values(self, column: str) -> set[str]:
        """The different values of a column."""
        texts = self.sample.frame.get_column(column).str.strip_chars().drop_nulls()
        return set(texts.unique())

    @cached_property
    def ids(self) -> list[str]:
        """Columns that may be a log's ids, in order: of one word, or called so."""
        return [name for name, one in self.facts.items() if self._may_be_id(name, one)]

    @property
    def repeated(self) -> list[str]:
        """Columns of any words whose values stand several times, as names of wines do."""
        return [
            name
            for name, one in self.facts.items()
            if 1 < one.distinct < one.filled
            and not one.is_instant
            and name not in self.sample.nested
        ]

    @property
    def names(self) -> list[str]:
        """Of `repeated` those of a few words, as names of bands are."""
        found = ((name, self.facts[name]) for name in self.repeated)
        return [name for name, one in found if one.letters > 0.5 and one.words <= FEW_WORDS]

    def example(self, column: str) -> str:
        """The first value of a column."""
        return str(self.sample.frame.get_column(column).drop_nulls()[0])

    def _may_be_id(self, name: str, one: Facts) -> bool:
        if name in self.sample.nested or one.date_formats or not one.filled:
            return False
        called = any(speaks_for(name, role) for role in ("user", "item"))
        return one.words <= ONE_WORD or (called and one.words <= FEW_WORDS and not one.is_unique)


@dataclass(frozen=True)
class Texts:
    """A table of items or users: its id column and the text columns, the title first."""

    table: Table
    id: str
    fields: list[str]


@dataclass
class Roles:
    """What the files are.

    Attributes:
        columns: of the log, by role: user, item, and time, rating, event if there are any.
        time_format: of dates.
    """

    log: Table
    columns: dict[str, str] = field(default_factory=dict)
    time_format: str | None = None
    items: Texts | None = None
    users: Texts | None = None
