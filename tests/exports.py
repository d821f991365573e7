"""Files as shops, libraries and databases export them: each writer gives what `init` is told.

Written without a look at `init`: a change here follows a real export, not the code.
"""

import gzip
import json
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS, EACH = 40, 30, 8
START = datetime(2024, 3, 1, 8, 0, tzinfo=UTC)
NOUNS = ("kettle", "blanket", "lantern", "notebook", "bicycle pump", "garden hose")
ADJECTIVES = ("red", "heavy", "folding", "quiet", "second-hand")


def _title(item: int) -> str:
    return f"{ADJECTIVES[item % 5].capitalize()} {NOUNS[item % 6]}, size {item}"


def _events(seed: int) -> Iterator[tuple[int, int, datetime]]:
    """(user, item, instant) by instant; every user has EACH different items."""
    draw = random.Random(seed)
    events = [
        (user, item, START + timedelta(seconds=draw.randrange(90 * 86_400)))
        for user in range(USERS)
        for item in draw.sample(range(ITEMS), EACH)
    ]
    yield from sorted(events, key=lambda event: event[2])


def shopify(folder: Path) -> list[Path]:
    """Orders of a shop: a line per article, the order's own fields on its first line only."""
    header = (
        "Name,Email,Financial Status,Paid at,Fulfillment Status,Currency,Subtotal,Total,"
        "Created at,Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku,"
        "Billing Name,Shipping Country,Notes,Cancelled at,Vendor,Id"
    )
    lines, local = [header], timezone(timedelta(hours=-4))
    baskets: dict[int, list[tuple[int, datetime]]] = {}
    for user, item, instant in _events(1):
        baskets.setdefault(user, []).append((item, instant))
    number, note = 1000, '"Leave at door,\nring twice"'
    for user, bought in baskets.items():
        for first in range(0, EACH, 2):
            number += 1
            when = bought[first][1].astimezone(local).strftime("%Y-%m-%d %H:%M:%S %z")
            for line, (item, _) in enumerate(bought[first : first + 2]):
                whole = line == 0
                lines.append(
                    f"#{number},user{user}@example.com,{'paid' if whole else ''},"
                    f"{when if whole else ''},{'fulfilled' if whole else ''},"
                    f"{'USD' if whole else ''},{'39.80' if whole else ''},"
                    f"{'44.80' if whole else ''},{when},{1 + item % 2},"
                    f'"{_title(item)}",19.90,SKU-{item:04d},'
                    f"{f'Person {user}' if whole else ''},{'US' if whole else ''},"
                    f"{note if whole and user % 7 == 0 else ''},"
                    f",Acme,{5_000_000_000 + number if whole else ''}"
                )
    path = folder / "orders_export_1.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [path]


def postgres_copy(folder: Path) -> list[Path]:
    """`\\copy` of two tables: tabs, no header, `\\N` for NULL, `\\t` and `\\n` as escapes."""
    plays, tracks = folder / "plays.copy", folder / "tracks.copy"
    listeners = [uuid.UUID(int=random.Random(user).getrandbits(128)) for user in range(USERS)]
    plays.write_text(
        "".join(
            f"{row}\t{listeners[user]}\t{item + 100}\t{'web' if row % 3 else chr(92) + 'N'}\t"
            f"{instant.strftime('%Y-%m-%d %H:%M:%S.%f')}+00\n"
            for row, (user, item, instant) in enumerate(_events(2), 1)
        )
    )
    tracks.write_text(
        "".join(
            f"{item + 100}\t{_title(item)}\t"
            + ("\\N" if item % 4 == 0 else f"First line.\\nSecond\\tof {item}")
            + "\t2019-05-04\n"
            for item in range(ITEMS)
        )
    )
    return [plays, tracks]


def matomo(folder: Path) -> list[Path]:
    """Page views of a web site as Matomo's export writes them: UTF-16, tabs."""
    lines = ["idvisit\tvisitorId\tserverTimePretty\ttype\turl\tpageTitle\tcountry\ttimeSpent"]
    for row, (user, item, instant) in enumerate(_events(3)):
        slug = _title(item).lower().replace(", ", "-").replace(" ", "-")
        lines.append(
            f"{9000 + row}\t{user * 7919 + 0x9F00AA1000000:016x}\t"
            f"{instant.strftime('%b %d, %Y %H:%M:%S')}\taction\t"
            f"https://shop.example/p/{slug}\t{_title(item)} – Shop\tDE\t{row % 300}"
        )
    path = folder / "Export _ Visits Log _ March 2024.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-16")
    return [path]


