"""Whole training runs for tests, on plain gloo processes without Ray: real graph, real text store,
real worker.

Text vectors are random numbers written with the store's own writer, so no language model is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.run_stores import RunStores
from tests.graphs import make_graph, random_pairs

TEXT_DIM = 12


def make_inputs(
    home: Path,
    *,
    num_users: int = 70,
    num_items: int = 45,
    num_pairs: int = 500,
    num_tested: int = 0,
    seed: int = 0,
    text_dim: int = TEXT_DIM,
) -> RunStores:
    """A graph with a validation pair for most users, and vectors of all nodes but every fifth user
    and ninth item.

    Args:
        num_tested: users with a test pair, from user 0 on; 0: one user has one.
    """
    pairs = random_pairs(num_users - 1, num_items - 1, num_pairs + num_users, seed)
    held = {u: (u, i) for u, i in pairs}  # the newest pair of each user
    train = [pair for pair in pairs if held[pair[0]] != pair]
    known = set(pairs)
    free = ([(u, i) for i in range(num_items) if (u, i) not in known] for u in range(num_tested))
    graph = make_graph(
        home,
        train,
        num_users,
        num_items,
        valid=sorted(held.values()),
        test=[of_user[7 * u % len(of_user)] for u, of_user in enumerate(free)],
        num_parts=2,
    )
    store = TextStore.create(
        home / "text",
        {"made": "for a test"},
        text_dim,
        {"users": num_users, "items": num_items},
        32,
        16,
    )
    rng = np.random.default_rng(seed)
    for side, rows, gap in (("users", num_users, 5), ("items", num_items, 9)):
        vectors = rng.normal(size=(rows, text_dim)).astype(np.float16)
        vectors[::gap] = np.nan
        for shard in range(store.num_shards(side)):
            store.write_shard(side, shard, vectors[slice(*store.shard_range(side, shard))], "test")
    Whitening.fit(store).save(home / "whitening.safetensors")
    return RunStores(
        graph.path,
        store.path,
        home / "whitening.safetensors",
        texts_key="test",
        store_key=store.content_key(),
    )


def config_of(home: Path, run: str, **changes: Any) -> RunConfig:
    """A small run with everything on: gates on held-out edges, alignment, queue, absent texts, both
    phases.

    Args:
        changes: laid over it, room by room. A kind of model that has no gates comes without them.
    """
    values: dict[str, Any] = {
        "run_dir": home / run,
        "dataset": {
            "name": "toy",
            "interactions": home / "train.tsv",
            "items": home / "items.jsonl",
        },
        "sampler": {
            "propagation": "sampled",
            "num_neighbors": [4, 3],
            "hide_batch_edges": True,
            "negatives": {"num_shared": 12},
        },
        "model": {"kind": "paper", "embedding_dim": 8, "gate": {"heldout_share": 0.5}},
        "loss": {"kind": "ssm", "temperature": 0.1, "regularization": 1e-4},
        "alignment": {"weight": 0.1, "queue_size": 40, "hardness": 0.5},
        "table": {"learning_rate": 1e-2},
        "zero": {"learning_rate": 1e-3},
        "train": {
            "batch_of": "pairs",
            "batch_size": 96,
            "patience": 0,
            "warmup_epochs": 1,
            "epochs": 3,
            "log_every_steps": 1,
            "seed": 3,
        },
        "evaluation": {
            "ks": [5],
            "metric": "ndcg@5",
            "norm_exponent": None,
            "every_epochs": 1,
        },
    }
    if changes.get("model", {}).get("kind", "paper") not in ("paper", "recmind"):
        del values["model"]["gate"]
    for room, change in changes.items():
        values[room] = {**values[room], **change} if isinstance(values.get(room), dict) else change
    kind = values["model"]["kind"]
    values["model"] = {**PLAIN_OF_KIND.get(kind, {}), **values["model"]}
    if kind in ("paper", "recmind"):
        quarter = max(1, values["train"]["batch_size"] // 4)
        gate = {"heldout_share": 0.1, "learning_rate": None, "batch_size": quarter}
        values["model"]["gate"] = {**gate, **values["model"].get("gate", {})}
    return RunConfig.model_validate(values)


_PLAIN_TEXT = {"text_layers": 0, "projection_hidden_dim": 0}
PLAIN_OF_KIND: dict[str, dict[str, Any]] = {
    "paper": _PLAIN_TEXT,
    "recmind": {**_PLAIN_TEXT, "views": "graph+text", "recent_decay": 0.0},
}
"""Of `config_of`, where a test does not say otherwise: what each kind has beside, switched off."""


def train_rank(
    config: RunConfig,
    inputs: RunStores,
    attempt: str,
    phases: tuple[str, ...] = ("warmup", "joint"),
    resume: str = "never",
    allow_mismatch: bool = False,
) -> dict[str, Any]:
    """Trains on this rank, for `run_ranks`. Returns this rank's rows, the dense state and the
    cursor at the end.
    """
    import torch

    from recmind_dist.distributed.context import DistContext
    from recmind_dist.training.trainer import Trainer

    run = RunDirectory(config.run_dir)
    run.create()
    context = DistContext.join_group(
        torch.device("cpu"), shared_memory=config.scaling.shared_memory
    )
    worker = Trainer(config, inputs, context, run, attempt, lambda _: None, resume, allow_mismatch)
    cursor = worker.train(phases)
    rows = {name: value.numpy().copy() for name, value in worker.shard.table.rows().items()}
    return {"rows": rows, "cursor": cursor.to_info(), "nodes": worker.shard.nodes}


def embed_here(config: RunConfig) -> None:
    """As `recmind embed`, without Ray: a few texts by the real encoder."""
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.pipeline.train import prepare_texts
    from recmind_dist.text import TextEncoder, make_store, plan_shards, store_path
    from recmind_dist.text.embed_actor import embed_shard

    pipeline = Pipeline(config, lambda _: None)
    texts = prepare_texts(pipeline.config, pipeline.prepare()).texts
    assert texts is not None
    settings = pipeline.config.text
    path = store_path(texts, settings, config.cache_dir / config.dataset.name)
    store, encoder = make_store(texts, settings, path), TextEncoder.load(settings)
    for job in plan_shards(texts, settings, path)[0]:
        embed_shard(encoder, store, job)


def curve_of(run_dir: Path) -> list[dict[str, Any]]:
    """The step records of a run's metrics.jsonl, in order."""
    return list(read_metrics(RunDirectory(run_dir).metrics, "step"))


