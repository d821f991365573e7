"""Rankings that show popular items less, as evaluation.popularity_penalty measures them:
s(u, i) − λ σ_u z_i.

Legend: n vectors, I items, C columns.
"""

import numpy as np

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.types import FloatArray


class PopularityPenalty:
    """λ times the standardised log(1 + degree) of an item, times the spread of a vector's scores.

    Args:
        strength: λ; 0 changes nothing.
    Raises:
        DataError: the strength is below 0, or no number.
    """

    def __init__(self, bundle: Bundle, strength: float) -> None:
        if not 0 <= strength < np.inf:
            raise DataError(f"popularity penalty {strength:g}: give a number of 0 or more")
        popularity = np.log1p(bundle.column("degree").to_numpy().astype(np.float64))
        spread = popularity.std()
        z_I = (popularity - popularity.mean()) / spread if spread else 0 * popularity
        self.cost_I: FloatArray = (strength * z_I).astype(np.float32)
        items_IC = bundle.item_vectors.astype(np.float64)
        self._covariance_CC = np.atleast_2d(np.cov(items_IC.T, bias=True))
        self.items_IC = np.concatenate([bundle.item_vectors, -self.cost_I[:, None]], 1)

    def spread(self, vectors_nC: FloatArray) -> FloatArray:
        """Standard deviation of each vector's scores over all items. Shape: [n]."""
        h = vectors_nC.astype(np.float64)
        variance = np.einsum("nc,nc->n", h @ self._covariance_CC, h)
        return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)

    def vectors(self, vectors_nC: FloatArray) -> FloatArray:
        """Vectors whose products with `items_IC` are the scores. Shape: [n, C + 1]."""
        return np.concatenate([vectors_nC, self.spread(vectors_nC)[:, None]], 1)
