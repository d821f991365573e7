"""`recmind audit`: gaps between groups of users and of items."""

from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Json, Run, app, aside, say, show, show_json

Columns = list[str] | None


@app.command()
def audit(
    run_dir: Run,
    against: Annotated[
        Path | None, typer.Option(help="another evaluated run on the same data", show_default=False)
    ] = None,
    users: Annotated[
        Columns,
        typer.Option(help="column of the users' file, or activity; several times; else the run's"),
    ] = None,
    items: Annotated[
        Columns,
        typer.Option(
            help="column of the items' file, or popularity; several times; else the run's"
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="rank again with penalties on popularity")
    ] = False,
    as_json: Json = False,
) -> None:
    """Who gains and who loses: gaps between groups of users, what is shown of which items. Writes
    audit.json into the run.
    """
    from recmind_dist.pipeline.audit import audit as examine
    from recmind_dist.report.audit_tables import STAR, audit_tables
    from recmind_dist.report.tables import print_rows

    found = examine(run_dir, against, users or (), items or (), curve, aside if as_json else say)
    if as_json:
        show_json(found)
        return
    for table in audit_tables(found):
        print_rows(table.title, table.headers, table.rows)
    show(STAR)