class Cut(Exception):
    """The end of a run that is cut short on purpose."""


def train_until(config: RunConfig, inputs: RunStores, attempt: str, step: int) -> int:
    """As `train`, but dies at the first report at or after `step`. Returns the step at which it
    died.
    """
    import torch

    from recmind_dist.distributed.context import DistContext
    from recmind_dist.training.trainer import Trainer

    def report(told: dict[str, Any]) -> None:
        if told["step"] >= step:
            raise Cut

    run = RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(
        config, inputs, DistContext.join_group(torch.device("cpu")), run, attempt, report, "never"
    )
    try:
        worker.train(("warmup", "joint"))
    except Cut:
        return worker.cursor.steps_done
    raise AssertionError(f"the run ended before step {step}")


def resave(config: RunConfig, inputs: RunStores, attempt: str) -> str:
    """Loads the last checkpoint into this world's tables, engine and queues and saves it again.
    Returns its name.
    """
    import torch

    from recmind_dist.distributed.context import DistContext
    from recmind_dist.training.phase import Phase
    from recmind_dist.training.state import load_dense_state, load_table
    from recmind_dist.training.trainer import Trainer

    worker = Trainer(
        config,
        inputs,
        DistContext.join_group(torch.device("cpu")),
        RunDirectory(config.run_dir),
        attempt,
        lambda _: None,
        "must",
    )
    assert worker.checkpoint is not None
    load_table(worker.checkpoint, worker.shard.table)
    phase = Phase(
        worker.config, worker.shard, worker.exchange, worker.cursor.phase, worker.cursor.steps_done
    )
    load_dense_state(worker.checkpoint.dense(), phase.engine, phase.momentum)
    worker._save(phase)
    names = worker.checkpointer.wait()
    worker.checkpointer.close()
    phase.engine.close()
    return names[0]
