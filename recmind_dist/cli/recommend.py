"""`recmind recommend` and `recmind similar`: ranked items out of a bundle or a finished run."""

import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recmind_dist.cli.app import Json, app, aside, say, show, show_json
from recmind_dist.errors import DataError

if TYPE_CHECKING:
    from recmind_dist.recommend.profiles import Profiles
    from recmind_dist.recommend.recommender import Recommender
    from recmind_dist.recommend.replies import Ranking
    from recmind_dist.types import BoolArray

_ECHOED = 100  # characters of a text that heads its ranking
_LISTED = 10  # ids of users or items that are named, where there may be many

Source = Annotated[Path, typer.Argument(help="a bundle or a run directory", show_default=False)]
Where = Annotated[
    str | None,
    typer.Option(help='only items that fulfil a condition: category == "Kids" and price < 20'),
]
Items = Annotated[
    Path | None, typer.Option(help="only these items: Parquet, or text with an id a line")
]
Exclude = Annotated[Path | None, typer.Option(help="not these items: as --items")]
Count = Annotated[int, typer.Option(min=1, help="items")]
Penalty = Annotated[
    float, typer.Option(min=0.0, help="λ: above 0 popular items are shown less; docs/audit.md")
]


@app.command()
def recommend(
    source: Source,
    user: Annotated[list[str] | None, typer.Option(help="external user id; several times")] = None,
    history: Annotated[
        str | None,
        typer.Option(help="item ids, the oldest first: a,b,c; of a new user, or --user's as it is"),
    ] = None,
    text: Annotated[str | None, typer.Option(help="what to look for, in words")] = None,
    where: Where = None,
    items: Items = None,
    exclude: Exclude = None,
    seen: Annotated[
        Literal["exclude", "include"], typer.Option(help="what is done with items of the history")
    ] = "exclude",
    index: Annotated[
        bool, typer.Option("--index", help="rank by the bundle's index, which misses some items")
    ] = False,
    k: Count = 10,
    popularity_penalty: Penalty = 0.0,
    why: Annotated[bool, typer.Option("--why", help="print what each score is made of")] = False,
    as_json: Json = False,
    out: Annotated[
        Path | None, typer.Option(help="for many users: Parquet file to write, for all or --users")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="with --out: file of user ids, as --items")
    ] = None,
) -> None:
    """Prints the best items for users, for a history, or for a text; or writes those of all users
    to a file.
    """
    one = user is not None or history is not None or text is not None
    if one == (out is not None):
        raise typer.BadParameter("give --user, --history or --text, or --out for many users")
    if users is not None and out is None:
        raise typer.BadParameter("--users: give --out FILE, too")
    recommender = _load(source, popularity_penalty, index)
    allowed = recommender.allowed(where, *_item_files(recommender, items, exclude))
    if out is not None:
        _write(recommender, out, users, k, allowed, seen)
        return
    profiles, left_out = _profiles(recommender, user or [], history, text)
    rankings = recommender.rank(profiles, k, allowed, seen, left_out)
    if not profiles and left_out:
        user_id, reason = next(iter(left_out.items()))
        raise DataError(f"nobody to rank for: user {user_id!r}: {reason}")
    if as_json:
        found = [ranking.to_dict() for ranking in rankings]
        show_json({"rankings": found, "left_out": left_out})
        return
    for row in range(len(rankings)):
        _print(rankings[row] if why else rankings.plain(row), text, why)
    _list_left_out(left_out)


@app.command()
def similar(
    source: Source,
    item: Annotated[str, typer.Option(help="external item id", show_default=False)],
    where: Where = None,
    items: Items = None,
    exclude: Exclude = None,
    k: Count = 10,
    as_json: Json = False,
) -> None:
    """Prints the items nearest to an item, by the cosine of their vectors."""
    from recmind_dist.report.printable import printable

    recommender = _load(source)
    kept, left = _item_files(recommender, items, exclude)
    found = recommender.similar(item, k, where=where, items=kept, exclude=left)
    if as_json:
        show_json({"item_id": item, "similar": [vars(one) for one in found]})
        return
    show(f"near item {printable(item)}:")
    for rank, one in enumerate(found, 1):
        _print_row(rank, one.cosine, one.item_id, one.title)


