"""Trains the runs that accuracy.py compares: every model of a bench of accuracy_runs.yaml at its seeds, then stores them.

    python benchmarks/accuracy_runs.py beauty          # an hour or so on two cores; what is done already is left alone

The data folders are named by the configs; a missing one is named with what to fetch.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script too

import typer

from benchmarks.accuracy import collect_runs
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.experiments.runs import Arm, ArmRuns, run_arms
from recmind_dist.training.run_config import RunConfig, load_run_config

PLAN = Path(__file__).with_suffix(".yaml")


def main(
    bench: Annotated[str, typer.Argument(help="a bench of accuracy_runs.yaml")],
    home: Annotated[Path, typer.Option(help="where the runs go")] = Path("runs/accuracy"),
    jobs: Annotated[int, typer.Option(help="processes at once")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="these models alone; nothing is stored")] = None,
) -> None:
    """Trains, evaluates and stores one bench."""
    try:
        run_bench(bench, home, jobs, only)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def planned(bench: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A bench of accuracy_runs.yaml and its models. Raises ConfigError for one that is not planned."""
    plan = load_yaml(PLAN).values
    if bench not in plan["benches"]:
        raise ConfigError(f"{PLAN}: has no bench {bench!r}: it has {', '.join(plan['benches'])}")
    chosen = plan["benches"][bench]
    return chosen, plan["models"][chosen["models"]]


def config_of(model: dict[str, Any], bench: dict[str, Any]) -> Path:
    """A planned model's config: its own, else its bench's."""
    return Path(model.get("config", bench["config"]))


def run_bench(bench: str, home: Path, jobs: int, only: list[str] | None) -> None:
    """What the command does. Raises ConfigError for a bench that is not planned."""
    chosen, models = planned(bench)
    common = chosen.get("overrides", [])
    arms: dict[Path, list[Arm]] = {}
    for name, told in models.items():
        if not only or name in only:
            arm = Arm(name, told.get("variant", "recmind"), tuple(told.get("overrides", [])))
            arms.setdefault(config_of(told, chosen), []).append(arm)

    def run(config: Path) -> list[ArmRuns]:
        def configure(variant: str, overrides: list[str]) -> RunConfig:
            return load_run_config(config, [*common, *overrides], variant)

        return run_arms(
            arms[config], configure, home / bench, chosen["seeds"], jobs, lambda line: print(line, flush=True)
        )

    found = [arm for config in arms for arm in run(config)]
    for arm in found:
        for sentence in arm.failures:
            print(f"{arm.name}: left out: {sentence}")
    if not only:
        collect_runs([run.path for arm in found for run in arm.runs], bench)


if __name__ == "__main__":
    typer.run(main)
