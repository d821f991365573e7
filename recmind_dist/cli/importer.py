"""`recmind import`: a publisher's files → Parquet tables and a config."""

from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import app, say

MAX_BAD_ROWS = 1000


@app.command("import")
def import_(
    publisher: Annotated[
        str,
        typer.Argument(
            help="amazon2023, amazon2018, yelp, movielens, steam, goodreads, lastfm, retailrocket, "
            "hm or mind",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="its files as published, .gz and .zip too, or folders of them", show_default=False
        ),
    ],
    to: Annotated[Path, typer.Option(help="directory to make", show_default=False)],
    max_bad_rows: Annotated[
        int, typer.Option(min=0, help="malformed rows that may be set aside")
    ] = MAX_BAD_ROWS,
) -> None:
    """Turns a publisher's files into Parquet and a config that `recmind run` takes.

    Says for each file: rows in = rows kept + rows set aside, by reason and first line; all rows
    set aside are in set_aside.jsonl.
    """
    from recmind_dist.errors import DataError
    from recmind_dist.ingest.importers import IMPORTERS, import_files

    importer = IMPORTERS.get(publisher)
    if importer is None:
        raise DataError(f"{publisher}: no such importer: choose {', '.join(IMPORTERS)}")
    config = import_files(importer, files, to, max_bad_rows, say)
    say(f"{config}: written; next: recmind run {config}")