def _load(source: Path, popularity_penalty: float = 0.0, index: bool = False) -> "Recommender":
    gc.disable()  # modules are no garbage: looking for it in them would delay the first answer
    try:
        import pyarrow.parquet  # noqa: F401 - which reading a bundle imports

        from recmind_dist.recommend.recommender import load
    finally:
        gc.freeze()
        gc.enable()
    make_missing_bundle(source)
    return load(source, popularity_penalty, index)


def make_missing_bundle(source: Path) -> None:
    """Of a run that was evaluated by several workers, or by none."""
    from recmind_dist.recommend.recommender import RUN_BUNDLE

    if (source / "checkpoints").is_dir() and not (source / RUN_BUNDLE).is_dir():
        from recmind_dist.pipeline.run import Pipeline

        Pipeline.of_run(source, aside).export(source / RUN_BUNDLE)


def _item_files(
    recommender: "Recommender", items: Path | None, exclude: Path | None
) -> tuple[list[str] | None, list[str] | None]:
    """Ids of both files; says which are of no item."""
    kept = None if items is None else _ids(items)
    left = None if exclude is None else _ids(exclude)
    unknown = recommender.unknown_items([*(kept or ()), *(left or ())])
    _list_left_out(dict.fromkeys(unknown, f"not in {recommender.bundle.name}"))
    return kept, left


def _profiles(
    recommender: "Recommender", users: list[str], history: str | None, text: str | None
) -> "tuple[Profiles, dict[str, str]]":
    """Whom to rank for, and who of several users is left out."""
    if history is None and text is None and len(users) > 1:
        return recommender.profiles(users)
    if len(users) > 1:
        raise typer.BadParameter("--history and --text: give at most one --user")
    words = None if history is None else [w.strip() for w in history.split(",") if w.strip()]
    return recommender.profile(users[0] if users else None, words, text), {}


def _write(
    recommender: "Recommender",
    out: Path,
    users: Path | None,
    k: int,
    allowed: "BoolArray | None",
    seen: Literal["exclude", "include"],
) -> None:
    from recmind_dist.recommend.batch import write_recommendations

    ids = None if users is None else _ids(users)
    written = write_recommendations(recommender, out, k, ids, allowed, seen)
    _list_left_out(written.left_out)
    say(f"{out}: {written.num_rows} recommendations for {written.num_users} users")


def _ids(path: Path) -> list[str]:
    from recmind_dist.recommend.id_files import read_ids

    return list(read_ids(path))


def _list_left_out(left_out: Mapping[str, str]) -> None:
    """Names the first few of each reason, on the error stream."""
    from recmind_dist.report.printable import printable

    for reason in dict.fromkeys(left_out.values()):
        ids = [printable(one) for one, why in left_out.items() if why == reason]
        more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
        print(f"left out, {reason}: {', '.join(ids[:_LISTED])}{more}", file=sys.stderr)


def _print(ranking: "Ranking", text: str | None, why: bool) -> None:
    from recmind_dist.report.printable import printable

    whom = "a new user" if ranking.user_id is None else f"user {printable(ranking.user_id)}"
    if text is not None:
        whom = repr(printable(text if len(text) <= _ECHOED else f"{text[:_ECHOED]}…"))
    show(f"for {whom}:")
    if why and ranking.gates:
        show(f"     weights: {_numbers(ranking.gates)}")
    if not len(ranking):
        print("no item is left: ask for less by --where, --items or --exclude", file=sys.stderr)
    for rank, item in enumerate(ranking, 1):
        _print_row(rank, item.score, item.item_id, item.title)
        if why:
            near = "; ".join(printable(one.title or one.item_id) for one in item.nearest)
            show(f"     {_numbers(item.shares)}{'; near ' if near else ''}{near}")


def _print_row(rank: int, score: float, item_id: str, title: str) -> None:
    from recmind_dist.report.printable import printable

    show(f"{rank:3d}  {score:9.4f}  {printable(item_id):>10}  {printable(title)}")


def _numbers(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
