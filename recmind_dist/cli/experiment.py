"""`recmind experiment`: the paper's experiments, each with a table and a figure."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from recmind_dist.cli.app import Config, Json, Overrides, app, aside, say, show, show_json

Name = Annotated[
    Literal["warmup", "gating", "probe", "ablation", "priors", "gate", "transfer", "texts"],
    typer.Argument(show_default=False),
]


@app.command()
def experiment(
    name: Name,
    config: Config,
    overrides: Overrides = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="runs of each model; below 3 nothing is called significant")
    ] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="runs at once, each a process")] = 2,
    as_json: Json = False,
    source: Annotated[
        Path | None, typer.Option(help="transfer: the finished run of another data set")
    ] = None,
    encoder: Annotated[
        list[Path] | None,
        typer.Option(help="priors: a language model's directory, beside the config's own"),
    ] = None,
) -> None:
    """Tests what the paper claims or leaves open; writes table.md, table.json, figure.png to
    <run_dir>/experiment-NAME.

    The language model stays frozen unless text.lora is given as an override.
    """
    from recmind_dist.experiments.study import run_experiment

    tell, beside = aside if as_json else say, (source, tuple(encoder or ()))
    found = run_experiment(name, config, overrides or [], seeds, jobs, tell, *beside)
    if as_json:
        show_json(found.to_json())
        return
    for table in found.tables[:2]:
        show(f"\n{table.markdown()}".rstrip("\n"))
    follows = f"\nWhat follows: {found.follows}" if found.follows else ""
    show(f"\nThe paper expects: {found.claim}\nSeen: {found.answer}{follows}")
