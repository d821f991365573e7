"""The program and its main commands. An error for users is a sentence and an exit code."""

import errno
import json
import os
import sys
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recmind_dist.causes import telling_line
from recmind_dist.errors import RecmindError
from recmind_dist.extras import remedy_of
from recmind_dist.report.printable import print_anywhere, printable_lines
from recmind_dist.report.quiet import QUIET_VARIABLE, is_quiet

if TYPE_CHECKING:
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.run_config.run_config import RunConfig
    from recmind_dist.types import Say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains RecMind: a language model and a gated LightGCN, on one machine or a Ray cluster.",
)

# base of all errors of a command line: typer has its own copy of click, and does not export it
UsageError: Any = typer.BadParameter.__mro__[1]

Config = Annotated[Path, typer.Argument(help="YAML file; see configs/", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key.sub=value, over the file's own", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="a run directory", show_default=False)]
Resume = Annotated[
    str,
    typer.Option(
        help="auto: go on from the last checkpoint; must: fail without one; never: start over"
    ),
]
Mismatch = Annotated[
    bool,
    typer.Option("--allow-mismatch", help="go on although settings, graph or texts have changed"),
]
Json = Annotated[bool, typer.Option("--json", help="results as one JSON object")]
QUIET = "--quiet"
COMPLETION = "_RECMIND_COMPLETE"
"""Set by a shell's completion script."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"recmind-dist {version('recmind-dist')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print it"),
    ] = False,
    quiet: Annotated[
        bool, typer.Option(QUIET, help="print results and warnings alone; after a command too")
    ] = False,
) -> None:
    """Options of all commands."""
    if quiet:
        os.environ[QUIET_VARIABLE] = "1"  # for processes of experiments, too


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = "auto",
    allow_mismatch: Mismatch = False,
    as_json: Json = False,
) -> None:
    """Fetches, prepares, embeds, trains, evaluates; then the variants to compare. Skips what is
    done; a higher train.epochs trains a finished run on.
    """
    from recmind_dist.cli.results import print_gains, print_groups, print_results, results_json
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.report import RunDirectory

    _check_resume(resume)
    first = _load(config, overrides)
    others = []
    for variant in first.compare:
        words = [*(overrides or []), *first.overrides_beside(variant)]
        others.append(_load(config, words, variant))
    results: dict[str, Any] = {}
    runs: dict[str, RunDirectory] = {
        one.variant: RunDirectory(one.run_dir) for one in (first, *others)
    }
    tell = aside if as_json else say
    for one in (first, *others):
        tell(f"variant {one.variant}: in {one.run_dir}")
        results[one.variant] = Pipeline(one, tell).run(resume, allow_mismatch)
    chosen, k = first.evaluation.metric, first.evaluation.ks[0]
    if as_json:
        show_json(results_json(results, runs, chosen, k, first.evaluation.groups))
        return
    title = f"{first.dataset.name}, test split, full catalogue (cold: items of degree 3 or less)"
    print_results(results, runs, title, chosen)
    print_gains(runs, k)
    print_groups(first.evaluation.groups, runs, k)


@app.command()
def validate(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Checks a config, its variants and overrides, the first rows of its files, the language
    model's directory and this machine. Starts nothing.
    """
    checked = _load(config, overrides)
    for variant in checked.compare:
        _load(config, overrides, variant)
    from recmind_dist.pipeline.validate import validate as check

    lines: list[str] = []
    check(checked, lines.append if as_json else say)
    variant, data, run_dir = checked.variant, checked.dataset.name, checked.run_dir
    if as_json:
        found = {"config": config, "variant": variant, "dataset": data, "run_dir": run_dir}
        show_json({**found, "lines": lines})
        return
    say(f"{config}: valid: {variant} on {data}, run directory {run_dir}")


@app.command()
def fetch(
    names: Annotated[
        list[str], typer.Argument(help="ml-100k, minilm, smollm2", show_default=False)
    ],
) -> None:
    """Brings data sets to data/ and models to models/, checked against their sha256."""
    from recmind_dist.pipeline.run import fetch_asset

    for name in names:
        say(f"{name}: at {fetch_asset(name)}")


@app.command()
def synth(
    into: Annotated[Path, typer.Argument(help="directory to make", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="num_users=…, num_edges=…, seed=…", show_default=False),
    ] = None,
) -> None:
    """Makes a synthetic data set: a power-law graph with communities, and texts on them."""
    from recmind_dist.config import resolve_settings
    from recmind_dist.config.yaml import Document
    from recmind_dist.ingest.synthetic import SyntheticSettings, synthesize

    settings = resolve_settings(SyntheticSettings, Document("synth", {}), overrides)
    say(f"synthetic data: at {synthesize(settings, into)}")


@app.command()
def prepare(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Fetches, ingests, splits and partitions; prints how good the partition is."""
    found = _pipeline(config, overrides, aside if as_json else say).report_partition()
    if as_json:
        show_json(found.to_json())
        return
    show(str(found))


@app.command()
def embed(config: Config, overrides: Overrides = None) -> None:
    """Turns all texts into vectors; a second run embeds only shards whose texts have changed."""
    pipeline = _pipeline(config, overrides)
    if pipeline.embed() is None:
        say(f"variant {pipeline.config.variant} uses no text: nothing to embed")


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = "auto",
    allow_mismatch: Mismatch = False,
) -> None:
    """Trains to the end of the joint phase, from the last checkpoint. A higher train.epochs trains
    a finished run on.
    """
    _check_resume(resume)
    pipeline = _pipeline(config, overrides)
    if not pipeline.config.trains:
        say(f"variant {pipeline.config.variant} has nothing to train")
        return
    pipeline.fit(resume, allow_mismatch)
    say(f"trained: at {pipeline.config.run_dir}")


@app.command()
def evaluate(run_dir: Run, as_json: Json = False) -> None:
    """Evaluates a run's best checkpoint on the test split and writes results.json."""
    from recmind_dist.cli.results import print_results, results_json
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.report import RunDirectory

    pipeline = Pipeline.of_run(run_dir, aside if as_json else say)
    variant, settings = pipeline.config.variant, pipeline.config.evaluation
    results: dict[str, dict[str, Any]] = {variant: pipeline.evaluate()}
    runs: dict[str, RunDirectory] = {variant: pipeline.directory}
    if as_json:
        show_json(results_json(results, runs, settings.metric, settings.ks[0], settings.groups))
        return
    print_results(results, runs, pipeline.config.dataset.name, settings.metric)


@app.command()
def export(
    run_dir: Run,
    to: Annotated[Path, typer.Option(help="directory of the bundle", show_default=False)],
    text_model: Annotated[
        bool, typer.Option("--text-model", help="with the language model: texts as queries, upsert")
    ] = False,
    index: Annotated[
        Literal["hnsw", "ivf"] | None,
        typer.Option(help="with an index of nearest neighbours, as `recmind index` makes it"),
    ] = None,
) -> None:
    """Writes a bundle: all that ranks items for users, without torch, Ray or DeepSpeed."""
    from recmind_dist.cli.bundles import add_index
    from recmind_dist.pipeline.run import Pipeline

    Pipeline.of_run(run_dir, say).export(to, text_model)
    say(f"bundle: at {to}")
    if index is not None:
        add_index(to, index)


def _load(path: Path, overrides: list[str] | None, variant: str | None = None) -> "RunConfig":
    from recmind_dist.run_config.load import load_run_config

    return load_run_config(path, overrides, variant)


def _pipeline(path: Path, overrides: list[str] | None, tell: "Say | None" = None) -> "Pipeline":
    from recmind_dist.pipeline.run import Pipeline

    return Pipeline(_load(path, overrides), tell or say)


def _check_resume(resume: str) -> None:
    if resume not in ("auto", "must", "never"):
        raise RecmindError(f"--resume {resume}: choose auto, must or never")


def say(line: str) -> None:
    """Prints a line on what is done, unless --quiet is given."""
    if not is_quiet():
        show(line)


def aside(line: str) -> None:
    """As `say`, on the error stream: where the output is JSON."""
    if not is_quiet():
        print(printable_lines(line), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Prints a line of a result; control characters of quoted files are escaped."""
    print(printable_lines(line), flush=True)


def show_json(value: object) -> None:
    """Prints a result as JSON, NaN as null."""
    from recmind_dist.report.metrics_log import plain

    print(json.dumps(plain(value), allow_nan=False), flush=True)


def main(words: list[str] | None = None) -> None:
    """Entry point. Errors become one line and an exit code; RECMIND_TRACEBACK=1 shows the
    traceback.

    Args:
        words: the command line; None: from sys.argv
    """
    try:
        print_anywhere()
        given = sys.argv[1:] if words is None else words
        quiet = [QUIET] if QUIET in given else []
        app([*quiet, *(word for word in given if word != QUIET)], standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray turns both signals into SystemExit
        if COMPLETION in os.environ:  # a shell asked for words, and has them
            raise
        if _reader_left(stop):
            sys.exit(141)
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(143 if getattr(stop, "code", None) == SIGTERM else 130)
    except Exception as error:
        if os.environ.get("RECMIND_TRACEBACK"):
            raise
        sys.exit(_explain(error))


def _reader_left(stop: BaseException) -> bool:
    """Whether the reader of our output is gone (`… | head -1`), which is no interruption."""
    cause = stop.__context__
    if not isinstance(cause, OSError) or cause.errno != errno.EPIPE:
        return False
    _end_output()
    return True


def _end_output() -> None:
    """What is flushed at the end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _explain(error: Exception) -> int:
    """Prints the sentence of an error and returns the exit code; raises other errors again."""
    if isinstance(error, RecmindError):
        print(printable_lines(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    if isinstance(error, UsageError):
        error.show()
        return int(error.exit_code)
    if isinstance(error, ModuleNotFoundError) and (remedy := remedy_of(error)):
        print(f"error: {remedy}", file=sys.stderr)
        return 2
    kind = type(error)  # torch itself is not imported by commands that do not need it
    if kind.__name__ == "OutOfMemoryError" and kind.__module__.startswith("torch"):
        remedy = "wait until it is free, or hide it: CUDA_VISIBLE_DEVICES= recmind …"
        sentence = f"error: the GPU has no room ({telling_line(str(error))}): {remedy}"
        print(printable_lines(sentence), file=sys.stderr)
        return 3
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and (error.filename is not None or is_full):
        remedy = "free space or check permissions, then run again"
        sentence = f"error: {error.filename or 'the output or a file'}: {error.strerror}: {remedy}"
        if is_full:
            _end_output()
        print(printable_lines(sentence), file=sys.stderr)
        return 4
    raise error