def anki(folder: Path) -> list[Path]:
    """Reviews of learning cards: a folder per learner, which alone says who it was."""
    root = folder / "revlogs"
    rows: dict[int, list[tuple[int, datetime]]] = {}
    for user, item, instant in _events(4):
        rows.setdefault(user, []).append((item, instant))
    for user, reviews in rows.items():
        part = root / f"user_id={user + 1}"
        part.mkdir(parents=True)
        table = {
            "card_id": [item for item, _ in reviews],
            "day_offset": [(instant - START).days for _, instant in reviews],
            "rating": [1 + item % 4 for item, _ in reviews],
            "state": [item % 3 for item, _ in reviews],
            "duration": [1000 + 37 * item for item, _ in reviews],
            "elapsed_days": [-1 if number == 0 else number for number in range(EACH)],
        }
        pq.write_table(pa.table(table), part / "data.parquet")
    return [root]


def spark(folder: Path) -> list[Path]:
    """What Spark leaves of a log: days as folders, gzip parts, markers, sums of each part."""
    root = folder / "clickstream"
    days: dict[str, list[str]] = {}
    for user, item, instant in _events(5):
        line = f"u{user:05d},{item + 1:08d},view,{int(instant.timestamp() * 1000)}"
        days.setdefault(instant.strftime("%Y-%m-%d"), []).append(line)
    for number, (day, lines) in enumerate(days.items()):
        part = root / f"dt={day}"
        part.mkdir(parents=True)
        name = f"part-00000-{uuid.UUID(int=number)}.c000.csv.gz"
        text = "\n".join(["member,sku,event_type,ts", *lines]) + "\n"
        (part / name).write_bytes(gzip.compress(text.encode()))
        (part / f".{name}.crc").write_bytes(b"crc\x00\x00\x02\x00")
    (root / "_SUCCESS").write_bytes(b"")
    catalogue = folder / "catalogue.json"
    catalogue.write_text(
        "".join(
            json.dumps({"sku": f"{item + 1:08d}", "name": _title(item), "price": {"eur": item}})
            + "\n"
            for item in range(ITEMS)
        )
    )
    return [root, catalogue]


def mongo(folder: Path) -> list[Path]:
    """`mongoexport` of two collections: object ids and dates are wrapped, `[...]` for one."""
    likes, recipes = folder / "likes.json", folder / "recipes.json"
    likes.write_text(
        "".join(
            json.dumps(
                {
                    "_id": {"$oid": f"{row:024x}"},
                    "user": {"$oid": f"aa{user:022x}"},
                    "recipe": {"$oid": f"bb{item:022x}"},
                    "createdAt": {"$date": instant.strftime("%Y-%m-%dT%H:%M:%S.000Z")},
                    "__v": 0,
                }
            )
            + "\n"
            for row, (user, item, instant) in enumerate(_events(6))
        )
    )
    recipes.write_text(
        json.dumps(
            [
                {
                    "_id": {"$oid": f"bb{item:022x}"},
                    "title": _title(item),
                    "ingredients": [{"name": "salt", "grams": 3}, {"name": "flour", "grams": 9}],
                    "tags": ["quick", "vegan"][: 1 + item % 2],
                }
                for item in range(ITEMS)
            ]
        )
    )
    return [likes, recipes]


def library(folder: Path) -> list[Path]:
    """Loans of a German library: semicolons, Windows-1252, day before month."""
    loans, stock = folder / "Ausleihen_2024.csv", folder / "Bestand.csv"
    lines = ["Ausweisnummer;Mediennummer;Zweigstelle;Ausleihdatum;Rückgabedatum"]
    for user, item, instant in _events(7):
        back = (instant + timedelta(days=21)).strftime("%d.%m.%Y")
        lines.append(
            f"{user:08d};{item:06d};Süd;{instant.strftime('%d.%m.%Y %H:%M')};"
            f"{back if item % 9 else ''}"
        )
    loans.write_text("\r\n".join(lines) + "\r\n", encoding="cp1252")
    rows = ["Mediennummer;Titel;Verfasser;Erscheinungsjahr;Bemerkung"]
    rows += [
        f'{item:06d};"Größe {item}; {_title(item)}";Müller, A.;19{item:02d};'
        for item in range(ITEMS)
    ]
    stock.write_text("\r\n".join(rows) + "\r\n", encoding="cp1252")
    return [loans, stock]


def podcast_api(folder: Path) -> list[Path]:
    """Answers of a web service, saved: an object with the rows under a key; users as objects."""
    plays, shows = folder / "listens.json", folder / "shows.json"
    plays.write_text(
        json.dumps(
            [
                {
                    "listener": {"id": user, "plan": "free"},
                    "show_id": f"show-{item}",
                    "started": instant.isoformat(),
                    "seconds": 60 + item,
                }
                for user, item, instant in _events(8)
            ],
            indent=2,
        )
    )
    shows.write_text(
        json.dumps(
            {
                "total": ITEMS,
                "next": None,
                "results": [
                    {"id": f"show-{item}", "title": _title(item), "language": "en"}
                    for item in range(ITEMS)
                ],
            }
        )
    )
    return [plays, shows]


WRITERS: tuple[Callable[[Path], list[Path]], ...] = (
    shopify,
    postgres_copy,
    matomo,
    anki,
    spark,
    mongo,
    library,
    podcast_api,
)
