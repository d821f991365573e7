"""RecMind's defaults on given item vectors, several runs at once, for benchmarks/adaptation.py."""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.adaptation_data import Data, metrics

Rankings = dict[tuple[str, str], dict[str, Any]]
"""(protocol, split) → metrics: "RecMind" by histories to the training edge, "folded" with the
validation item.
"""


class RecMindRuns:
    """Runs under way, in processes of their own. Leaving the context begins no more.

    Args:
        jobs: processes; 0: no run is ever begun.
    """

    def __init__(self, data: Data, jobs: int) -> None:
        self._data, self._futures = data, dict[Future[Rankings], tuple[str, int]]()
        self._home = Path(tempfile.mkdtemp())
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, spawn) if jobs else None

    def begin(self, arm: str, x_IT: Tensor, seed: int) -> None:
        """Begins a run on an arm's vectors, once a process is free."""
        if self._pool is None:
            return
        vectors = self._home / f"{arm}-{seed}.npy"
        np.save(vectors, x_IT.float().cpu().numpy())
        folder, device = self._data.folder.absolute(), self._data.device.type
        future = self._pool.submit(train_and_rank, folder, vectors, seed, device)
        self._futures[future] = arm, seed

    def finished(self, until: float) -> Iterator[tuple[str, int, Rankings | BaseException]]:
        """Arm, seed and outcome of the runs that have ended since the last call.

        Args:
            until: of time.monotonic, when no run is waited for any longer.
        """
        while self._futures:
            left = max(until - time.monotonic(), 0.0)
            done, _ = wait(self._futures, left, "FIRST_COMPLETED")
            if not done:
                return
            for future in done:
                yield *self._futures.pop(future), future.exception() or future.result()

    def __enter__(self) -> "RecMindRuns":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=not self._futures, cancel_futures=True)
        shutil.rmtree(self._home)


def train_and_rank(folder: Path, vectors: Path, seed: int, device: str) -> Rankings:
    """Trains RecMind on item vectors and ranks by both protocols.

    Args:
        folder: of `Data`.
        vectors: .npy of [I, T], whitened already; rows of zeros stand for items without text.
    """
    from recmind_dist.launch.in_process import join_group_of_one, train_phases
    from recmind_dist.report import RunDirectory
    from recmind_dist.training.finished_run import load_best

    torch.set_num_threads(1)
    data, home = _data(folder, device), Path(tempfile.mkdtemp())
    changes = {
        "run_dir": home,
        "train": data.config.train.model_copy(update={"seed": seed}),
        "scaling": data.config.scaling.model_copy(update={"num_workers": 1, "device": device}),
    }
    config = data.config.model_copy(update=changes)
    inputs = write_inputs(data, np.load(vectors), home)
    context = join_group_of_one(config, device)
    train_phases(config, inputs, ("joint",), context, "never", False, lambda _: None)
    model, _ = load_best(config, inputs, RunDirectory(home), context)
    final = model.final_embeddings().final
    folded = model.fold_in().with_validation_items(final)
    shutil.rmtree(home)
    sides = [data.num_users, data.num_items]
    return {
        ("RecMind", "valid"): metrics(data, *final.split(sides), "valid"),
        ("RecMind", "test"): metrics(data, *final.split(sides), "test"),
        ("folded", "test"): metrics(data, *folded.split(sides), "test"),
    }


def write_inputs(data: Data, x_IT: np.ndarray[Any, Any], home: Path) -> Any:
    """A text store of the vectors, at a mean square length of 1, and a whitening that keeps them
    as they are. Returns `RunStores`.
    """
    from recmind_dist.text import TextStore, Whitening
    from recmind_dist.training.run_stores import RunStores

    has_text = (x_IT != 0).any(1)
    x_IT = x_IT / np.sqrt(np.square(x_IT[has_text]).sum(1).mean())
    rows, dim = np.where(has_text[:, None], x_IT, np.nan).astype(np.float16), x_IT.shape[1]
    by_side = {"items": rows, "users": np.full((data.num_users, dim), np.nan, np.float16)}
    counts = {side: len(vectors) for side, vectors in by_side.items()}
    store = TextStore.create(home / "vectors", {}, dim, counts)
    for side, vectors in by_side.items():
        for shard in range(store.num_shards(side)):
            part = vectors[slice(*store.shard_range(side, shard))]
            store.write_shard(side, shard, part, "adapted")
    mean, matrix = np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)
    whitening, graph = home / "whitening.safetensors", data.folder / "graph"
    Whitening(dict.fromkeys(by_side, mean), dict.fromkeys(by_side, matrix)).save(whitening)
    return RunStores(graph, store.path, whitening, None, "adapted", store.content_key())


@lru_cache(1)
def _data(folder: Path, device: str) -> Data:
    return Data(folder, device)
