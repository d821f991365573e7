"""`recmind cache`: lists the text stores of a cache, and removes those that are named."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Json, app, say, show, show_json

cache = typer.Typer(
    no_args_is_help=True, help="Lists the text vectors of a cache, and removes those that you name."
)
app.add_typer(cache, name="cache")


@cache.command("list")
def list_(
    cache_dir: Annotated[Path, typer.Argument(help="a run's cache_dir")] = Path("cache"),
    as_json: Json = False,
) -> None:
    """Lists the text stores of a cache, newest first: rows, finished shards, size, last write."""
    from recmind_dist.text.cache import list_stores

    stores = list_stores(cache_dir)
    if as_json:
        show_json([vars(store) for store in stores])
        return
    for store in stores:
        day = datetime.fromtimestamp(store.written).isoformat(" ", "minutes")
        shards = f"{store.num_rows} rows, {store.num_done} of {store.num_shards} shards"
        show(f"{store.path}  {store.fault or shards}, {store.num_bytes / 1e6:.1f} MB, {day}")
    total = sum(store.num_bytes for store in stores)
    show(f"{cache_dir}: {len(stores)} text stores, {total / 1e6:.1f} MB")


@cache.command()
def clean(
    stores: Annotated[list[Path], typer.Argument(help="text stores to remove", show_default=False)],
) -> None:
    """Removes text stores. A run cannot go on or be evaluated without its store before it embeds
    again.

    The inputs.json of a run names its store.
    """
    from recmind_dist.text.cache import remove_store

    for path in stores:
        remove_store(path)
        say(f"{path}: removed")
