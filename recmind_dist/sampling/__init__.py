"""Mini-batches out of the graph: hidden edges, sampled neighbourhoods, negatives, a loader that works ahead."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.sampling.settings import NegativeSettings, SamplerSettings

if TYPE_CHECKING:
    from recmind_dist.sampling.batches import Batch, NeighborLoader, StepBatches, make_sampler, steps_per_epoch
    from recmind_dist.sampling.distinct_ids import distinct
    from recmind_dist.sampling.hidden import NOTHING_HIDDEN, HiddenEdges, edge_endpoints, held_out_slice
    from recmind_dist.sampling.neighbours import Hop, NeighborSampler, NumbaNeighborSampler, SampledHops
    from recmind_dist.sampling.prefetch import Prefetcher

__all__ = [
    "NOTHING_HIDDEN", "Batch", "HiddenEdges", "Hop", "NegativeSettings", "NeighborLoader", "NeighborSampler",
    "NumbaNeighborSampler", "Prefetcher", "SampledHops", "SamplerSettings", "StepBatches", "distinct",
    "edge_endpoints", "held_out_slice", "make_sampler", "steps_per_epoch",
]  # fmt: skip

_HOMES = dict.fromkeys(("Batch", "NeighborLoader", "StepBatches", "make_sampler", "steps_per_epoch"), "batches")
_HOMES |= dict.fromkeys(("NOTHING_HIDDEN", "HiddenEdges", "edge_endpoints", "held_out_slice"), "hidden")
_HOMES |= dict.fromkeys(("Hop", "NeighborSampler", "NumbaNeighborSampler", "SampledHops"), "neighbours")
_HOMES |= {"Prefetcher": "prefetch", "distinct": "distinct_ids"}
__getattr__ = lazy_exports(__name__, _HOMES)
