"""Amazon Review Data 2018 and 2014 (nijianmo.github.io/amazon, jmcauley.ucsd.edu/data/amazon). The
metadata of 2014 are Python dicts.
"""

from recmind_dist.ingest.importers.columns import ident, number, text, whole
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind
from recmind_dist.ingest.importers.json_lines import JsonLines

ITEM = r"[B0-9][A-Z0-9]{9}"
USER = r"A[A-Z0-9]{7,24}"
REST = ("overall", "unixReviewTime"), (r"[0-5](\.\d)?", r"\d+")
LOG = (
    ident("user", "reviewerID"),
    ident("item", "asin"),
    whole("time", "unixReviewTime"),
    number("rating", "overall"),
)

AMAZON2018 = Importer(
    "amazon2018",
    "Amazon Review Data 2018",
    kinds=(
        Kind(
            "reviews",
            JsonLines(
                keys=("reviewerID", "asin", "unixReviewTime"),
                ids=("reviewerID", "asin"),
                plain=("unixReviewTime", "overall"),
            ),
            LOG,
        ),
        *(
            Kind(f"ratings only ({names[0]} first)", Delimited(",", names, patterns), LOG)
            for names, patterns in (
                (("asin", "reviewerID", *REST[0]), (ITEM, USER, *REST[1])),  # of 2018
                (("reviewerID", "asin", *REST[0]), (USER, ITEM, *REST[1])),  # of 2014
            )
        ),
        Kind(
            "item metadata",
            JsonLines(
                keys=("asin", "title"),
                ids=("asin",),
                texts=("title", "brand", "category", "categories", "feature", "description"),
                python=True,
                absent=("reviewerID", "parent_asin"),
            ),
            items=(
                ident("id", "asin"),
                *map(text, ("title", "brand")),
                text("categories", "category", "categories"),
                text("features", "feature"),
                text("description"),
            ),
        ),
    ),
    template="{title}. {brand}. {categories}",
    remarks=("min_rating: 4  # only ratings from 4 up are interactions; unset: every review is",),
)
