"""`recmind cache`: what text vectors a cache holds; which of them go is said by name."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import app, say

cache = typer.Typer(
    no_args_is_help=True, help="Lists the text vectors of a cache, and removes those that you name."
)
app.add_typer(cache, name="cache")


@cache.command("list")
def list_(
    cache_dir: Annotated[Path, typer.Argument(help="a run's cache_dir")] = Path("cache"),
) -> None:
    """Lists the text stores of a cache, newest first: rows, finished shards, size, when last
    written.
    """
    from recmind_dist.text.cache import list_stores

    found = list_stores(cache_dir)
    for one in found:
        day = datetime.fromtimestamp(one.written).isoformat(" ", "minutes")
        shards = one.fault or f"{one.num_rows} rows, {one.num_done} of {one.num_shards} shards"
        say(f"{one.path}  {shards}, {one.num_bytes / 1e6:.1f} MB, {day}")
    say(
        f"{cache_dir}: {len(found)} text stores, {sum(one.num_bytes for one in found) / 1e6:.1f} MB"
    )


@cache.command()
def clean(
    stores: Annotated[list[Path], typer.Argument(help="text stores to remove", show_default=False)],
) -> None:
    """Removes the text stores that you name. A run that needs one cannot go on or be evaluated
    before it embeds again.

    The inputs.json of a run names its store.
    """
    from recmind_dist.text.cache import remove_store

    for path in stores:
        remove_store(path)
        say(f"{path}: removed")
