"""PCA whitening of text vectors: raw ones share a direction that carries no meaning.

Legend: n rows, T width of the store, T' width after reduction.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import check_seal
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.text.store import SIDES, HalfArray, TextStore
from recmind_dist.types import FloatArray

WHITENING = "whitening.safetensors"
"""Its name in a run directory."""
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Whitening:
    """Maps x to (x − mean) · matrix. The fitted rows then have a mean |x|² of 1.

    Attributes:
        mean: by side, [T] float32.
        matrix: by side, [T, T'] float32.
    """

    mean: dict[str, FloatArray]
    matrix: dict[str, FloatArray]

    @classmethod
    def fit(
        cls, store: TextStore, components: int | None = 0, eps_rel: float = 1e-3
    ) -> "Whitening":
        """Fits items and users separately, in one pass and float64.

        With fewer than 2 T rows the covariance is shrunk towards a multiple of the identity, the
        more the fewer rows. The largest component of each direction is positive, so the same
        vectors give the same map.

        Args:
            components: T', kept principal directions; 0: all T; None: the rows are scaled, not
                whitened.
            eps_rel: share of the largest variance that is added to all variances, so that
                directions of mere noise are not blown up.

        Raises:
            TextError: there are more `components` than T.
        """
        if components is not None and not 0 <= components <= store.dim:
            raise TextError(
                f"model.text_components: {components}: the text vectors have {store.dim}: choose "
                "at most that"
            )
        dim = store.dim if components == 0 else components
        mean, matrix = {}, {}
        for side in SIDES:
            mean[side], matrix[side] = _fit_side(store.shards(side), store.dim, eps_rel, dim)
        return cls(mean, matrix)

    @classmethod
    def identity(cls, dim: int) -> "Whitening":
        """Leaves all vectors as they are."""
        mean, matrix = np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)
        return cls(dict.fromkeys(SIDES, mean), dict.fromkeys(SIDES, matrix))

    @property
    def dim(self) -> int:
        """Width T' of mapped vectors."""
        return int(self.matrix["items"].shape[1])

    def apply(self, side: str, vectors: HalfArray | FloatArray) -> FloatArray:
        """Shape: [n, T] → [n, T'] float32; rows without text (NaN) become zero."""
        out = np.zeros((len(vectors), self.dim), dtype=np.float32)
        for start in range(0, len(vectors), BLOCK_ROWS):  # no float32 copy of all rows at once
            block = vectors[start : start + BLOCK_ROWS].astype(np.float32)
            mapped = (block - self.mean[side]) @ self.matrix[side]
            mapped[np.isnan(block[:, 0])] = 0.0
            out[start : start + BLOCK_ROWS] = mapped
        return out

    def save(self, path: Path) -> None:
        """Writes a safetensors file, atomically."""
        from safetensors.numpy import save

        from recmind_dist.storage import write_sealed

        means = {f"{side}.mean": self.mean[side] for side in SIDES}
        matrices = {f"{side}.matrix": self.matrix[side] for side in SIDES}
        write_sealed(path, save(means | matrices))

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Reads a file of `save`. Raises StoreError if it is absent or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if path.is_file():
            check_seal(path, DOCTOR)
        try:
            tensors = load_file(path)
            mean = {side: tensors[f"{side}.mean"] for side in SIDES}
            return cls(mean, {side: tensors[f"{side}.matrix"] for side in SIDES})
        except (OSError, KeyError, SafetensorError) as error:
            raise StoreError(
                f"{path}: not a whitening file ({error}): prepare the text vectors again"
            ) from error


def _fit_side(
    shards: Iterable[HalfArray], width: int, eps_rel: float, dim: int | None
) -> tuple[FloatArray, FloatArray]:
    count, mean, second = _moments(shards, width)
    if dim is None:
        mean = np.zeros(width)
    covariance = second - np.outer(mean, mean)
    total = float(np.trace(covariance))
    if count == 0 or total <= 1e-12:
        return mean.astype(np.float32), np.zeros((width, dim or width), dtype=np.float32)
    if dim is None:
        matrix = np.eye(width)
    else:
        matrix = _principal_directions(covariance, count, eps_rel, dim)
    mean_square = float(np.sum((covariance @ matrix) * matrix))
    return mean.astype(np.float32), (matrix / np.sqrt(mean_square)).astype(np.float32)


def _moments(
    shards: Iterable[HalfArray], width: int
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Number of rows with text, their mean [T] and mean outer product [T, T]."""
    count = 0
    first = np.zeros(width)
    second = np.zeros((width, width))
    for shard in shards:
        for start in range(0, len(shard), BLOCK_ROWS):
            block = shard[start : start + BLOCK_ROWS].astype(np.float64)
            block = block[~np.isnan(block[:, 0])]
            count += len(block)
            first += block.sum(0)
            second += block.T @ block
    return count, first / max(count, 1), second / max(count, 1)


def _principal_directions(
    covariance: NDArray[np.float64], count: int, eps_rel: float, dim: int
) -> NDArray[np.float64]:
    """Directions of `count` rows by falling variance, divided by their deviation, [T, T']."""
    width = len(covariance)
    shrink = max(0.0, 1.0 - count / (2.0 * width))
    identity = np.eye(width) * (np.trace(covariance) / width)
    covariance = (1.0 - shrink) * covariance + shrink * identity
    variance, directions = np.linalg.eigh(covariance)
    variance = variance[::-1][:dim]
    directions = directions[:, ::-1][:, :dim]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], axis=0)
    signed: NDArray[np.float64] = directions * np.sign(largest)
    signed /= np.sqrt(np.maximum(variance, 0.0) + eps_rel * variance[0])
    return signed
