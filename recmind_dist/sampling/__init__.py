"""Mini-batches out of the graph: hidden edges, sampled neighbourhoods, negatives, a loader that works ahead."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings

if TYPE_CHECKING:
    from recmind_dist.sampling.batches import Batch, NeighborLoader, StepBatches, make_sampler, steps_per_epoch
    from recmind_dist.sampling.edge_source import EdgeSource, WholeGraph, share_of
    from recmind_dist.sampling.hidden import (
        NOTHING_HIDDEN,
        HiddenEdges,
        edge_endpoints,
        held_out_edges,
        held_out_slice,
        users_of_edges,
    )
    from recmind_dist.sampling.negatives import NegativeSampler
    from recmind_dist.sampling.neighbours import (
        Drawn,
        LocalDraws,
        NeighborDraws,
        NeighborSampler,
        NumbaNeighborSampler,
        SampledHops,
        relabel,
    )
    from recmind_dist.sampling.prefetch import Prefetcher

__all__ = [
    "NOTHING_HIDDEN", "Batch", "Drawn", "EdgeSource", "HiddenEdges", "LocalDraws", "NegativeSampler",
    "NegativeSettings", "NeighborDraws", "NeighborLoader", "NeighborSampler", "NumbaNeighborSampler", "Prefetcher",
    "SampledHops", "SamplerSettings", "StepBatches", "WholeGraph", "edge_endpoints", "held_out_edges",
    "held_out_slice", "make_sampler", "relabel", "share_of", "steps_per_epoch", "users_of_edges",
]  # fmt: skip

_HOMES = dict.fromkeys(("Batch", "NeighborLoader", "StepBatches", "make_sampler", "steps_per_epoch"), "batches")
_HOMES |= dict.fromkeys(("EdgeSource", "WholeGraph", "share_of"), "edge_source")
_HOMES |= dict.fromkeys(
    ("NOTHING_HIDDEN", "HiddenEdges", "edge_endpoints", "held_out_edges", "held_out_slice", "users_of_edges"), "hidden"
)
_HOMES |= dict.fromkeys(("Drawn", "LocalDraws", "NeighborDraws", "NeighborSampler"), "neighbours")
_HOMES |= dict.fromkeys(("NumbaNeighborSampler", "SampledHops", "relabel"), "neighbours")
_HOMES |= {"NegativeSampler": "negatives"}
_HOMES |= {"Prefetcher": "prefetch"}
__getattr__ = lazy_exports(__name__, _HOMES)
