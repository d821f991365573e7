"""Sampled blocks as a graph that models propagate over.

Legend: N nodes of the subgraph, S seeds (a prefix of them), D dims.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from recmind_dist.kernels.gather_sum import Hop
from recmind_dist.model.with_rows import with_rows


class Subgraph:
    """The sampled neighbourhood of a batch's seeds.

    Args:
        hops: from the seeds outwards, L of them.
        is_user: [N] bool.
        degree_feature: [N] d̃.
    """

    def __init__(self, hops: Sequence[Hop], is_user: Tensor, degree_feature: Tensor) -> None:
        self._hops = list(reversed(hops))  # in the order of the layers
        self.is_user, self.degree_feature = is_user, degree_feature
        self.num_seeds = hops[0].num_dst if hops else len(is_user)

    @property
    def hops(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """See `PropagationGraph`. Each hop leaves fewer nodes, the last one the seeds."""
        return self._hops

    def select(self, x_ND: Tensor) -> Tensor:
        """See `PropagationGraph`."""
        return x_ND[: self.num_seeds]

    def mean_of_states(self, x_ND: Tensor, num_layers: int, items_only: bool = False) -> Tensor:
        """See `PropagationGraph`. With fewer layers than hops the outermost hops are passed by."""
        hops = self._hops[len(self._hops) - num_layers :]
        if items_only:
            x_ND = x_ND.masked_fill(self.is_user[:, None], 0.0)
        state = x_ND[: hops[0].num_src] if hops else self.select(x_ND)
        heads = []
        for hop in hops:
            # the seeds' rows beside the state: a slice would make a gradient as large as the state
            state, head = with_rows(state, slice(self.num_seeds))
            heads.append(head)
            state = hop(state)
        total = heads[0] if heads else state
        for head in [*heads[1:], *([state] if heads else [])]:
            total = total + head
        return total / (num_layers + 1)
