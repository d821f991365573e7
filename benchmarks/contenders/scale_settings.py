"""The run that benchmarks/scale.py measures: its ranks and its model of clusters share it."""

from typing import Any


def settings(
    run_dir: str, placement: str, world_size: int, model: str = "lightgcn"
) -> dict[str, Any]:
    """Plain LightGCN, 2 layers, fan-outs [10, 10], D 64, BPR with one negative; or the default
    RecMind with texts and gates.
    """
    plain = _plain(run_dir, placement, world_size)
    if model == "lightgcn":
        return plain
    del plain["variant"], plain["loss"]
    recmind = {"kind": "recmind", "embedding_dim": 64, "num_layers": 2, "recent_decay": 0.6}
    gate = {"heldout_share": 0.05, "batch_size": 512}
    sampler = {**plain["sampler"], "hide_batch_edges": False}
    return {
        **plain,
        "dataset": {**plain["dataset"], "items": "none.jsonl"},
        "model": {**recmind, "gate": gate},
        "sampler": {**sampler, "negatives": {"num_shared": 1024}},
    }


def _plain(run_dir: str, placement: str, world_size: int) -> dict[str, Any]:
    return {
        "run_dir": run_dir,
        "dataset": {"name": "scale", "interactions": "none.parquet"},
        "variant": "lightgcn",
        "graph": {"placement": placement},
        "sampler": {
            "propagation": "sampled",
            "num_neighbors": [10, 10],
            "hide_batch_edges": True,
        },
        "loss": {"kind": "bpr", "regularization": 1e-4},
        "table": {"learning_rate": 1e-2},
        "model": {"kind": "lightgcn", "embedding_dim": 64, "num_layers": 2},
        "alignment": {"weight": 0},
        "scaling": {"num_workers": world_size},
        "checkpoint": {"keep_last": 1},
        "train": {
            "batch_of": "pairs",
            "batch_size": 2048,
            "warmup_epochs": 0,
            "epochs": 1,
            "schedule": "constant",
        },
        "evaluation": {"every_epochs": 1, "norm_exponent": 0.0},
    }
