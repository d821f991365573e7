"""Gives every contender of accuracy_runs.py the same search: as many trials on validation, the same draws from the same
space (BPR, noise and alignment have a space of their own: `space` in accuracy_runs.yaml).

    python benchmarks/accuracy_tuning.py beauty          # results/accuracy/tuning/beauty-MODEL.md, one a model
    python benchmarks/accuracy_tuning.py gowalla         # the softmax recipe, at its whole length

The draws of a search depend on its seed and the trial's number alone until trial 8, so with as few trials all models are
tried at the same places. What is best goes into accuracy_runs.yaml and the configs by hand.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script too

import typer

from benchmarks.accuracy import STORE
from benchmarks.accuracy_runs import PLAN, config_of, planned
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.experiments.tuning import tune

CONTENDERS = (
    "softmax", "lightgcn_text", "lightgcn", "lightgcn_bpr", "bpr_mf", "xsimgcl", "alpharec", "rlmrec", "late_fusion", "recmind",
)  # fmt: skip
"""Those of them that a bench plans are searched."""


def main(
    bench: Annotated[str, typer.Argument(help="a bench of accuracy_runs.yaml")],
    home: Annotated[Path, typer.Option(help="where the searches go")] = Path("runs/tuning"),
    only: Annotated[list[str] | None, typer.Option(help="these models alone")] = None,
) -> None:
    """Searches for one bench; a search that is done is left alone."""
    try:
        chosen, models = planned(bench)
        for model in only or [name for name in CONTENDERS if name in models]:
            tune_model(bench, chosen, models, model, home)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def tune_model(bench: str, chosen: dict[str, Any], models: dict[str, Any], model: str, home: Path) -> None:
    """One model's search. Raises ConfigError for a model that is not planned."""
    plan = chosen.get("tuning", load_yaml(PLAN).values["tuning"])
    if model not in models:
        raise ConfigError(f"{PLAN}: {bench} has no model {model!r}: it has {', '.join(models)}")
    told = models[model]
    words = [*chosen.get("overrides", []), *told.get("overrides", []), *plan["overrides"]]
    words += [f"variant={told.get('variant', 'recmind')}", f"run_dir={home / bench / model}"]
    space = Path(told.get("space", plan["space"]))
    tune(config_of(told, chosen), words, plan["trials"], 0, space, lambda line: print(f"{model}: {line}", flush=True))
    page = STORE / "tuning" / f"{bench}-{model}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text((home / bench / model / "trials.md").read_text())


if __name__ == "__main__":
    typer.run(main)
