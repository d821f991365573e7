"""MovieLens 100K, 1M, 10M, 20M, 25M, 32M and latest (grouplens.org/datasets/movielens)."""

import polars as pl

from recmind_dist.ingest.importers.columns import Column, ident, number, text, whole
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind
from recmind_dist.ingest.movielens import GENRES

RATING = r"[0-5](\.\d)?"
LOG = (
    ident("user", "userId"),
    ident("item", "movieId"),
    whole("time", "timestamp"),
    number("rating", "rating"),
)
FILMS = (ident("id", "movieId"), text("title"), text("genres"))
RATINGS = ("userId", "movieId", "rating", "timestamp")
RATINGS_LOOK = (r"\d+", r"\d+", RATING, r"\d+")
NO_GENRES = "(no genres listed)"


def _genres(frame: pl.DataFrame) -> pl.DataFrame:
    """`Animation|Comedy` → `Animation, Comedy`."""
    words = pl.col("genres").str.replace_all("|", ", ", literal=True)
    return frame.with_columns(pl.when(pl.col("genres") != NO_GENRES).then(words).alias("genres"))


def _flagged_genres(frame: pl.DataFrame) -> pl.DataFrame:
    """The flags of u.item → words."""
    words = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    return frame.with_columns(
        pl.concat_str(words, separator=", ", ignore_nulls=True).alias("genres")
    )


def _people(*names: str) -> tuple[Column, ...]:
    return (ident("id", "userId"), *map(text, names))


MOVIELENS = Importer(
    "movielens",
    "MovieLens",
    kinds=(
        Kind("ratings.csv", Delimited(",", RATINGS, quoted=True), LOG),
        Kind(
            "movies.csv",
            Delimited(",", ("movieId", "title", "genres"), quoted=True),
            items=FILMS,
            rows=_genres,
        ),
        Kind(
            "tags.csv",
            Delimited(",", ("userId", "movieId", "tag", "timestamp"), quoted=True),
            unused="tags are not ratings",
        ),
        *(
            Kind(name, Delimited(",", header, quoted=True), unused="it holds no texts of films")
            for name, header in (
                ("links.csv", ("movieId", "imdbId", "tmdbId")),
                ("genome-scores.csv", ("movieId", "tagId", "relevance")),
                ("genome-tags.csv", ("tagId", "tag")),
            )
        ),
        Kind("ratings.dat", Delimited("::", RATINGS, RATINGS_LOOK), LOG),
        Kind(
            "movies.dat",
            Delimited(
                "::",
                ("movieId", "title", "genres"),
                (r"\d+", r".+\(\d{4}\).*", r"\D+"),
                encoding="latin-1",
            ),
            items=FILMS,
            rows=_genres,
        ),
        Kind(
            "users.dat",
            Delimited(
                "::",
                ("userId", "gender", "age", "occupation", "zip"),
                (r"\d+", "[MF]", r"\d+", r"\d+", r"[\w-]+"),
            ),
            users=_people("gender", "age"),
        ),
        Kind(
            "tags.dat",
            Delimited(
                "::", ("userId", "movieId", "tag", "timestamp"), (r"\d+", r"\d+", ".*", r"\d+")
            ),
            unused="tags are not ratings",
        ),
        Kind("u.data", Delimited("\t", RATINGS, RATINGS_LOOK), LOG),
        Kind(
            "u.item",
            Delimited(
                "|",
                ("movieId", "title", "released", "video", "url", *GENRES),
                (r"\d+", ".+", ".*", ".*", ".*", *(["[01]"] * len(GENRES))),
                encoding="latin-1",
            ),
            items=FILMS,
            rows=_flagged_genres,
        ),
        Kind(
            "u.user",
            Delimited(
                "|",
                ("userId", "age", "gender", "occupation", "zip"),
                (r"\d+", r"\d+", "[MF]", r"\w+", r"\w+"),
            ),
            users=_people("age", "gender", "occupation"),
        ),
    ),
    template="{title}. {genres}",
    remarks=("min_rating: 4  # only ratings from 4 up are interactions; unset: every rating is",),
)
