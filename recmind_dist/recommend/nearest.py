"""Approximate nearest items by an index of faiss, for catalogues where all inner products are slow.

The index is made of a bundle by `build_index`, which measures what it finds of the exact ranking
and refuses an index below a bound. Ranking is exact wherever this module is not asked for
(`--index`), and where only some items may be ranked.

Legend: u users, I items, C columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmind_dist.errors import DataError, StoreError
from recmind_dist.extras import needs_extra
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.ranking import top_items
from recmind_dist.recommend.rewrite import rewriting, with_card_line
from recmind_dist.storage.keys import sha256_file
from recmind_dist.types import FloatArray, IntArray

INDEX = "index.faiss"
KINDS = ("hnsw", "ivf")
_QUERIES = 1000
_NEIGHBORS, _EF_CONSTRUCTION, _EF_SEARCH = 32, 500, 256  # of HNSW
_SHARE_OF_LISTS = 0.25  # of IVF's, that a search looks through
_MOST_LISTS = 4096


def build_index(bundle: Bundle, kind: str = "hnsw", k: int = 20, min_recall: float = 0.95) -> float:
    """Writes an index into the bundle, its recall into manifest and card. Returns the recall@k:
    the share of the exact k best items that it finds, over up to 1,000 users (of a bundle without
    users: items).

    Args:
        kind: "hnsw", a graph of near items, or "ivf", lists around centres.
        min_recall: an index that finds less is not kept.
    Raises:
        DataError: no such kind; faiss is not installed; the index finds too little.
    """
    if kind not in KINDS:
        raise DataError(f"--kind {kind}: choose {' or '.join(KINDS)}")
    items = bundle.item_vectors
    index, queries, k = _made(items, kind), _queries(bundle), min(k, len(items))
    exact, _ = top_items(queries, items, k)
    found = _search(index, queries, k)
    shares = [len(set(a) & set(b)) / k for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    recall = float(np.mean(shares))
    if recall < min_recall:
        raise DataError(
            f"{bundle.path}: {kind} finds {recall:.3f} of the exact {k} best items, less than "
            f"--min-recall {min_recall:g}: rank exactly, or choose the other --kind"
        )
    with needs_extra("faiss"):
        import faiss

        data = faiss.serialize_index(index).tobytes()
    about = {"kind": kind, "k": k, "recall": recall, "queries": len(queries)}
    line = f"Nearest neighbours: {kind}, recall@{k} {recall:.4f} of {len(queries)} exact rankings."
    with rewriting(bundle, {"index": about}, {INDEX, "README.md"}) as directory:
        (directory / INDEX).write_bytes(data)
        with_card_line(bundle, directory, "Nearest neighbours", line)
    return recall


class NearestItems:
    """Ranks by the bundle's index, with `top_items`' answers but for items that it misses.

    Raises:
        DataError: the bundle has no index, or faiss is not installed.
        StoreError: the index is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        if INDEX not in bundle.manifest["files"]:
            raise DataError(f"{bundle.path}: has no index: run `recmind index {bundle.path}`")
        self._bundle, self._index = bundle, _read(bundle)

    def top_items(
        self,
        users_uC: FloatArray,
        k: int,
        hidden: Sequence[NDArray[np.integer[Any]]] | None = None,
    ) -> tuple[IntArray, FloatArray]:
        """Positions and exact scores of near items, the best first; see `ranking.top_items`.
        Shapes: [u, k].
        """
        most_hidden = max((len(items) for items in hidden or ()), default=0)
        wanted = min(k + most_hidden, self._bundle.num_items)
        found = _search(self._index, users_uC, wanted)
        positions = np.full((len(users_uC), k), -1, np.int64)
        scores = np.full((len(users_uC), k), -np.inf, np.float32)
        for row, near in enumerate(found):
            near = np.sort(near[near >= 0])
            if hidden is not None:
                near = near[~np.isin(near, hidden[row])]
            score = self._bundle.item_vectors[near] @ users_uC[row]
            best = np.argsort(-score, kind="stable")[:k]
            positions[row, : len(best)], scores[row, : len(best)] = near[best], score[best]
        return positions, scores


def _read(bundle: Bundle) -> Any:
    path = bundle.path / INDEX
    if sha256_file(path) != bundle.manifest["files"][INDEX]["sha256"]:
        raise StoreError(f"{path}: damaged: run `recmind index` again")
    with needs_extra("faiss"):
        import faiss
    return faiss.deserialize_index(np.frombuffer(path.read_bytes(), np.uint8))


def _queries(bundle: Bundle) -> FloatArray:
    """Finite vectors of users, or of items, drawn without repeats."""
    rng, count = np.random.default_rng(0), len(bundle.users.ids)
    if not count:
        return bundle.item_vectors[rng.permutation(bundle.num_items)[:_QUERIES]]
    found = bundle.users.vectors(np.sort(rng.permutation(count)[:_QUERIES]))
    finite = found[np.isfinite(found).all(axis=1)]
    if not len(finite):
        raise DataError(f"{bundle.path}: no user has a vector to measure the index by")
    return finite


def _made(items_IC: FloatArray, kind: str) -> Any:
    """An index by inner product."""
    with needs_extra("faiss"):
        import faiss
    items = np.ascontiguousarray(items_IC, np.float32)
    width = items.shape[1]
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _EF_CONSTRUCTION, _EF_SEARCH
    else:
        lists = max(1, min(int(np.sqrt(len(items))), _MOST_LISTS))
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(centres, width, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, int(_SHARE_OF_LISTS * lists))
        index.cp.min_points_per_centroid = 1
        index.train(items)
    index.add(items)
    return index


def _search(index: Any, users_uC: FloatArray, k: int) -> IntArray:
    """Positions, -1 where there are fewer. Shape: [u, k]."""
    found: IntArray = index.search(np.ascontiguousarray(users_uC, np.float32), k)[1]
    return found
