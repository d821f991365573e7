"""A finished run, read back: its config, what it was trained on, its best checkpoint."""

from pathlib import Path

from recmind_dist.checkpoint.agreement import agree_on_checkpoint
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import CheckpointError, ConfigError, RecmindError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.graph.edge_rows import verify_rows
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import config_of_run
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import check_seal, read_json
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.moved_paths import relocated_config, relocated_inputs
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor


def read_run(path: Path) -> tuple[RunDirectory, RunConfig]:
    """A run directory and its config as resolved. Raises ConfigError if it is no run."""
    run = RunDirectory(path)
    if run.config.is_file():
        check_seal(run.config, DOCTOR, ConfigError)
    config = config_of_run(run.config)
    return run, relocated_config(config, run)


def preferred_checkpoint(graph: Graph) -> str:
    """Which checkpoint of a run serves: the best by validation, the last without one."""
    return "best" if graph.manifest["num_valid"] else "last"


def load_best(
    config: RunConfig, inputs: RunStores, run: RunDirectory, context: DistContext
) -> tuple[ModelShard, Cursor]:
    """The model of the checkpoint that validation preferred, of the newest where nothing is held
    out for it. Collective: every rank must call.

    Raises CheckpointError if the run has none.
    """
    model = ModelShard(config, inputs, context)
    which, bounds = preferred_checkpoint(model.graph), model.bounds.tolist()
    found = agree_on_checkpoint(run.checkpoints, which, context, bounds)
    if found is None:
        raise CheckpointError(f"{run.checkpoints}: no checkpoint: train the run first")
    model.load_for_inference(found)
    return model, Cursor.from_info(found.info)


def read_inputs(run: RunDirectory) -> RunStores:
    """What a run was trained on, its graph and edge rows verified once, for all ranks.

    Raises:
        StoreError: it is untrained, or what it was trained on is lost or damaged.
    """
    path = run.path / "inputs.json"
    if not path.is_file():
        raise StoreError(f"{run.path}: {_why_no_inputs(run)}")
    check_seal(path, DOCTOR)
    inputs = relocated_inputs(RunStores.from_json(read_json(path)), run)
    if not inputs.graph.exists():
        raise StoreError(
            f"{inputs.graph}: not there, and {run.path} was trained on it: when a run is moved or "
            "copied, take its cache_dir along, to the same place beside it, or let `recmind doctor "
            "RUN --repair` make it again where the log is (recommend, serve need RUN/bundle alone)"
        )
    Graph.open(inputs.graph, verify=True)
    if _is_partitioned(run):
        verify_rows(inputs.graph)
    return inputs


def graph_of(run: RunDirectory) -> Path | None:
    """Where the graph is that a run was trained on, not verified; None where it trains nothing or
    the graph is not there any more. Raises StoreError for a damaged inputs.json.
    """
    path = run.path / "inputs.json"
    if not path.is_file():
        return None
    graph = relocated_inputs(RunStores.from_json(read_json(path)), run).graph
    return graph if (graph / "manifest.json").is_file() else None


def _is_partitioned(run: RunDirectory) -> bool:
    try:
        return config_of_run(run.config).graph.placement == "partitioned"
    except (RecmindError, OSError):
        return False  # whoever needs the config says what is wrong with it


def _why_no_inputs(run: RunDirectory) -> str:
    try:
        config = config_of_run(run.config)
    except (RecmindError, OSError):
        config = None
    if config is not None and not config.trains:
        return f"variant {config.variant} trains no vectors: run another variant to recommend"
    return "no inputs.json: not a trained run: run `recmind train` first"
