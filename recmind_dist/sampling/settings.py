"""Settings of mini-batches: fan-outs and negatives."""

from typing import Literal

from pydantic import Field, model_validator

from recmind_dist.config import Settings

BATCHES_AHEAD = 2
"""Batches made ahead by a background thread: one in hand, one in the making."""


class NegativeSettings(Settings):
    """Negative items. A draw that is a training positive of the user is redrawn (or masked)."""

    kind: Literal["uniform", "popularity", "in_batch"] = "popularity"
    """uniform over the catalogue; popularity: proportional to degree^beta; in_batch: among the
    positives of the global batch."""
    beta: float = Field(0.5, ge=-2, le=2)
    """Exponent of `popularity`, of either sign. Items of degree 0 count as degree 1."""
    num: int = Field(1, ge=1, le=64)
    """Draws per pair for BPR; with more than one the highest-scoring is used (hard negatives)."""
    num_shared: int = Field(1024, ge=1)
    """Items drawn once a step for all users, for the sampled softmax."""


class SamplerSettings(Settings):
    """Neighbour sampling and negatives."""

    propagation: Literal["auto", "sampled", "full"] = "auto"
    """sampled: a neighbourhood for each batch; full: the whole graph, exactly; auto: full up to two
    million training interactions, below which it beats sampling (docs/distribution.md)."""
    backend: Literal["auto", "numba", "pyg"] = "auto"
    """auto is numba, which is faster than pyg-lib and draws the same on every rank
    (docs/distribution.md)."""
    num_neighbors: tuple[int, ...] = ()
    """Fan-out of each hop, from the seeds outwards; -1 takes all neighbours; none: 10 a layer."""
    hide_batch_edges: bool = False
    """Edges of the global batch are masked in its own propagation."""
    negatives: NegativeSettings = NegativeSettings()

    @property
    def batches_ahead(self) -> int:
        """Depth of the prefetch. pyg-lib shares torch's one generator with training, so it is 0."""
        return 0 if self.backend == "pyg" else BATCHES_AHEAD

    @model_validator(mode="after")
    def _fan_outs_are_counts(self) -> "SamplerSettings":
        for n in self.num_neighbors:
            if n < -1 or n == 0:
                raise ValueError(
                    f"num_neighbors has {n}: give counts above 0, or -1 for all neighbours"
                )
        return self
