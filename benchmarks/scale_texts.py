"""Random text vectors of a benchmark's items, made once and kept."""

from pathlib import Path

import numpy as np

from benchmarks.environments import CACHE
from recmind_dist.graph import Graph
from recmind_dist.storage import atomic_directory
from recmind_dist.text import TextStore, Whitening

DIM = 64


def texts_of(graph: Graph, name: str, cache: Path = CACHE) -> Path:
    """A directory with `text`, a store in which items have vectors and users none, and
    `whitening.safetensors`.
    """
    path = cache / "graphs" / f"{name}-text{DIM}"
    if not path.is_dir():
        with atomic_directory(path) as work:
            rows = {"items": graph.num_items, "users": graph.num_users}
            store = TextStore.create(work / "text", {"made": "at random"}, DIM, rows)
            rng = np.random.default_rng(0)
            for side in rows:
                for shard in range(store.num_shards(side)):
                    start, stop = store.shard_range(side, shard)
                    vectors = np.full((stop - start, DIM), np.nan, np.float16)
                    if side == "items":
                        vectors[:] = rng.standard_normal(vectors.shape, np.float32)
                    store.write_shard(side, shard, vectors, "random")
            Whitening.fit(store).save(work / "whitening.safetensors")
    return path
