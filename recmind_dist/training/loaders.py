"""The loader of a phase, as a run's config has it."""

from functools import partial

import torch

from recmind_dist.graph import Graph
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.randomness import stream_key
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.graph_access import GraphAccess
from recmind_dist.sampling.loader import NeighborLoader
from recmind_dist.sampling.padded_loader import PaddedLoader
from recmind_dist.types import IndexArray, IntArray


def make_loader(
    config: RunConfig,
    graph: Graph,
    phase: str,
    rank: int,
    world_size: int,
    source: GraphAccess | None = None,
    *,
    held_out: IntArray | None = None,
    gate_edges: IntArray | None = None,
    degree: IndexArray | None = None,
    device: torch.device | None = None,
    padded: bool = False,
) -> NeighborLoader:
    """The batches of a phase as one of `world_size` ranks has them.

    Collective where `config.owners_draw`: every rank must call.

    Args:
        held_out, gate_edges, degree: as `NeighborLoader`; None where no slice is held out.
        device: where batches are made, if not by the CPU.
        padded: whether they have fixed shapes there.
    """
    joint = phase == "joint"
    negatives = {"ssm": "shared", "bpr": "pairs"}[config.loss.kind] if joint else "none"
    # mixing weighs whole scores: it learns against the catalogue as it is, not as negatives are
    # drawn for the views
    uniform = config.sampler.negatives.model_copy(update={"kind": "uniform"})
    on_device = PaddedLoader if padded else DeviceLoader
    make = NeighborLoader if device is None else partial(on_device, device=device)
    return make(
        graph,
        config.sampler,
        config.train.batch_size,
        negatives,
        batch_of=config.train.batch_of,
        heldout=held_out,
        gate_edges=gate_edges,
        gate_batch_size=config.gate_batch_size if joint and held_out is not None else 0,
        gate_negatives=uniform if isinstance(config.model, RecMindSettings) else None,
        degree=degree,
        newest_decay=config.recent_decay if joint else 0.0,
        seed=stream_key(config.train.seed, phase),
        rank=rank,
        world_size=world_size,
        source=source,
        most_steps=config.train.steps_per_epoch,
    )
