"""Rankings that show popular items less: s(u, i) − λ σ_u z_i, exact over the whole catalogue.

z_i is the standardised log(1 + degree) of an item, σ_u the standard deviation of the user's scores
over all items, so that λ means the same for every model and user. As the penalty is a product of
a number of the user and one of the item, it is one more column of their vectors.

Legend: u users, i items of this rank, I of all, C columns.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recmind_dist.evaluation.item_shares import ItemShare
from recmind_dist.evaluation.metrics import Float64Array
from recmind_dist.types import IntArray


def penalised(
    h_uC: Tensor, items: ItemShare, degree_I: IntArray, exponent: float, penalty: float
) -> tuple[Tensor, ItemShare]:
    """Vectors whose inner products are penalised scores, [u, C + 1] and [i, C + 1]. Collective:
    every rank must call.

    Args:
        degree_I: training degrees of all items.
        exponent: p of the score, which the items' vectors are divided by here.
        penalty: λ.
    """
    x = items.h_iC
    if exponent:
        x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12) ** exponent
    size = len(degree_I)
    one = x.new_ones(len(x), 1, dtype=torch.float64)
    moments = items.context.all_reduce(torch.cat([x.double(), one], 1).T @ x.double()) / size
    mean_C = moments[-1]
    covariance = moments[:-1] - mean_C[:, None] * mean_C
    h = h_uC.double()
    spread_u = ((h @ covariance) * h).sum(1).clamp(min=0).sqrt()
    z_i = torch.from_numpy(popularity_scores(degree_I)[items.ids]).to(x)
    with_penalty = torch.cat([x, -penalty * z_i[:, None]], 1)
    return torch.cat([h_uC, spread_u[:, None].to(h_uC)], 1), replace(items, h_iC=with_penalty)


def popularity_scores(degree_I: IntArray) -> Float64Array:
    """z: log(1 + degree) at mean 0 and standard deviation 1; 0 where all degrees are equal."""
    x = np.log1p(degree_I.astype(np.float64))
    spread = x.std()
    return (x - x.mean()) / spread if spread > 0 else np.zeros(len(x))
