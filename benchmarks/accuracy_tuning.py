"""Gives every contender of accuracy_runs.py the same search: as many trials, the same space, the same draws, on validation.

    python benchmarks/accuracy_tuning.py beauty          # results/accuracy/tuning/beauty-MODEL.md, one a model

The draws of a search depend on its seed and the trial's number alone until trial 8, so with as few trials all models are
tried at the same places. What is best goes into accuracy_runs.yaml and the configs by hand.
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script too

import typer

from benchmarks.accuracy import STORE
from benchmarks.accuracy_runs import PLAN
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.experiments.tuning import tune

TRIALS = 6
CONTENDERS = ("lightgcn_text", "lightgcn", "xsimgcl", "alpharec", "recmind_two_views")


def main(
    bench: Annotated[str, typer.Argument(help="a bench of accuracy_runs.yaml")],
    home: Annotated[Path, typer.Option(help="where the searches go")] = Path("runs/tuning"),
    only: Annotated[list[str] | None, typer.Option(help="these models alone")] = None,
) -> None:
    """Searches for one bench; a search that is done is left alone."""
    try:
        for model in only or CONTENDERS:
            tune_model(bench, model, home)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def tune_model(bench: str, model: str, home: Path) -> None:
    """One model's search. Raises ConfigError for a bench or model that is not planned."""
    plan = load_yaml(PLAN).values
    if bench not in plan["benches"]:
        raise ConfigError(f"{PLAN}: has no bench {bench!r}: it has {', '.join(plan['benches'])}")
    chosen = plan["benches"][bench]
    models = plan["models"][chosen["models"]]
    if model not in models:
        raise ConfigError(f"{PLAN}: {bench} has no model {model!r}: it has {', '.join(models)}")
    told = models[model]
    words = [*chosen.get("overrides", []), *told.get("overrides", []), *plan["tuning"]["overrides"]]
    words += [f"variant={told.get('variant', 'recmind')}", f"run_dir={home / bench / model}"]
    space = Path(plan["tuning"]["space"])
    tune(Path(chosen["config"]), words, TRIALS, 0, space, lambda line: print(f"{model}: {line}", flush=True))
    page = STORE / "tuning" / f"{bench}-{model}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text((home / bench / model / "trials.md").read_text())


if __name__ == "__main__":
    typer.run(main)
