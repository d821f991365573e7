# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""implicit's alternating least squares. Runs in an environment of its own.

Words: threads, a folder with train.npz, the rows of decay^age of the training histories. Vectors
are written there. A taken item has confidence 1 + alpha · decay^age, any other item 1.
"""

import sys
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
confine(THREADS)

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix, load_npz

ITERATIONS = 15


def prepare() -> dict[str, Work]:
    train = load_npz(FOLDER / "train.npz")
    fitted: dict[str, AlternatingLeastSquares] = {}

    def fit(order: dict[str, Any]) -> dict[str, Any]:
        """Item vectors from the training rows. {"factors", "alpha", "regularization", "seed"}."""
        model = AlternatingLeastSquares(
            factors=order["factors"],
            regularization=order["regularization"],
            alpha=1.0,  # the confidences are in the rows
            iterations=ITERATIONS,
            num_threads=THREADS,
            random_state=order["seed"],
        )
        model.fit(_confidence(train, order["alpha"]), show_progress=False)
        fitted["model"] = model
        np.save(FOLDER / "items.npy", model.item_factors)
        return {}

    def users(order: dict[str, Any]) -> dict[str, Any]:
        """Users' vectors, solved exactly from the rows of a file. {"rows", "alpha"}."""
        rows = _confidence(load_npz(FOLDER / order["rows"]), order["alpha"])
        found = fitted["model"].recalculate_user(np.arange(rows.shape[0]), rows)
        np.save(FOLDER / "users.npy", found)
        return {}

    return {"fit": fit, "users": users}


def _confidence(rows: csr_matrix, alpha: float) -> csr_matrix:
    data = (1.0 + alpha * rows.data).astype(np.float32)
    return csr_matrix((data, rows.indices, rows.indptr), rows.shape)


serve(prepare)
