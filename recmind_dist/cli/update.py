"""`recmind update`: a finished run learns on."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Json, Run, app, aside, say, show_json


@app.command()
def update(
    run_dir: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(help="new logs, laid out as RUN's; and key.sub=value", show_default=False),
    ] = None,
    items: Annotated[
        list[Path] | None, typer.Option(help="a file with the texts of new items; may be repeated")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="the run to make")] = None,
    evaluate: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="share of the new log, the newest, to test on"),
    ] = 0.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="train from nothing too, and say what that gives")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learns new interactions and items: a run that begins from RUN's rows by id, then some epochs
    over the old log and the new one. Without --to, train.epochs=N trains RUN itself on to N epochs.
    """
    from recmind_dist.errors import ConfigError
    from recmind_dist.pipeline.update import train_longer, update_run

    overrides = [word for word in words or [] if "=" in word and not Path(word).exists()]
    logs = [Path(word) for word in words or [] if word not in overrides]
    tell = aside if as_json else say
    if to is None:
        if logs or items or not overrides:
            raise ConfigError(
                f"{run_dir}: stays as it is: name the run to make by --to, or give train.epochs "
                "alone to train on"
            )
        results = train_longer(run_dir, overrides, tell)
        tell(f"trained on: at {run_dir}")
        if as_json:
            show_json({results["variant"]: results})
        return
    report = update_run(
        run_dir, to, logs, items or [], overrides, test_share=evaluate, compare=compare, say=tell
    )
    tell(f"updated: at {to}")
    if as_json:
        show_json(asdict(report))
