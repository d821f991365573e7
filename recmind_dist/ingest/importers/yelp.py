"""Yelp Open Dataset (business.yelp.com/data/resources/open-dataset)."""

from recmind_dist.ingest.importers.columns import ident, instant, number, text
from recmind_dist.ingest.importers.importer import Importer, Kind
from recmind_dist.ingest.importers.json_lines import JsonLines

DATE = "%Y-%m-%d %H:%M:%S"

YELP = Importer(
    "yelp",
    "Yelp Open Dataset",
    kinds=(
        Kind(
            "reviews",
            JsonLines(
                keys=("review_id", "user_id", "business_id", "date"),
                ids=("user_id", "business_id"),
                plain=("date", "stars"),
            ),
            interactions=(
                ident("user", "user_id"),
                ident("item", "business_id"),
                instant("time", "date", DATE, "%Y-%m-%d"),
                number("rating", "stars"),
            ),
        ),
        Kind(
            "businesses",
            JsonLines(
                keys=("business_id", "name", "categories"),
                ids=("business_id",),
                texts=("name", "categories", "city", "state"),
            ),
            items=(
                ident("id", "business_id"),
                *map(text, ("name", "categories", "city", "state")),
            ),
        ),
        Kind(
            "users",
            JsonLines(
                keys=("user_id", "name", "yelping_since"),
                ids=("user_id",),
                plain=("yelping_since",),
            ),
            users=(ident("id", "user_id"), text("yelping_since")),
        ),
        Kind(
            "tips",
            JsonLines(
                keys=("user_id", "business_id", "compliment_count"), ids=("user_id", "business_id")
            ),
            unused="tips are short notes beside the reviews, which are the interactions",
        ),
        Kind(
            "check-ins",
            JsonLines(keys=("business_id", "date"), ids=("business_id",), absent=("user_id",)),
            unused="check-ins name no user",
        ),
        Kind(
            "photos",
            JsonLines(keys=("photo_id", "business_id"), ids=("business_id",)),
            unused="photos name no user",
        ),
    ),
    template="{name}. {categories}. {city}, {state}",
    remarks=("min_rating: 4  # only 4 and 5 stars are interactions; unset: every review is",),
)
