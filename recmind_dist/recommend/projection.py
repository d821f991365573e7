"""The text view (model/text_view.py) in numpy, from the weights of projection.safetensors.

Legend: n texts, T text dims, D embedding dims.
"""

from collections.abc import Mapping

import numpy as np

from recmind_dist.types import FloatArray

_LEAK = 0.01  # of torch's LeakyReLU


def project(weights: Mapping[str, FloatArray], text_nT: FloatArray) -> FloatArray:
    """Text views of whitened text vectors. Shape: [n, D]."""
    if "projection.weight" in weights:
        return np.asarray(text_nT @ weights["projection.weight"].T, np.float32)
    hidden = _linear(weights, "projection.0", text_nT)
    return _linear(weights, "projection.2", np.where(hidden > 0, hidden, _LEAK * hidden))


def stand_in(
    weights: Mapping[str, FloatArray], degree_feature_n: FloatArray, neighbours_nT: FloatArray
) -> FloatArray:
    """Text views of nodes without text. Shape: [n, D].

    Args:
        neighbours_nT: mean text vectors of their neighbours.
    """
    x = np.column_stack([degree_feature_n, neighbours_nT])
    return _linear(weights, "fallback.2", np.maximum(_linear(weights, "fallback.0", x), 0))


def whiten(weights: Mapping[str, FloatArray], side: str, vectors_nS: FloatArray) -> FloatArray:
    """The language model's vectors in the coordinates that the projection reads. Shape: [n, T].

    Args:
        side: "users" or "items", each with its own map.
        vectors_nS: of S columns, the language model's width.
    """
    centred = vectors_nS - weights[f"whitening.{side}.mean"]
    return np.asarray(centred @ weights[f"whitening.{side}.matrix"], np.float32)


def _linear(weights: Mapping[str, FloatArray], layer: str, x: FloatArray) -> FloatArray:
    return np.asarray(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], np.float32)
