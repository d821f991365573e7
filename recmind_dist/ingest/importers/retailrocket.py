"""RetailRocket (kaggle.com/datasets/retailrocket/ecommerce-dataset)."""

from recmind_dist.ingest.importers.columns import ident, text, whole
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind

HASHED = "the publisher has hashed its words: no texts"

RETAILROCKET = Importer(
    "retailrocket",
    "RetailRocket",
    kinds=(
        Kind(
            "events",
            Delimited(",", ("timestamp", "visitorid", "event", "itemid"), quoted=True),
            interactions=(
                ident("user", "visitorid"),
                ident("item", "itemid"),
                whole("time", "timestamp"),
                text("event"),
            ),
        ),
        Kind(
            "item properties",
            Delimited(",", ("timestamp", "itemid", "property", "value"), quoted=True),
            unused=HASHED,
        ),
        Kind(
            "category tree",
            Delimited(",", ("categoryid", "parentid"), quoted=True),
            unused="categories are numbers: no texts",
        ),
    ),
    remarks=("keep: {event: [transaction]}  # unset: views, carts and purchases all count",),
)
