"""`recmind upsert` and `recmind index`: a bundle that is there already is extended."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Json, app, say, show, show_json

BundlePath = Annotated[Path, typer.Argument(help="a bundle", show_default=False)]


@app.command()
def upsert(
    bundle: BundlePath,
    items: Annotated[
        Path, typer.Argument(help="items, as the run's item file", show_default=False)
    ],
    interactions: Annotated[
        Path | None, typer.Option(help="a log, as the run's: who has met the items already")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="the new bundle; by default in place")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="make items anew that the bundle has already")
    ] = False,
    as_json: Json = False,
) -> None:
    """Adds items to a bundle without training: vectors from their texts and known users."""
    from recmind_dist.recommend.bundle import Bundle
    from recmind_dist.recommend.upsert import upsert as add

    done = add(Bundle.open(bundle), items, interactions, to, replace)
    if as_json:
        show_json({"bundle": to or bundle, **asdict(done)})
        return
    say(
        f"{to or bundle}: {done.added} items added, {done.replaced} replaced, with "
        f"{done.interactions} interactions"
    )
    if done.left_out:
        show(f"{interactions}: {done.left_out} rows of other items or unknown users left out")
    if done.unknown_fields:
        show(f"{items}: fields that the bundle has no column for: {', '.join(done.unknown_fields)}")


@app.command()
def index(
    bundle: BundlePath,
    kind: Annotated[str, typer.Option(help="hnsw or ivf")] = "hnsw",
    k: Annotated[int, typer.Option(min=1, help="items of a ranking that is compared")] = 20,
    min_recall: Annotated[
        float, typer.Option(min=0, max=1, help="of the exact rankings; less is refused")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """Adds an index of nearest neighbours to a bundle, and says what it finds."""
    add_index(bundle, kind, k, min_recall, as_json)


def add_index(
    bundle: Path, kind: str, k: int = 20, min_recall: float = 0.95, as_json: bool = False
) -> None:
    """See `recommend.nearest.build_index`."""
    from recmind_dist.recommend.bundle import Bundle
    from recmind_dist.recommend.nearest import build_index

    opened = Bundle.open(bundle)
    recall = build_index(opened, kind, k, min_recall)
    items = min(k, opened.num_items)
    if as_json:
        show_json({"bundle": bundle, "kind": kind, "k": items, "recall": recall})
        return
    show(f"{bundle}: {kind} finds {recall:.4f} of the exact {items} best items")
