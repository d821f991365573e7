"""Small data sets in the exact formats of their publishers, as `recmind import` takes them.

Every writer makes 12 users with 5 interactions each on 8 items, and the items' texts. Users and
items are numbers 0..11 and 0..7; user u meets item (u + 3 k) % 8 at instant START + 3600 (5 u + k).
"""

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

USERS, ITEMS, EACH = 12, 8, 5
START = 1_500_000_000
ROWS = USERS * EACH
NAMES = (
    *("Amber Lamp", "Blue Kettle & Cup", "Copper “Pan”", "Dark Roast"),
    *("Élan Chair", "Fir Table, small", "Glass Bowl", "Hand Towel"),
)


def meetings() -> Iterator[tuple[int, int, int]]:
    """(user, item, seconds) of the log, user by user."""
    for user in range(USERS):
        for k in range(EACH):
            yield user, (user + 3 * k) % ITEMS, START + 3600 * (EACH * user + k)


def at(seconds: int, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def rating(user: int, item: int) -> int:
    return 1 + (user * 7 + item) % 5


def write_lines(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    data = "".join(line + "\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def amazon_user(user: int) -> str:
    return f"AE{user:02d}KZOPQRSTUVWXYZABCDEFGHIJ"


def amazon2023(home: Path) -> list[Path]:
    """Reviews and metadata as in raw/review_categories and raw/meta_categories."""
    reviews = [
        json.dumps(
            {
                "rating": float(rating(user, item)),
                "title": "Such a “lovely” one!",
                "text": 'This is fine.<br />\nIt has "quotes" \U0001f600',
                "images": [{"small_image_url": "https://m.media.example/1.jpg"}],
                "asin": f"B00V{user:02d}{item}",  # a variant, which is no item
                "parent_asin": f"B000{item}",
                "user_id": amazon_user(user),
                "timestamp": seconds * 1000 + 123,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
        )
        for user, item, seconds in meetings()
    ]
    meta = [
        json.dumps(
            {
                "main_category": "All Beauty",
                "title": name.replace("&", "&amp;"),
                "average_rating": 4.8,
                "rating_number": 10,
                "features": ["Soft", "Bright"],
                "description": [],
                "price": None,
                "images": [],
                "videos": [],
                "store": "Acme",
                "categories": ["Home", "Things"],
                "details": {"Brand": "Acme", "Best Sellers Rank": {"Beauty": 3}},
                "parent_asin": f"B000{item}",
                "bought_together": None,
            }
        )
        for item, name in enumerate(NAMES)
    ]
    return [
        write_lines(home / "All_Beauty.jsonl.gz", reviews),
        write_lines(home / "meta_All_Beauty.jsonl.gz", meta),
    ]


def amazon2018(home: Path) -> list[Path]:
    """All_Beauty_5.json.gz and meta_All_Beauty.json.gz; ids start with zeros."""
    reviews = [
        json.dumps(
            {
                "overall": float(rating(user, item)),
                "vote": "2",
                "verified": True,
                "reviewTime": at(seconds, "%m %d, %Y"),
                "reviewerID": f"A{user:02d}B6TNIC10QE",
                "asin": f"000000000{item}",
                "style": {"Size:": " 7.0 oz"},
                "reviewerName": "theodore j bigham",
                "reviewText": "great",
                "summary": "Five Stars",
                "unixReviewTime": seconds,
            }
        )
        for user, item, seconds in meetings()
    ]
    meta = [
        json.dumps(
            {
                "category": ["Home", "Things &amp; More"],
                "tech1": "",
                "description": ["Good."],
                "title": name,
                "also_buy": [],
                "brand": "Acme",
                "feature": [],
                "rank": "2,938,573 in Beauty",
                "main_cat": "All Beauty",
                "price": "$12.00",
                "asin": f"000000000{item}",
                "imageURL": [],
            }
        )
        for item, name in enumerate(NAMES)
    ]
    return [
        write_lines(home / "All_Beauty_5.json.gz", reviews),
        write_lines(home / "meta_All_Beauty.json.gz", meta),
    ]


def yelp(home: Path) -> list[Path]:
    """Reviews, businesses, users and tips of the academic data set."""
    reviews = [
        json.dumps(
            {
                "review_id": f"r{user}-{item}",
                "user_id": f"u_{user}",
                "business_id": f"b-{item}",
                "stars": float(rating(user, item)),
                "useful": 0,
                "funny": 0,
                "cool": 0,
                "text": "Fine.\n\nWould come again.",
                "date": at(seconds, "%Y-%m-%d %H:%M:%S"),
            }
        )
        for user, item, seconds in meetings()
    ]
    businesses = [
        json.dumps(
            {
                "business_id": f"b-{item}",
                "name": name,
                "address": "1 Main St",
                "city": "Tucson",
                "state": "AZ",
                "postal_code": "85711",
                "latitude": 32.2,
                "longitude": -110.8,
                "stars": 4.0,
                "review_count": 5,
                "is_open": 1,
                "attributes": {"WiFi": "u'free'"},
                "categories": "Shopping, Home" if item else None,
                "hours": None,
            }
        )
        for item, name in enumerate(NAMES)
    ]
    users = [
        json.dumps(
            {
                "user_id": f"u_{user}",
                "name": "Sam",
                "review_count": 5,
                "yelping_since": "2007-01-25 16:47:26",
                "useful": 1,
                "elite": "2007",
                "friends": "NSCy54eWehBJyZdG2iE84w, pe42u7DcCH2QmI81NX-8qA",
                "fans": 2,
                "average_stars": 3.9,
            }
        )
        for user in range(USERS)
    ]
    tip = {"user_id": "u_1", "business_id": "b-1", "text": "Go.", "date": "2012-05-18 02:17:21"}
    return [
        write_lines(home / "yelp_academic_dataset_review.json", reviews),
        write_lines(home / "yelp_academic_dataset_business.json", businesses),
        write_lines(home / "yelp_academic_dataset_user.json", users),
        write_lines(
            home / "yelp_academic_dataset_tip.json", [json.dumps(tip | {"compliment_count": 0})]
        ),
    ]


def movielens(home: Path) -> list[Path]:
    """1M: `::`, no header, films in Latin-1."""
    ratings = [f"{u + 1}::{i + 1}::{rating(u, i)}::{s}" for u, i, s in meetings()]
    films = [
        f"{item + 1}::{_latin(name)} (1995)::Animation|Children's|Comedy"
        for item, name in enumerate(NAMES)
    ]
    people = [f"{user + 1}::F::25::10::48067" for user in range(USERS)]
    return [
        write_lines(home / "ratings.dat", ratings),
        write_lines(home / "movies.dat", films, "latin-1"),
        write_lines(home / "users.dat", people),
    ]


def movielens_csv(home: Path) -> list[Path]:
    """25M in the publisher's zip."""
    ratings = [f"{u + 1},{i + 1},{rating(u, i)}.0,{s}" for u, i, s in meetings()]
    films = [
        f'{item + 1},"{name} (1995)",{"Comedy|Drama" if item else "(no genres listed)"}'
        for item, name in enumerate(NAMES)
    ]
    path = home / "ml-25m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in (
            ("ratings.csv", ["userId,movieId,rating,timestamp", *ratings]),
            ("movies.csv", ["movieId,title,genres", *films]),
            ("links.csv", ["movieId,imdbId,tmdbId", "1,0114709,862"]),
            ("README.txt", ["Summary", "======="]),
        ):
            archive.writestr(f"ml-25m/{name}", "".join(line + "\r\n" for line in lines))
    return [path]


def movielens_100k(home: Path) -> list[Path]:
    """100K: u.data, u.item (Latin-1, flags of genres), u.user."""
    ratings = [f"{u + 1}\t{i + 1}\t{rating(u, i)}\t{s}" for u, i, s in meetings()]
    flags = "|".join("1" if k in (3, 5) else "0" for k in range(19))
    films = [
        f"{item + 1}|{_latin(name)} (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?x|{flags}"
        for item, name in enumerate(NAMES)
    ]
    people = [f"{user + 1}|24|M|technician|85711" for user in range(USERS)]
    return [
        write_lines(home / "u.data", ratings),
        write_lines(home / "u.item", films, "latin-1"),
        write_lines(home / "u.user", people),
    ]


def _latin(name: str) -> str:
    return name.replace("“", "").replace("”", "")


def python2(record: dict[str, object]) -> str:
    """A dict as Python 2 prints it."""
    parts = []
    for key, value in record.items():
        words = [f"u{one!r}" for one in value] if isinstance(value, list) else []
        text = f"[{', '.join(words)}]" if isinstance(value, list) else repr(value)
        parts.append(f"u'{key}': {'u' if isinstance(value, str) else ''}{text}")
    return "{" + ", ".join(parts) + "}"


def steam(home: Path) -> list[Path]:
    """steam_reviews and steam_games: Python dicts."""
    reviews = [
        python2(
            {
                "username": f"It's Sam {user}",
                "hours": 0.1 + item,
                "products": 41,
                "product_id": f"7252{item}",
                "page_order": 0,
                "date": at(seconds, "%Y-%m-%d"),
                "text": 'He said "it\'s fun" \u2665',
                "early_access": False,
                "page": 1,
            }
        )
        for user, item, seconds in meetings()
    ]
    games = [
        python2(
            {
                "publisher": "Kotoshiro",
                "genres": ["Action", "Indie"],
                "app_name": name,
                "title": name,
                "tags": ["Strategy", "Action"],
                "discount_price": 4.49,
                "specs": ["Single-player"],
                "price": 4.99,
                "early_access": False,
                "id": f"7252{item}",
                "developer": "Kotoshiro",
            }
        )
        for item, name in enumerate(NAMES)
    ]
    return [
        write_lines(home / "steam_reviews.json.gz", reviews),
        write_lines(home / "steam_games.json.gz", games),
    ]


def steam_australia(home: Path) -> list[Path]:
    """australian_users_items: a user a line, without times; the last one has no item."""
    lines = []
    for user in range(USERS):
        items = [
            {
                "item_id": str(10 * item),
                "item_name": NAMES[item],
                "playtime_forever": 6,
                "playtime_2weeks": 0,
            }
            for who, item, _ in meetings()
            if who == user
        ]
        lines.append(repr({"user_id": f"765{user}", "items_count": len(items), "items": items}))
    lines.append(repr({"user_id": "765x", "items_count": 0, "items": []}))
    return [write_lines(home / "australian_users_items.json.gz", lines)]


def goodreads(home: Path) -> list[Path]:
    """goodreads_interactions and goodreads_books."""
    shelves = [
        json.dumps(
            {
                "user_id": f"8842281e1d1347389f2ab93d60773d{user:02d}",
                "book_id": str(130580 + item),
                "review_id": "330f9c153c8d3347eb914c06b89c94da",
                "is_read": True,
                "rating": rating(user, item),
                "review_text_incomplete": "",
                "date_added": at(seconds - 7 * 3600, "%a %b %d %H:%M:%S -0700 %Y"),
                "date_updated": "Mon Aug 01 13:41:57 -0700 2011",
                "read_at": "Fri Oct 01 00:00:00 -0700 2010",
                "started_at": "",
            }
        )
        for user, item, seconds in meetings()
    ]
    books = [
        json.dumps(
            {
                "isbn": "0312853122",
                "text_reviews_count": "1",
                "series": [],
                "country_code": "US",
                "popular_shelves": [{"count": "3", "name": "to-read"}],
                "description": "A book.",
                "authors": [{"author_id": "604031", "role": ""}],
                "publisher": "St. Martin's Press",
                "num_pages": "256",
                "publication_year": "1984",
                "format": "Paperback",
                "book_id": str(130580 + item),
                "work_id": "5400751",
                "title": name,
                "title_without_series": name,
            }
        )
        for item, name in enumerate(NAMES)
    ]
    return [
        write_lines(home / "goodreads_interactions_dedup.json.gz", shelves),
        write_lines(home / "goodreads_books.json.gz", books),
    ]


def goodreads_csv(home: Path) -> list[Path]:
    """The summary: books are numbered, book_id_map.csv has their ids."""
    rows = [f"{u},{i},1,{rating(u, i)},0" for u, i, _ in meetings()]
    numbers = [f"{item},{130580 + item}" for item in range(ITEMS)]
    return [
        write_lines(
            home / "goodreads_interactions.csv",
            ["user_id,book_id,is_read,rating,is_reviewed", *rows],
        ),
        write_lines(home / "book_id_map.csv", ["book_id_csv,book_id", *numbers]),
        goodreads(home)[1],
    ]


MBID = "3bd73256-3905-4f3a-97e2-8b341527f80"


def lastfm(home: Path) -> list[Path]:
    """360K; the artist of item 0 has no MusicBrainz id."""
    rows = [
        f"{user:040x}\t{f'{MBID}{item}' if item else ''}\t{NAMES[item].lower()}\t{10 + item}"
        for user, item, _ in meetings()
    ]
    people = [
        f"{user:040x}\tf\t{'22' if user else ''}\tGermany\tFeb 1, 2007" for user in range(USERS)
    ]
    return [
        write_lines(home / "usersha1-artmbid-artname-plays.tsv", rows),
        write_lines(home / "usersha1-profile.tsv", people),
    ]


def lastfm_1k(home: Path) -> list[Path]:
    """1K: plays with times."""
    rows = [
        f"user_{user:06d}\t{at(seconds, '%Y-%m-%dT%H:%M:%SZ')}\t{MBID}{item}\t{NAMES[item]}\t\tSong"
        for user, item, seconds in meetings()
    ]
    people = [f"user_{user:06d}\tm\t\tJapan\tAug 13, 2006" for user in range(USERS)]
    return [
        write_lines(home / "userid-timestamp-artid-artname-traid-traname.tsv", rows),
        write_lines(
            home / "userid-profile.tsv", ["#id\tgender\tage\tcountry\tregistered", *people]
        ),
    ]


def lastfm_2k(home: Path) -> list[Path]:
    """HetRec 2011."""
    rows = [f"{user + 2}\t{item + 51}\t{100 + item}" for user, item, _ in meetings()]
    artists = [f"{item + 51}\t{name}\thttp://x\thttp://y" for item, name in enumerate(NAMES)]
    return [
        write_lines(home / "user_artists.dat", ["userID\tartistID\tweight", *rows]),
        write_lines(home / "artists.dat", ["id\tname\turl\tpictureURL", *artists]),
    ]


def retailrocket(home: Path) -> list[Path]:
    """events.csv, item properties and category tree."""
    rows = [
        f"{seconds * 1000 + 7},{257597 + user},{'view' if item else 'transaction'},{355900 + item},"
        f"{'' if item else 12}"
        for user, item, seconds in meetings()
    ]
    properties = [f"1435460400000,{355900 + i},categoryid,1338" for i in range(ITEMS)]
    return [
        write_lines(home / "events.csv", ["timestamp,visitorid,event,itemid,transactionid", *rows]),
        write_lines(
            home / "item_properties_part1.csv", ["timestamp,itemid,property,value", *properties]
        ),
        write_lines(home / "category_tree.csv", ["categoryid,parentid", "1016,213", "809,"]),
    ]


ARTICLE = (
    *("article_id", "product_code", "prod_name", "product_type_no", "product_type_name"),
    *("product_group_name", "graphical_appearance_no", "graphical_appearance_name"),
    *("colour_group_code", "colour_group_name", "perceived_colour_value_id"),
    *("perceived_colour_value_name", "perceived_colour_master_id", "perceived_colour_master_name"),
    *("department_no", "department_name", "index_code", "index_name", "index_group_no"),
    *("index_group_name", "section_no", "section_name", "garment_group_no", "garment_group_name"),
    "detail_desc",
)


def hm(home: Path) -> list[Path]:
    """transactions_train.csv, articles.csv, customers.csv; article ids start with a zero."""
    rows = [
        f"{at(START + 86400 * k, '%Y-%m-%d')},{user:064x},066371300{item},0.0508305,2"
        for k, (user, item, _) in enumerate(meetings())
    ]
    articles = [
        ",".join(
            f"066371300{item}"
            if column == "article_id"
            else f'"{name.replace("“", "").replace("”", "")}"'
            if column == "prod_name"
            else '"Soft, ""warm"" jersey."'
            if column == "detail_desc"
            else "253"
            if column.endswith(("_no", "_id"))
            else "Vest"
            for column in ARTICLE
        )
        for item, name in enumerate(NAMES)
    ]
    people = [f"{user:064x},,,ACTIVE,NONE,49.0,52043ee2162c" for user in range(USERS)]
    header = "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code"
    return [
        write_lines(
            home / "transactions_train.csv",
            ["t_dat,customer_id,article_id,price,sales_channel_id", *rows],
        ),
        write_lines(home / "articles.csv", [",".join(ARTICLE), *articles]),
        write_lines(home / "customers.csv", [header, *people]),
    ]


def mind(home: Path) -> list[Path]:
    """behaviors.tsv and news.tsv: the first two meetings of a user are the history, the others
    clicks beside an item that was only shown; one more impression has no click.
    """
    lines = []
    by_user = {u: [m for m in meetings() if m[0] == u] for u in range(USERS)}
    for user, met in by_user.items():
        history = " ".join(f"N{item}" for _, item, _ in met[:2])
        for _, item, seconds in met[2:]:
            time = at(seconds, "%m/%d/%Y %I:%M:%S %p").lstrip("0")
            lines.append(f"U{user}\t{time}\t{history}\tN{(item + 1) % 8}-0 N{item}-1")
    lines.append("U0\t12/1/2018 9:05:58 AM\t\tN1-0 N2-0")
    numbered = [f"{k}\t{line}" for k, line in enumerate(lines, 1)]
    news = [
        f'N{item}\tlifestyle\tlife "royals"\t{name}\tShort text.\thttps://x\t[]\t[]'
        for item, name in enumerate(NAMES)
    ]
    return [
        write_lines(home / "behaviors.tsv", numbered),
        write_lines(home / "news.tsv", news),
    ]


PUBLISHERS: dict[str, tuple[str, Callable[[Path], list[Path]]]] = {
    "amazon2023": ("amazon2023", amazon2023),
    "amazon2018": ("amazon2018", amazon2018),
    "yelp": ("yelp", yelp),
    "movielens": ("movielens", movielens),
    "movielens-csv": ("movielens", movielens_csv),
    "movielens-100k": ("movielens", movielens_100k),
    "steam": ("steam", steam),
    "steam-australia": ("steam", steam_australia),
    "goodreads": ("goodreads", goodreads),
    "goodreads-csv": ("goodreads", goodreads_csv),
    "lastfm": ("lastfm", lastfm),
    "lastfm-1k": ("lastfm", lastfm_1k),
    "lastfm-2k": ("lastfm", lastfm_2k),
    "retailrocket": ("retailrocket", retailrocket),
    "hm": ("hm", hm),
    "mind": ("mind", mind),
}
