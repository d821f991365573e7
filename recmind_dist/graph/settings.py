"""Settings of a graph: which interactions are held out, and which nodes a rank holds."""

from typing import Any, Literal

from pydantic import Field, model_validator

from recmind_dist.config import Settings


class GraphSettings(Settings):
    """Split and partition."""

    split: Literal["leave-one-out", "ratio", "global-time", "given", "none"] = "leave-one-out"
    """leave-one-out: the newest of each user is test, the second newest valid; ratio: newest shares
    of each user; global-time: newest shares of the whole log; given: the data set's test file;
    none: nothing is held out, as for a model that goes to work (`recmind update`).
    Without a column of times leave-one-out and ratio draw what is held out of each user, by `seed`,
    and global-time is refused"""
    valid_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """share of interactions held out for validation (ratio, global-time, or given without a valid
    file)"""
    test_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """share of interactions held out for test (ratio, global-time)"""
    withhold_items: float = Field(default=0.0, ge=0.0, lt=1.0)
    """cold protocol: share of items, drawn at random, that keep only 0..3 training edges"""
    partition: Literal["hash", "range", "fennel", "metis"] = "hash"
    """hash: keyed shuffle; range: node order, cut where degrees balance; fennel: few cut edges
    with capped degrees, for graphs of any size; metis: fewest, in many times the graph's memory"""
    num_parts: int = Field(default=2, ge=1)
    """parts of the partition; ranks hold whole parts if their number divides this, else even shares
    of rows"""
    placement: Literal["replicated", "partitioned"] = "replicated"
    """replicated: every worker maps all edges; partitioned: only those of its nodes, and requests
    others from their workers"""
    seed: int = Field(default=0, ge=0)
    """of the partition, withheld items, the validation share of a given split, and the edges that
    gates learn from; not train.seed, so that runs with other seeds share user texts without these
    edges"""

    def content(self) -> dict[str, Any]:
        """The settings that the graph's key depends on."""
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
