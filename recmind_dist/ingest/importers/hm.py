"""H&M Personalized Fashion Recommendations (kaggle.com/c/h-and-m-personalized-fashion-…)."""

from recmind_dist.ingest.importers.columns import ident, instant, number, text
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind

NAMES = (
    *("product_type_name", "product_group_name", "graphical_appearance_name"),
    *("colour_group_name", "department_name", "index_name", "section_name", "garment_group_name"),
)

HM = Importer(
    "hm",
    "H&M Personalized Fashion Recommendations",
    kinds=(
        Kind(
            "transactions",
            Delimited(",", ("t_dat", "customer_id", "article_id", "price"), quoted=True),
            interactions=(
                ident("user", "customer_id"),
                ident("item", "article_id"),
                instant("time", "t_dat", "%Y-%m-%d"),
                number("price", "price"),
            ),
        ),
        Kind(
            "articles",
            Delimited(",", ("article_id", "prod_name", "detail_desc", *NAMES), quoted=True),
            items=(ident("id", "article_id"), *map(text, ("prod_name", *NAMES, "detail_desc"))),
        ),
        Kind(
            "customers",
            Delimited(",", ("customer_id", "club_member_status", "age"), quoted=True),
            users=(ident("id", "customer_id"), text("club_member_status"), text("age")),
        ),
    ),
    template="{prod_name}. {product_type_name}, {colour_group_name}. {detail_desc}",
)
