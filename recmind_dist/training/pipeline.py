"""All stages of a run in their order; each skips what is done."""

from pathlib import Path
from typing import Any

from recmind_dist.graph import prepare_graph
from recmind_dist.ingest import ingest_dataset
from recmind_dist.ingest.fetch import fetch
from recmind_dist.parallel import Ranks
from recmind_dist.report import RunDirectory
from recmind_dist.training.evaluate import all_evaluate_run, evaluate_popularity_run
from recmind_dist.training.fit import Prepared, Say, fit, prepare_texts
from recmind_dist.training.rank_model import Inputs
from recmind_dist.training.run_config import RunConfig

DATA, MODELS = Path("data"), Path("models")


def fetch_asset(name: str) -> Path:
    """Brings a data set to data/ or a model to models/, where the configs of this repository look for them."""
    if name != "smollm2":
        return fetch(name, DATA if name == "ml-100k" else MODELS)
    from recmind_dist.text.gguf import convert_smollm2, is_converted

    into = MODELS / name
    if not is_converted(into):
        convert_smollm2(next(fetch(name, MODELS / "gguf").glob("*.gguf")), into)
    return into


def prepare(config: RunConfig, say: Say) -> Path:
    """Fetches, ingests, splits and partitions. Returns the graph's directory."""
    for name in config.fetch:
        say(f"{name}: at {fetch_asset(name)}")
    dataset = ingest_dataset(config.dataset, config.cache_dir)
    graph = prepare_graph(dataset, config.graph, config.cache_dir)
    say(f"graph: at {graph}")
    return graph


def run(config: RunConfig, say: Say, resume: str = "auto", allow_mismatch: bool = False) -> dict[str, Any]:
    """Prepares, embeds, trains and evaluates one run. Returns the content of results.json."""
    directory = RunDirectory(config.run_dir)
    with directory.lock():
        graph = prepare(config, say)
        if config.variant == "popularity":
            return evaluate_popularity_run(config, graph, directory)
        prepared: Prepared = prepare_texts(config, graph)
        inputs = fit(config, prepared, say, resume, allow_mismatch)
        return evaluate(config, inputs, directory)


def evaluate(config: RunConfig, inputs: Inputs, directory: RunDirectory) -> dict[str, Any]:
    """Evaluates a trained run here, or on evaluation.num_workers Ray workers."""
    if config.evaluation.num_workers == 1:
        return all_evaluate_run(config, inputs, directory, Ranks.alone())
    from recmind_dist.training.runner import evaluate_on_workers

    evaluate_on_workers(config, inputs)
    return directory.read_results()
