"""`recmind tune`: a search for settings on validation."""

from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Config, Json, Overrides, app, aside, say, show, show_json
from recmind_dist.report.quiet import is_quiet


@app.command()
def tune(
    config: Config,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="in all, with trials of earlier calls")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="of the search and of all training")] = 0,
    space: Annotated[
        Path | None, typer.Option(help="what to vary; else spaces/<variant>.yaml beside CONFIG")
    ] = None,
    as_json: Json = False,
) -> None:
    """Searches for the settings that validate best; writes trials.jsonl, trials.md, best.yaml to
    run_dir.

    The same command goes on after a stop. `recmind run <run_dir>/best.yaml` uses the outcome.
    """
    from recmind_dist.experiments.tuning import tune as search

    found = search(config, overrides or [], trials, seed, space, aside if as_json else say)
    if as_json:
        show_json(found.to_json())
    elif is_quiet():
        show(str(found.path))
