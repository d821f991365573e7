"""`recmind init`: looks at any files and writes the config of a run on them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recmind_dist.cli.app import app, say
from recmind_dist.cli.importer import MAX_BAD_ROWS

if TYPE_CHECKING:
    from recmind_dist.ingest.guess import Answers, Unclear

Column = Annotated[str | None, typer.Option(help="column of the log", show_default=False)]


@app.command()
def init(
    files: Annotated[
        list[Path],
        typer.Argument(help="a log, and files of items and users", show_default=False),
    ],
    to: Annotated[
        Path | None, typer.Option(help="directory to make [data/NAME]", show_default=False)
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="which file is the log", show_default=False)
    ] = None,
    user: Column = None,
    item: Column = None,
    time: Annotated[
        str | None, typer.Option(help="column of the log, or none", show_default=False)
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(help="of dates: %d.%m.%Y %H:%M", show_default=False)
    ] = None,
    max_bad_rows: Annotated[
        int, typer.Option(min=0, help="malformed rows that may be set aside in a conversion")
    ] = MAX_BAD_ROWS,
) -> None:
    """Guesses what files are and writes a config of at most fifteen lines, to look over and run.

    Asks where it cannot tell; without a terminal it stops with the question. A publisher's files
    are imported as by `recmind import`.
    """
    from recmind_dist.ingest.guess import Answers, Unclear, init_config

    answers = Answers(log, user, item, time, time_format)
    while True:
        try:
            config = init_config(files, to, answers, max_bad_rows, say)
            break
        except Unclear as unclear:
            if not sys.stdin.isatty():
                raise
            answers = _asked(answers, unclear)
    say(f"{config}: written; next: recmind run {config}")


def _asked(answers: "Answers", unclear: "Unclear") -> "Answers":
    """The answers with one more, of the person at the terminal."""
    say(unclear.question)
    answer = typer.prompt(f"{unclear.option} ({', '.join(unclear.choices)})")
    return replace(answers, **{unclear.option: answer.strip().strip("'")})
