"""The gates of RecMind (model/recmind.py: Mix) in numpy: γ, scale and bias of users and of items.

Legend: n nodes, K views of C_k columns each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recmind_dist.types import FloatArray

Side = Literal["users", "items"]
_START_WEIGHT = 5.0  # as in model/recmind.py


@dataclass(frozen=True)
class Gates:
    """The two networks.

    Attributes:
        weights: "users.0.weight", …, as `Mix` names them.
        num_views: K.
        recent: whether users' views are joined by the means of their newest items.
        degree_input: false: constants a side.
    """

    weights: Mapping[str, FloatArray]
    num_views: int
    recent: bool
    degree_input: bool

    def mix(
        self,
        side: Side,
        views: Sequence[FloatArray],
        degree_feature: FloatArray,
        recent: Sequence[FloatArray] = (),
        graph_length: FloatArray | None = None,
    ) -> FloatArray:
        """Final vectors. Shape: [n, ΣC_k + 1].

        Args:
            views: K of [n, C_k], the graph's first.
            degree_feature: d̃ [n].
            recent: of users, means of their newest items' views, where the model has them.
            graph_length: [n] to be read in place of the graph views' own.
        """
        length = np.linalg.norm(views[0], axis=1) if graph_length is None else graph_length
        out = self._run(side, length, degree_feature)
        gamma, scale, bias = self._weights(side, out)
        units = [unit_rows(view) for view in views]
        if self.recent and side == "users":
            rho = 1.0 / (1.0 + np.exp(-out[:, self.num_views + 1 :]))
            units = [
                unit + rho[:, k : k + 1] * (unit_rows(newest) - unit)
                for k, (unit, newest) in enumerate(zip(units, recent, strict=True))
            ]
        weighted = [scale * gamma[:, k : k + 1] * unit for k, unit in enumerate(units)]
        return np.concatenate([*weighted, bias], 1).astype(np.float32)

    def gamma(self, side: Side, graph: FloatArray, degree_feature: FloatArray) -> FloatArray:
        """Weights of the views, which sum to one. Shape: [n, K]."""
        length = np.linalg.norm(graph, axis=1)
        return self._weights(side, self._run(side, length, degree_feature))[0]

    def _run(self, side: Side, graph_length: FloatArray, degree_feature: FloatArray) -> FloatArray:
        d, length = degree_feature, np.log(np.maximum(graph_length, 1e-6))
        x = np.stack([d, d * d, length], 1).astype(np.float32)
        if not self.degree_input:
            x = np.zeros_like(x)
        w = {name: self.weights[f"{side}.{name}"] for name in _NAMES}
        hidden = np.tanh(x @ w["0.weight"].T + w["0.bias"])
        out: FloatArray = hidden @ w["2.weight"].T + w["2.bias"]
        return out

    def _weights(self, side: Side, out: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """γ [n, K], s and b [n, 1]; b of users is 1."""
        k = self.num_views
        start = 0.0 if side == "users" else math.log(_START_WEIGHT * k * k)
        bias = np.ones_like(out[:, :1]) if side == "users" else out[:, k + 1 : k + 2]
        return _softmax(out[:, :k]), np.exp(start + out[:, k : k + 1]), bias


_NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


def unit_rows(x: NDArray[np.floating[Any]]) -> FloatArray:
    """Rows at unit length; rows of zeros stay. Shape: as x."""
    length = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.asarray(x / length, np.float32)


def degree_feature(degree: NDArray[np.integer[Any]], max_degree: int) -> FloatArray:
    """d̃ = log(1 + degree) / log(1 + max degree). Shape: as `degree`."""
    whole = np.log1p(np.float32(max(max_degree, 1)))
    return np.asarray(np.log1p(degree.astype(np.float32)) / whole, np.float32)


def _softmax(x: FloatArray) -> FloatArray:
    raised = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True), np.float32)
