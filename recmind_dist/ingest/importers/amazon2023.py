"""Amazon Reviews 2023 (amazon-reviews-2023.github.io). Items are joined by `parent_asin`: variants
of a product, whose `asin` differs, are one item.
"""

from recmind_dist.ingest.importers.columns import ident, number, text, whole
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind
from recmind_dist.ingest.importers.json_lines import JsonLines

LOG = (
    ident("user", "user_id"),
    ident("item", "parent_asin"),
    whole("time", "timestamp"),
    number("rating", "rating"),
)

AMAZON2023 = Importer(
    "amazon2023",
    "Amazon Reviews 2023",
    kinds=(
        Kind(
            "reviews",
            JsonLines(
                keys=("user_id", "parent_asin", "timestamp"),
                ids=("user_id", "parent_asin"),
                plain=("timestamp", "rating"),
            ),
            interactions=LOG,
        ),
        Kind(
            "ratings without texts",
            Delimited(",", ("user_id", "parent_asin", "rating", "timestamp"), quoted=True),
            interactions=LOG,
        ),
        Kind(
            "item metadata",
            JsonLines(
                keys=("parent_asin", "title"),
                ids=("parent_asin",),
                texts=("title", "store", "main_category"),
                lists=("categories", "features", "description"),
                absent=("user_id",),
            ),
            items=(
                ident("id", "parent_asin"),
                *map(text, ("title", "store", "main_category", "categories")),
                *map(text, ("features", "description")),
            ),
        ),
    ),
    template="{title}. {store}. {categories}",
    remarks=("min_rating: 4  # only ratings from 4 up are interactions; unset: every review is",),
)
