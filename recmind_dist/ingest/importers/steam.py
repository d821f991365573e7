"""Steam (cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data): lines are Python dicts.

Users of steam_reviews go by `username`: most of its lines have no `user_id`.
"""

from typing import Any

from recmind_dist.ingest.importers.columns import ident, instant, number, text
from recmind_dist.ingest.importers.importer import Importer, Kind
from recmind_dist.ingest.importers.json_lines import Explode, JsonLines

POSTED = "%B %d, %Y"


def _each(key: str) -> Explode:
    """The objects of a list, each with the user of the line."""

    def explode(record: dict[str, Any]) -> list[dict[str, Any]] | str:
        inner = record.get(key)
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            return f"{key} is no list of objects"
        rows = [{**one, "user_id": record.get("user_id")} for one in inner]
        return rows or [{"user_id": record.get("user_id")}]

    return explode


def _reviews(record: dict[str, Any]) -> list[dict[str, Any]] | str:
    """`Posted November 5, 2011.` → `November 5, 2011`; without a year it is of no known year."""
    rows = _each("reviews")(record)
    if isinstance(rows, list):
        for row in rows:
            posted = str(row.get("posted", ""))
            row["posted"] = posted.removeprefix("Posted ").removesuffix(".")
    return rows


STEAM = Importer(
    "steam",
    "Steam",
    kinds=(
        Kind(
            "steam_reviews",
            JsonLines(
                keys=("username", "product_id", "date"),
                ids=("username", "product_id"),
                plain=("date", "hours"),
                python=True,
            ),
            interactions=(
                ident("user", "username"),
                ident("item", "product_id"),
                instant("time", "date", "%Y-%m-%d"),
                number("hours", "hours"),
            ),
        ),
        Kind(
            "australian_user_reviews",
            JsonLines(
                keys=("user_id", "reviews"),
                ids=("user_id", "item_id"),
                plain=("posted", "recommend"),
                python=True,
                explode=_reviews,
            ),
            interactions=(
                ident("user", "user_id"),
                ident("item", "item_id"),
                instant("time", "posted", POSTED),
                text("recommend"),
            ),
            aside=("no item", "posted is not a known date"),
        ),
        Kind(
            "australian_users_items",
            JsonLines(
                keys=("user_id", "items"),
                ids=("user_id", "item_id"),
                plain=("playtime_forever",),
                python=True,
                explode=_each("items"),
            ),
            interactions=(
                ident("user", "user_id"),
                ident("item", "item_id"),
                number("minutes", "playtime_forever"),
            ),
            aside=("no item",),
        ),
        Kind(
            "steam_games",
            JsonLines(
                keys=("id", "app_name"),
                ids=("id",),
                texts=("title", "app_name", "genres", "tags", "specs", "developer", "publisher"),
                python=True,
            ),
            items=(
                ident("id", "id"),
                text("title", "app_name", "title"),
                *map(text, ("genres", "tags", "specs", "developer", "publisher")),
            ),
        ),
        Kind(
            "bundle_data",
            JsonLines(keys=("bundle_id", "items"), ids=("bundle_id",), python=True),
            unused="bundles name no user",
        ),
    ),
    template="{title}. {genres}. {tags}",
)
