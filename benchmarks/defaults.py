"""How good are the defaults alone? RecMind and LightGCN by a config of data and language model.

    python benchmarks/defaults.py beauty toys --device cuda    # three seeds of both, stored
    python benchmarks/defaults.py beauty --model whole_shape   # two workers by Ray
    python benchmarks/defaults.py beauty yelp ml-100k --effects    # of each part, stored apart
    python benchmarks/defaults.py                              # comparisons and page, from results

Every run is tested with two histories: `train`, to the last training edge, and `train+valid`, with
the validation item folded in, without training. Data sets and models: defaults.yaml.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import polars as pl
import torch
import typer

from benchmarks.baselines_page import write_page
from benchmarks.controls import still
from benchmarks.defaults_compare import write_comparisons
from benchmarks.effects import write_effects
from benchmarks.measure import commit, machine
from benchmarks.rank_store import RankStore, ranks_of
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.pipeline.in_process import train_in_process, validation_curve
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.report.results import FOLDED
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig

PLAN = Path(__file__).with_suffix(".yaml")
METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")


def main(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="data sets of defaults.yaml; none: compare alone")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="default: 0, 1, 2")] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="default: recmind, lightgcn")
    ] = None,
    effects: Annotated[
        bool, typer.Option(help="models are those of `effects`: all of them")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    home: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/defaults"),
) -> None:
    """Trains, tests and stores one run after another, then writes comparisons and page."""
    kind = "effects" if effects else "models"
    store = RankStore(name="effects" if effects else "defaults")
    every = list(load_yaml(PLAN).values["effects"]) if effects else ["recmind", "lightgcn"]
    running = commit()  # files may change while this runs
    try:
        for dataset in datasets or []:
            for model in models or every:
                for seed in seeds or [0, 1, 2]:
                    config = config_of(dataset, model, seed, device, home, kind)
                    row = {"dataset": dataset, "model": model, "seed": seed, "commit": running}
                    with still(chosen(kind, model).get("still")):
                        run = train(config)
                    store_run(run, row | {"device": card_of(config)}, store)
        write_comparisons()
        write_effects()
        write_page(RankStore())
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def config_of(
    dataset: str, model: str, seed: int, device: str, home: Path, kind: str = "models"
) -> RunConfig:
    """Data, language model, variant and seed, and nothing else but an effect's own change.

    Args:
        kind: "models" or "effects".
    Raises:
        ConfigError: defaults.yaml has no such data set or model.
    """
    own = [f"train.seed={seed}", f"scaling.device={device}", "compare=[]"]
    own += [f"run_dir={home / dataset}/{model}-seed{seed}", "fetch=[minilm]"]
    of_model = chosen(kind, model)
    words = [*own, *chosen("datasets", dataset), *of_model.get("overrides", [])]
    config = Path(load_yaml(PLAN).values["config"])
    return load_run_config(config, words, of_model.get("variant", "recmind"))


def chosen(kind: str, name: str) -> Any:
    """A line of defaults.yaml. Raises ConfigError if there is none."""
    lines = load_yaml(PLAN).values[kind]
    if name not in lines:
        raise ConfigError(f"{PLAN}: {kind} has no {name!r}: it has {', '.join(lines)}")
    return lines[name]


def train(config: RunConfig) -> RunDirectory:
    """Trains to the end and tests with both histories; several workers by Ray."""
    if config.scaling.max_workers > 1:
        Pipeline(config, _say).run()
        return RunDirectory(config.run_dir.absolute())
    run = train_in_process(config, _say)
    Pipeline.of_run(run.path, _say).evaluate()
    return run


def card_of(config: RunConfig) -> str:
    """What trains the run: the GPU's name, or the processor's."""
    on_gpu = config.scaling.device != "cpu" and torch.cuda.is_available()
    return torch.cuda.get_device_name() if on_gpu else str(machine()["cpu"])


def store_run(run: RunDirectory, row: dict[str, Any], store: RankStore) -> None:
    """Stores a tested run: a result a history."""
    results, users = run.read_results(), pl.read_parquet(run.per_user).sort("user")
    row |= {
        "epoch": results["epoch"],
        "norm_exponent": results["norm_exponent"],
        "validation": max((v["ndcg@20"] for v in validation_curve(run)), default=None),
        "users": len(users),
        "seconds": sum(epoch["seconds"] for epoch in read_metrics(run.metrics, "epoch")),
    }
    one_each = not users.get_column("degree").null_count()
    for history, found, prefix in (
        ("train", results, ""),
        ("train+valid", results.get("folded"), FOLDED),
    ):
        if found is None:
            continue
        metrics = {name: found["metrics"][name] for name in METRICS}
        ndcg = users.get_column(f"{prefix}ndcg@40").to_numpy()
        ranks = ranks_of(ndcg) if one_each else None
        result = {"dataset": row["dataset"], "model": row["model"], "history": history}
        store.put(result | row | metrics, users.get_column("user").to_numpy(), ranks)
        recall, ndcg20 = metrics["recall@20"], metrics["ndcg@20"]
        _say(f"{run.path}, {history}: recall@20 {recall:.4f}, ndcg@20 {ndcg20:.4f}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
