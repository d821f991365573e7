"""Settings of workers and of the dense optimizer's sharding."""

from typing import Literal

from pydantic import Field

from recmind_dist.config import Settings


class ScalingSettings(Settings):
    """Workers of the training cluster."""

    num_workers: int = Field(1, ge=1)
    """Ranks; each owns a share of the table."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where Ray has GPUs, else cpu."""
    threads_per_worker: int = Field(1, ge=1)
    """CPU threads of torch in each worker."""
    max_failures: int = Field(3, ge=-1)
    """Restarts of the worker group before the run gives up; -1: no limit."""
    collective_timeout_s: int = Field(300, ge=1)
    """A collective that takes longer is an error that ends the attempt."""
    heartbeat_s: float = Field(10.0, gt=0)
    """Seconds between the heartbeats that rank 0 writes to metrics.jsonl."""
    address: str | None = None
    """Ray cluster to use; none: RAY_ADDRESS, or a local one for this run."""


class ZeroSettings(Settings):
    """DeepSpeed ZeRO for the dense part: gates, projection, fallback, LoRA."""

    stage: Literal[0, 1, 2, 3] = 1
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's, for the dense part."""
    weight_decay: float = Field(0.0, ge=0)
    gradient_clipping: float = Field(0.0, ge=0)
    """Largest gradient norm; 0: no clipping."""


class TableSettings(Settings):
    """The row-sharded embedding table's own optimizer."""

    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: float = Field(1e-2, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
