"""Goodreads (UCSD Book Graph, cseweb.ucsd.edu/~jmcauley/datasets.html#goodreads).

goodreads_interactions.csv numbers books by itself; book_id_map.csv has their ids.
"""

from recmind_dist.ingest.importers.columns import ident, instant, number, text
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind, Lookup
from recmind_dist.ingest.importers.json_lines import JsonLines

DATE = "%a %b %d %H:%M:%S %z %Y"

GOODREADS = Importer(
    "goodreads",
    "Goodreads",
    kinds=(
        *(
            Kind(
                name,
                JsonLines(
                    keys=("user_id", "book_id", key, "date_added"),
                    ids=("user_id", "book_id"),
                    plain=("date_added", "rating", "is_read"),
                    absent=absent,
                    python=True,
                ),
                interactions=(
                    ident("user", "user_id"),
                    ident("item", "book_id"),
                    instant("time", "date_added", DATE),
                    number("rating", "rating"),
                    text("is_read"),
                ),
            )
            for name, key, absent in (
                ("interactions", "is_read", ()),
                ("reviews", "review_text", ("is_read",)),
            )
        ),
        Kind(
            "interactions.csv",
            Delimited(",", ("user_id", "book_id", "is_read", "rating", "is_reviewed"), quoted=True),
            interactions=(
                ident("user", "user_id"),
                ident("item", "book_id"),
                number("rating", "rating"),
                text("is_read"),
            ),
            lookup=Lookup("book_id_map", "book_id", "book_id_csv", "book_id"),
        ),
        Kind(
            "books",
            JsonLines(
                keys=("book_id", "title", "work_id"),
                ids=("book_id",),
                texts=("title", "description", "publisher", "publication_year", "format"),
                absent=("user_id",),
                python=True,
            ),
            items=(
                ident("id", "book_id"),
                *map(text, ("title", "publisher", "publication_year", "format", "description")),
            ),
        ),
        Kind(
            "book_id_map",
            Delimited(",", ("book_id_csv", "book_id"), quoted=True),
            unused="only interactions.csv needs it",
        ),
        Kind(
            "user_id_map",
            Delimited(",", ("user_id_csv", "user_id"), quoted=True),
            unused="users keep their numbers",
        ),
        *(
            Kind(name, JsonLines(keys=keys, ids=keys[:1]), unused="its texts are not joined")
            for name, keys in (
                ("authors", ("author_id", "name")),
                ("genres", ("book_id", "genres")),
                ("works", ("work_id", "best_book_id")),
                ("series", ("series_id", "title")),
            )
        ),
    ),
    template="{title} ({publication_year}). {description}",
    remarks=("min_rating: 1  # only rated books are interactions; 0 stands for shelved, unrated",),
)
