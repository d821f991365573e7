"""Searches rates for each contender of accuracy_runs.py: equally many trials, on validation alone.

    python benchmarks/accuracy_tuning.py beauty     # writes results/tuning/beauty-MODEL.md for each
    python benchmarks/accuracy_tuning.py gowalla    # the softmax recipe, at its full length

Up to trial 8 draws depend only on the search's seed and the trial's number, so searches of so few
trials try all models at the same points of the same space. Models trained by BPR, with noise or
with alignment have a space of their own (`space` in accuracy_runs.yaml). The best values are copied
by hand into accuracy_runs.yaml and the configs.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.accuracy_runs import PLAN, config_of, planned
from benchmarks.measure import RESULTS
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.experiments.tuning import tune

PAGES = RESULTS / "tuning"
CONTENDERS = (
    "softmax",
    "lightgcn_text",
    "lightgcn",
    "lightgcn_bpr",
    "bpr_mf",
    "xsimgcl",
    "alpharec",
    "rlmrec",
    "late_fusion",
    "recmind",
)
"""Models to search for, where a bench has them."""


def main(
    bench: Annotated[str, typer.Argument(help="a bench of accuracy_runs.yaml")],
    home: Annotated[Path, typer.Option(help="folder of the searches")] = Path("runs/tuning"),
    only: Annotated[list[str] | None, typer.Option(help="search for these models only")] = None,
) -> None:
    """Searches for all contenders of one bench; finished searches are kept."""
    try:
        chosen, models = planned(bench)
        for model in only or [name for name in CONTENDERS if name in models]:
            tune_model(bench, chosen, models, model, home)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def tune_model(
    bench: str, chosen: dict[str, Any], models: dict[str, Any], name: str, home: Path
) -> None:
    """Searches for one model and writes its page of trials.

    Raises:
        ConfigError: the bench has no such model.
    """
    plan = chosen.get("tuning", load_yaml(PLAN).values["tuning"])
    if name not in models:
        raise ConfigError(f"{PLAN}: {bench} has no model {name!r}: it has {', '.join(models)}")
    model = models[name]
    run_dir = home / bench / name
    overrides = [
        *chosen.get("overrides", []),
        *model.get("overrides", []),
        *plan["overrides"],
        f"variant={model.get('variant', 'recmind')}",
        f"run_dir={run_dir}",
    ]
    space = Path(model.get("space", plan["space"]))

    def log(line: str) -> None:
        print(f"{name}: {line}", flush=True)

    tune(config_of(model, chosen), overrides, plan["trials"], 0, space, log)
    page = PAGES / f"{bench}-{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text((run_dir / "trials.md").read_text())


if __name__ == "__main__":
    typer.run(main)
