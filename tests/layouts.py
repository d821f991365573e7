"""Data sets as people have them, of no publisher; users, items, times as in tests/publishers.py."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.publishers import ITEMS, NAMES, USERS, at, meetings, rating, write_lines


def shop(home: Path) -> list[Path]:
    """CSV with a buyer, a sku and an ISO date; things in JSON lines; people in Parquet."""
    rows = [
        f'{k},b{u:03d},SKU-{i},{at(s, "%Y-%m-%dT%H:%M:%S")},2,"north, ""old"" town"'
        for k, (u, i, s) in enumerate(meetings())
    ]
    things = [
        json.dumps({"code": f"SKU-{i}", "label": name, "kinds": ["home"], "size": {"cm": i}})
        for i, name in enumerate(NAMES)
    ]
    people = pl.DataFrame({"ref": [f"b{u:03d}" for u in range(USERS)], "trade": ["cook"] * USERS})
    people.write_parquet(home / "people.parquet")
    return [
        write_lines(home / "orders.csv", ["order_no,buyer_ref,sku,bought_at,qty,shop", *rows]),
        write_lines(home / "things.jsonl", things),
        home / "people.parquet",
    ]


def library(home: Path) -> list[Path]:
    """German: semicolons, Latin-1, days first; books' ids with zeros, a price with a comma."""
    rows = [
        f"{4711 + u};00{i}7;{at(s + 86400 * 9 * u, '%d.%m.%Y %H:%M')};{rating(u, i)}"
        for u, i, s in meetings()
    ]
    books = [f"00{i}7;{_latin(name)};Müller, Jörg;12,50" for i, name in enumerate(NAMES)]
    return [
        write_lines(home / "ausleihen.csv", ["Kunde;Artikel;Datum;Bewertung", *rows], "latin-1"),
        write_lines(home / "artikel.csv", ["Artikel;Titel;Autor;Preis", *books], "latin-1"),
    ]


def _latin(name: str) -> str:
    return name.replace("“", "").replace("”", "")


def bare(home: Path) -> list[Path]:
    """A table of numbers without a header, and a table of items whose ids tell which column is."""
    rows = [f"{i + 500}\t{u + 20}\t{s}" for u, i, s in meetings()]
    songs = [f"{i + 500}\t{name}\tfolk" for i, name in enumerate(NAMES)]
    return [
        write_lines(home / "plays.tsv", rows),
        write_lines(home / "songs.tsv", ["id\tname\tgenre", *songs]),
    ]


def warehouse(home: Path) -> list[Path]:
    """Parquet from a warehouse: instants, integers, categories as text."""
    log = pl.DataFrame(
        [(u + 1, i + 100, s * 1_000_000) for u, i, s in meetings()],
        {"account_id": pl.Int64, "listing_id": pl.Int64, "viewed_at": pl.Int64},
        orient="row",
    )
    log.with_columns(pl.col("viewed_at").cast(pl.Datetime("us"))).write_parquet(
        home / "fact_views.parquet"
    )
    listings = pl.DataFrame(
        {
            "listing_id": [i + 100 for i in range(ITEMS)],
            "headline": list(NAMES),
            "city": ["Oslo", "Bergen"] * 4,
            "photo": [f"https://img.example/{i}.jpg" for i in range(ITEMS)],
        }
    )
    listings.write_parquet(home / "dim_listings.parquet")
    return [home / "fact_views.parquet", home / "dim_listings.parquet"]


def events(home: Path) -> list[Path]:
    """Compressed JSON lines of an app, two files of one layout, milliseconds, nested context."""
    lines = [
        json.dumps(
            {
                "event": "play",
                "ts": s * 1000,
                "userId": f"u-{u}",
                "trackId": i + 7,
                "context": {"os": "ios", "tags": ["a", "b"]},
            }
        )
        for u, i, s in meetings()
    ]
    return [
        write_lines(home / "events-1.jsonl.gz", lines[:30]),
        write_lines(home / "events-2.jsonl.gz", lines[30:]),
    ]


def untimed(home: Path) -> list[Path]:
    """Ratings without times; `|` between the fields."""
    rows = [f"user{u}|wine {i}|{rating(u, i) * 10}" for u, i, _ in meetings()]
    return [write_lines(home / "tasting.csv", ["taster|wine|points", *rows])]


def american(home: Path) -> list[Path]:
    """Excel's export: months first, a customer column as floats, descriptions in the log."""
    rows = [
        f"{536365 + k},{i}5123A,WHITE LANTERN {i},6,{at(s, '%-m/%-d/%Y %-H:%M')},2.55,{17850 + u}.0"
        for k, (u, i, s) in enumerate(meetings())
    ]
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID"
    return [write_lines(home / "retail.csv", [header, *rows])]


def atomic(home: Path) -> list[Path]:
    """RecBole's atomic files."""
    rows = [f"{u}\t{i}\t{rating(u, i)}\t{s}" for u, i, s in meetings()]
    items = [f"{i}\t{name}\t1995" for i, name in enumerate(NAMES)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    return [
        write_lines(home / "shop.inter", [header, *rows]),
        write_lines(
            home / "shop.item",
            ["item_id:token\tmovie_title:token_seq\trelease_year:token", *items],
        ),
    ]


LAYOUTS: dict[str, Callable[[Path], list[Path]]] = {
    "shop": shop,
    "library": library,
    "bare": bare,
    "warehouse": warehouse,
    "events": events,
    "untimed": untimed,
    "american": american,
    "atomic": atomic,
}
