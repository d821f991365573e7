"""MIND, Microsoft News (msnews.github.io): clicks of impressions, and what users had read before.

A user's history has an order and no times: its items are placed a second apart before the user's
first impression of the files.
"""

from collections.abc import Iterator

import polars as pl

from recmind_dist.ingest.importers.columns import REASON, Column, ident, instant, text
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind

FORMAT = "%m/%d/%Y %I:%M:%S %p"
DATE = r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d\d:\d\d [AP]M"
IDS = r"(N\d+ ?)*"
NO_CLICK = "no click in the impression"
TIME = Column("time", ("time",), "instant", (FORMAT,))
GATHERED_ROWS = 500_000  # histories held beside the users' own before they are joined
USERS = 20_000  # users whose histories are written at a time


def _clicks(frame: pl.DataFrame) -> pl.DataFrame:
    """A row for each clicked item of an impression; one without an item if there is no click."""
    shown = pl.col("impressions").str.strip_chars().str.split(" ")
    clicked = shown.list.eval(
        pl.element().filter(pl.element().str.ends_with("-1")).str.strip_suffix("-1")
    )
    some = pl.when(clicked.list.len() > 0).then(clicked)  # an empty list would lose its line
    rows = frame.with_columns(some.alias("item")).explode("item")
    no_click = pl.when(pl.col("item").is_null()).then(pl.lit(NO_CLICK))
    return rows.with_columns(no_click.alias(REASON))


class Histories:
    """The history of each user at the first impression."""

    def __init__(self) -> None:
        self._first = pl.DataFrame(
            schema={"user": pl.String, "time": pl.Int64, "history": pl.String}
        )
        self._new: list[pl.DataFrame] = []
        self._waiting = 0
        self.rows = 0

    def take(self, frame: pl.DataFrame) -> None:
        """Sees a block of behaviors."""
        rows = frame.select("user", TIME.raw(), "history")
        rows = rows.select("user", TIME.value(), "history").drop_nulls()
        self._new.append(rows.filter(pl.col("history") != ""))
        self._waiting += rows.height
        if self._waiting > GATHERED_ROWS:
            self._join()

    def frames(self) -> Iterator[pl.DataFrame]:
        """Columns: user, item, time in seconds."""
        self._join()
        for users in self._first.sort("user").iter_slices(USERS):
            read = users.with_columns(pl.col("history").str.strip_chars().str.split(" "))
            length = pl.col("history").list.len().cast(pl.Int64)
            read = read.with_columns(place=pl.int_ranges(-length, 0)).explode("history", "place")
            time = (pl.col("time") + pl.col("place")).alias("time")
            rows = read.select("user", pl.col("history").alias("item"), time)
            self.rows += rows.height
            yield rows

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.rows:,} of the interactions are items of users' histories, which have an order "
            "and no times: placed a second apart before the user's first impression"
        )

    def _join(self) -> None:
        rows = pl.concat([self._first, *self._new])
        self._first = rows.group_by("user").agg(pl.all().sort_by("time").first())
        self._new, self._waiting = [], 0


MIND = Importer(
    "mind",
    "MIND",
    kinds=(
        Kind(
            "behaviors",
            Delimited(
                "\t",
                ("impression", "user", "time", "history", "impressions"),
                (r"\d+", r"U\d+", DATE, IDS, r"(N\d+(-[01])? ?)*"),
            ),
            interactions=(
                ident("user", "user"),
                ident("item", "item"),
                instant("time", "time", FORMAT),
            ),
            rows=_clicks,
            aside=(NO_CLICK,),
            gather=Histories,
        ),
        Kind(
            "news",
            Delimited(
                "\t",
                (
                    *("id", "category", "subcategory", "title", "abstract", "url"),
                    *("title_entities", "abstract_entities"),
                ),
                (r"N\d+", ".*", ".*", ".*", ".*", ".*", ".*", ".*"),
            ),
            items=(
                ident("id", "id"),
                *map(text, ("title", "category", "subcategory", "abstract")),
            ),
        ),
        Kind(
            "embeddings of entities",
            Delimited(
                "\t", ("entity", *map(str, range(101))), ("Q.*|P.*", *[".*"] * 101), fewest=50
            ),
            unused="texts go through the language model of the config",
        ),
    ),
    template="{title}. {category}, {subcategory}. {abstract}",
)
