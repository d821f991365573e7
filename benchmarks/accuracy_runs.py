"""Trains and evaluates all models of a bench of accuracy_runs.yaml and stores their results.

    python benchmarks/accuracy_runs.py beauty    # an hour on two cores; finished runs are kept

Configs name the data folders; if one is missing, the error says what to fetch. Two benches may run
at once: the one that stores its results second waits for the first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.accuracy import collect_runs
from benchmarks.accuracy_store import AccuracyStore
from benchmarks.controls import CONTROLS
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.experiments.runs import Arm, ArmRuns, run_arms
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig

PLAN = Path(__file__).with_suffix(".yaml")


def main(
    bench: Annotated[str, typer.Argument(help="a bench of accuracy_runs.yaml")],
    home: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/accuracy"),
    jobs: Annotated[int, typer.Option(help="processes at once")] = 2,
    only: Annotated[
        list[str] | None, typer.Option(help="train only these models and store nothing")
    ] = None,
) -> None:
    """Trains, evaluates and stores one bench."""
    try:
        run_bench(bench, home, jobs, only)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def planned(bench: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A bench of accuracy_runs.yaml, and its models by name.

    Raises:
        ConfigError: there is no such bench.
    """
    plan = load_yaml(PLAN).values
    if bench not in plan["benches"]:
        raise ConfigError(f"{PLAN}: has no bench {bench!r}: it has {', '.join(plan['benches'])}")
    chosen = plan["benches"][bench]
    return chosen, plan["models"][chosen["models"]]


def config_of(model: dict[str, Any], bench: dict[str, Any]) -> Path:
    """A planned model's config: its own if it has one, else its bench's."""
    return Path(model.get("config", bench["config"]))


def run_bench(bench: str, home: Path, jobs: int, only: list[str] | None) -> None:
    """Does what the command does.

    Raises:
        ConfigError: there is no such bench.
    """
    chosen, models = planned(bench)
    arms: dict[tuple[Path, str | None], list[Arm]] = {}
    for name, model in models.items():
        if not only or name in only:
            arm = Arm(name, model.get("variant", "recmind"), tuple(model.get("overrides", [])))
            arms.setdefault((config_of(model, chosen), model.get("control")), []).append(arm)
    finished: list[ArmRuns] = []
    for (config, control), of_config in arms.items():
        configure = _Configure(config, chosen.get("overrides", []))
        into, seeds = home / bench, chosen["seeds"]
        finished += run_arms(of_config, configure, into, seeds, jobs, _print, CONTROLS[control])
    for arm_runs in finished:
        for sentence in arm_runs.failures:
            print(f"{arm_runs.name}: left out: {sentence}")
    if not only:
        paths = [run.path for arm_runs in finished for run in arm_runs.runs]
        collect_runs(paths, bench, AccuracyStore())


class _Configure:
    """Loads a config with a bench's overrides before an arm's own."""

    def __init__(self, config: Path, common: Sequence[str]) -> None:
        self.config = config
        self.common = common

    def __call__(self, variant: str, overrides: list[str]) -> RunConfig:
        return load_run_config(self.config, [*self.common, *overrides], variant)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
