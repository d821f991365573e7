"""ML-100k from the publisher's zip or from the recbole wheel → the same files, byte for byte."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from recmind_dist.errors import DataError

# in the order of the flags in u.item, which is also the order in which recbole lists them
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
YEAR = re.compile(r"\((\d{4})\)")
MISSPELT = "unkonwn"  # recbole's title and year of film 267, which has neither

Item = tuple[str, str, list[str]]  # id, title, genres


def from_publisher(files: dict[str, bytes], into: Path) -> None:
    """Converts u.data (tabs), u.item and u.user (bars, Latin-1)."""
    items = map(_published_item, _lines(files["u.item"], "latin-1", "|", "u.item"))
    users = _lines(files["u.user"], "latin-1", "|", "u.user")
    _write(into, _lines(files["u.data"], "ascii", "\t", "u.data"), items, users)


def from_recbole(files: dict[str, bytes], into: Path) -> None:
    """Converts ml-100k.inter, ml-100k.item and ml-100k.user (tabs, typed header)."""
    ratings, items, users = (
        _lines(files[name], "utf-8", "\t", name)
        for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
    )
    for lines in (ratings, items, users):
        next(lines)
    _write(into, ratings, map(_recbole_item, items), users)


CONVERT: dict[str, Callable[[dict[str, bytes], Path], None]] = {
    "publisher": from_publisher,
    "recbole": from_recbole,
}


def _lines(data: bytes, encoding: str, separator: str, name: str) -> Iterator[list[str]]:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: byte {error.start} is not {encoding}: not the published file"
        ) from error
    return (line.rstrip("\r").split(separator) for line in text.split("\n") if line.strip())


def _published_item(fields: list[str]) -> Item:
    flags = zip(GENRES, fields[-len(GENRES) :], strict=True)
    return fields[0], fields[1], [genre for genre, flag in flags if flag == "1"]


def _recbole_item(fields: list[str]) -> Item:
    identity, title, year, genres = fields
    # recbole moved the last brackets of the title, "(V)" in one case, to the year
    whole = "unknown" if title == MISSPELT else f"{title} ({year})"
    return identity, whole, genres.split()


def _write(
    into: Path, ratings: Iterator[list[str]], items: Iterator[Item], users: Iterator[list[str]]
) -> None:
    """Writes interactions.tsv, items.jsonl and users.jsonl."""
    rows = ["user\titem\trating\ttimestamp", *("\t".join(fields) for fields in ratings)]
    (into / "interactions.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    films = [
        {
            "id": identity,
            "title": " ".join(title.split()),
            "year": (YEAR.findall(title) or [None])[-1],
            "genres": genres,
        }
        for identity, title, genres in items
    ]
    names = ("id", "age", "gender", "occupation")
    people = [dict(zip(names, fields[:4], strict=True)) for fields in users]
    for name, records in (("items.jsonl", films), ("users.jsonl", people)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (into / name).write_text(text, encoding="utf-8", newline="\n")
