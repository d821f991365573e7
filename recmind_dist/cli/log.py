"""`recmind log`: a run's metrics in the tool that others look at."""

from typing import Annotated

import typer

from recmind_dist.cli.app import Run, app, say


@app.command()
def log(
    run_dir: Run,
    to: Annotated[
        str, typer.Option(help="tensorboard, mlflow, wandb or trackio", show_default=False)
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="go on until the run is evaluated, or Ctrl-C")
    ] = False,
) -> None:
    """Sends metrics.jsonl and the test results on, once or while the run trains."""
    from recmind_dist.report import RunDirectory
    from recmind_dist.report.log_sinks import open_sink, send_log
    from recmind_dist.run_config.load import config_of_run

    run = RunDirectory(run_dir)
    config = config_of_run(run.config)
    sink = open_sink(to, run, config.dataset.name, config.model_dump(mode="json"))
    try:
        sent = send_log(run, sink, follow)
    finally:
        sink.close()
    say(f"{run_dir}: {sent} records sent to {to}")
