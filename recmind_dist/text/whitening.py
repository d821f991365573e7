"""Whitening of text vectors: raw vectors of language models share one direction that carries no
meaning.

Shapes: n rows, T width of the store, T' width after reduction.
Source: PCA whitening.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import check_seal
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.text.store import SIDES, HalfArray, TextStore
from recmind_dist.types import FloatArray

Mode = Literal["none", "whiten"]
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Whitening:
    """An affine map a side: x → (x − mean) · matrix. On the rows it was fitted to, the mean of |x|²
    is 1.

    Attributes:
        mean: by side, [T] float32; matrix: by side, [T, T'] float32.
    """

    mean: dict[str, FloatArray]
    matrix: dict[str, FloatArray]

    @classmethod
    def fit(
        cls, store: TextStore, mode: Mode = "whiten", eps_rel: float = 1e-3, dim: int | None = None
    ) -> "Whitening":
        """Fits both sides of a store, each by itself, in one pass and float64.

        Args:
            mode: none (scale only), whiten.
            eps_rel: added to every variance before its root is taken, as a share of the largest, so
            that directions
                of mere noise are not blown up.
            dim: T', kept principal directions; None keeps T.

        With fewer than 2 T rows the covariance is shrunk towards a multiple of the identity, wholly
        as rows go to 0. The sign of every direction is fixed by its largest component, so the same
        vectors give the same map.

        Raises:
            TextError: `dim` is larger than T.
        """
        if dim is not None and not 1 <= dim <= store.dim:
            raise TextError(
                f"whitening to {dim} dimensions: the text vectors have {store.dim}: choose at "
                "most that"
            )
        mean, matrix = {}, {}
        for side in SIDES:
            mean[side], matrix[side] = _fit_side(store.shards(side), store.dim, mode, eps_rel, dim)
        return cls(mean, matrix)

    @property
    def dim(self) -> int:
        """T'."""
        return int(self.matrix["items"].shape[1])

    def apply(self, side: str, vectors: HalfArray | FloatArray) -> FloatArray:
        """Shape: [n, T] → [n, T'] float32; rows without text (NaN) become zero."""
        out = np.zeros((len(vectors), self.dim), dtype=np.float32)
        for start in range(
            0, len(vectors), BLOCK_ROWS
        ):  # blocks, so that no float32 copy of everything is made
            block = vectors[start : start + BLOCK_ROWS].astype(np.float32)
            mapped = (block - self.mean[side]) @ self.matrix[side]
            out[start : start + BLOCK_ROWS] = np.where(
                np.isnan(block[:, :1]), np.float32(0), mapped
            )
        return out

    def save(self, path: Path) -> None:
        """Writes a safetensors file, atomically."""
        from safetensors.numpy import save

        from recmind_dist.storage import write_sealed

        tensors = {f"{side}.mean": self.mean[side] for side in SIDES}
        write_sealed(path, save(tensors | {f"{side}.matrix": self.matrix[side] for side in SIDES}))

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Raises StoreError if `path` is absent or not a file of `save`."""
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
    shards: Iterable[HalfArray], width: int, mode: Mode, eps_rel: float, dim: int | None
) -> tuple[FloatArray, FloatArray]:
    count, mean, second = _moments(shards, width)
    if mode == "none":
        mean = np.zeros(width)
    covariance = second - np.outer(mean, mean)
    total = float(np.trace(covariance))
    if count == 0 or total <= 1e-12:
        return mean.astype(np.float32), np.zeros((width, dim or width), dtype=np.float32)
    if mode == "whiten" or dim is not None:
        matrix = _principal_directions(
            covariance, count if mode == "whiten" else None, eps_rel, dim
        )
    else:
        matrix = np.eye(width)
    mean_square = float(np.sum((covariance @ matrix) * matrix))
    return mean.astype(np.float32), (matrix / np.sqrt(mean_square)).astype(np.float32)


def _moments(
    shards: Iterable[HalfArray], width: int
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Rows with text, their mean [T] and mean outer product [T, T]."""
    count, first, second = 0, np.zeros(width), np.zeros((width, width))
    for shard in shards:
        for start in range(0, len(shard), BLOCK_ROWS):
            block = shard[start : start + BLOCK_ROWS].astype(np.float64)
            block = block[~np.isnan(block[:, 0])]
            count += len(block)
            first += block.sum(0)
            second += block.T @ block
    return count, first / max(count, 1), second / max(count, 1)


def _principal_directions(
    covariance: NDArray[np.float64], whiten_rows: int | None, eps_rel: float, dim: int | None
) -> NDArray[np.float64]:
    """[T, T'] directions by falling variance, divided by their deviation if `whiten_rows` (n) is
    given.
    """
    width = len(covariance)
    if whiten_rows is not None:
        shrink = max(0.0, 1.0 - whiten_rows / (2.0 * width))
        identity = np.eye(width) * (np.trace(covariance) / width)
        shrunk = (1.0 - shrink) * covariance + shrink * identity
    else:
        shrunk = covariance
    variance, directions = np.linalg.eigh(shrunk)
    variance, directions = variance[::-1][:dim], directions[:, ::-1][:, :dim]
    largest = np.abs(directions).argmax(0)
    signed: NDArray[np.float64] = directions * np.sign(
        directions[largest, np.arange(directions.shape[1])]
    )
    if whiten_rows is not None:
        signed /= np.sqrt(np.maximum(variance, 0.0) + eps_rel * variance[0])
    return signed
