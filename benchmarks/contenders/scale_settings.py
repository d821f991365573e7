"""The run that benchmarks/scale.py measures: its ranks and its model of clusters share it."""

from typing import Any


def settings(run_dir: str, placement: str, world_size: int) -> dict[str, Any]:
    """Plain LightGCN, 2 layers, fan-outs [10, 10], D 64, BPR with one negative."""
    return {
        "run_dir": run_dir,
        "dataset": {"name": "scale", "interactions": "none.parquet"},
        "variant": "lightgcn",
        "graph": {"placement": placement},
        "sampler": {"num_neighbors": [10, 10]},
        "loss": {"kind": "bpr"},
        "model": {"kind": "lightgcn", "embedding_dim": 64, "num_layers": 2},
        "alignment": {"weight": 0},
        "scaling": {"num_workers": world_size},
        "checkpoint": {"keep_last": 1},
        "train": {"batch_size": 2048, "warmup_epochs": 0, "epochs": 1, "schedule": "constant"},
    }
