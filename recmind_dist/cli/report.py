"""`recmind report`: runs on one page."""

from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import app, say


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="run directories, which may be training", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report.html"),
    examples: Annotated[int, typer.Option(min=0, help="users to show")] = 6,
) -> None:
    """Writes one HTML file that needs no network: results, curves, gates, examples, settings; of
    several runs side by side, the first against the others.
    """
    from recmind_dist.report_page.write import write_report

    size = write_report(runs, out, examples)
    say(f"{out}: {size / 1e6:.1f} MB, {len(runs)} runs")
