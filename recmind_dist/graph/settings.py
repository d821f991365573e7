"""How a data set becomes a graph: which interactions are held out, and who owns which nodes."""

from typing import Any, Literal

from pydantic import Field, model_validator

from recmind_dist.config import Settings


class GraphSettings(Settings):
    """Split and partition."""

    split: Literal["leave-one-out", "ratio", "global-time", "given"] = "leave-one-out"
    """leave-one-out: a user's newest is test, second newest valid; ratio: newest shares of each
    user;
    global-time: newest shares of the whole log; given: the data set's own test file"""
    valid_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """share of interactions held out for validation (ratio, global-time; given without a validation
    file)
    """
    test_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """share of interactions held out for test (ratio, global-time)"""
    withhold_items: float = Field(default=0.0, ge=0.0, lt=1.0)
    """cold protocol: share of the items, drawn, that keep only 0..3 of their training edges; the
    others are dropped
    """
    partition: Literal["hash", "range", "fennel", "metis"] = "hash"
    """hash: keyed shuffle; range: node order, cut where degrees balance; fennel: few cut edges
    under a cap of degrees, in a few
    passes over graphs of any size; metis: fewer still, in many times the graph's memory"""
    num_parts: int = Field(default=2, ge=1)
    """parts that the nodes are dealt to; a run with another number of ranks cuts rows evenly by
    count
    """
    placement: Literal["replicated", "partitioned"] = "replicated"
    """replicated: every worker maps all edges; partitioned: those of its own nodes, and asks the
    owners for others
    """
    seed: int = Field(default=0, ge=0)
    """of the hash partition, of metis, of withheld items, of the validation share of a given split,
    and of the edges that gates
    learn from; not train.seed, so that runs of other seeds share user texts that leave these edges
    out"""

    def content(self) -> dict[str, Any]:
        """What decides the graph itself, wherever its edges lie: its key is made of this."""
        return self.model_dump(mode="json", exclude={"placement"})

    @model_validator(mode="after")
    def _shares(self) -> "GraphSettings":
        if self.split in ("ratio", "global-time"):
            if self.test_share == 0.0:
                raise ValueError(
                    f"graph.test_share is 0 with graph.split: {self.split}: give a share, say 0.1"
                )
            if self.valid_share + self.test_share >= 1.0:
                raise ValueError(
                    "graph.valid_share + graph.test_share leave nothing to train on: keep the sum "
                    "below 1"
                )
        elif self.test_share or (self.valid_share and self.split != "given"):
            raise ValueError(
                f"graph.valid_share and graph.test_share mean nothing with split {self.split}: "
                "unset them"
            )
        return self
