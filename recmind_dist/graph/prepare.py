"""`prepare_graph`: a data set → a graph directory: split, CSR, partition, texts by node."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recmind_dist import faults
from recmind_dist.errors import DataError
from recmind_dist.graph import splits
from recmind_dist.graph.csr import both_directions, edge_order, held_out_rows
from recmind_dist.graph.partition import partition_nodes
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.splits import TEST, TRAIN, VALID, WITHHELD, Interactions, Labels
from recmind_dist.graph.store import EDGE_WEIGHT, KIND, SCHEMA
from recmind_dist.graph.streaming import GraphWriter, coded_log, refuse_unstreamed
from recmind_dist.ingest.dataset import KIND as DATASET_KIND
from recmind_dist.ingest.dataset import SCHEMA as DATASET_SCHEMA
from recmind_dist.ingest.dataset import is_complete, writing
from recmind_dist.ingest.ids import natural_order
from recmind_dist.storage import (
    atomic_directory,
    building,
    content_key,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from recmind_dist.types import Int32Array, IntArray

MAX_NODES = 2**31 - 1  # node ids are int32 on disk


def prepare_graph(
    dataset_dir: Path, settings: GraphSettings, cache: Path, memory_mb: int = 0
) -> Path:
    """Splits, sorts and partitions a data set, unless the cache has that graph already.

    If several runs need the same graph at once, one makes it and the others wait. Nodes are
    numbered by external id (integers by value, then text), users first, so the order of files does
    not matter. Users and items with only held-out interactions are nodes too.

    Args:
        dataset_dir: the directory that `ingest_dataset` returns.
        cache: the directory that holds `<name>/graph-<key>/`.
        memory_mb: above 0 works in blocks of about this size (see `streaming`); same files.

    Raises:
        DataError: the split leaves no training interaction or does not exist, or there are more
            parts than nodes.
        StoreError: the data set is damaged, or the cache cannot be written.
    """
    dataset = read_manifest(dataset_dir, DATASET_KIND, DATASET_SCHEMA)
    parts = [SCHEMA, dataset["key"], settings.content()]
    key = content_key([*parts, "order drawn"] if draws_order(dataset, settings) else parts)
    final = cache / str(dataset["name"]) / f"graph-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    with building(final):
        if not is_complete(final, KIND, SCHEMA):  # unless another run made it meanwhile
            faults.check("prepare")
            verify_manifest(dataset_dir, dataset)
            _check_split(dataset, settings)
            source = _Source(dataset_dir, dataset, settings)
            if memory_mb:
                _prepare_in_blocks(source, key, final, memory_mb)
            else:
                _prepare_at_once(source, key, final)
    return final


def held_out_are_drawn(dataset_dir: Path, settings: GraphSettings) -> bool:
    """Whether the split of this data set draws what it holds out of each user."""
    return draws_order(read_manifest(dataset_dir, DATASET_KIND, DATASET_SCHEMA), settings)


def draws_order(dataset: dict[str, Any], settings: GraphSettings) -> bool:
    """Whether the split takes interactions in a drawn order, since the log has no times.

    Args:
        dataset: manifest of the data set.
    """
    return settings.split not in ("given", "none") and not dataset["has_time"]


@dataclass(frozen=True)
class _Source:
    """A data set with its manifest, and the settings of the graph to make from it."""

    path: Path
    dataset: dict[str, Any]
    settings: GraphSettings

    @property
    def interactions(self) -> Path:
        return self.path / "interactions.parquet"

    def nodes(self, side: str, logged: pl.Series) -> pl.DataFrame:
        """One row a node, in node order: id, then texts."""
        texts = pl.read_parquet(self.path / f"{side}s.parquet")
        ids = natural_order(pl.concat([logged.unique().alias("id"), texts.get_column("id")]))
        return ids.to_frame().join(texts, on="id", how="left", maintain_order="left")

    def content(self, key: str, counts: dict[str, int]) -> dict[str, Any]:
        """The content of the graph's manifest. Raises DataError without a training edge."""
        name, settings = self.dataset["name"], self.settings
        if not counts["num_edges"]:
            raise DataError(
                f"{name}: graph.split {settings.split} leaves no training interaction: "
                "hold out less"
            )
        return {
            "name": name,
            "key": key,
            "dataset_key": self.dataset["key"],
            "settings": settings.content(),
            "split": settings.split,
            "partition": settings.partition,
            "num_parts": settings.num_parts,
            **counts,
        }


def _prepare_at_once(source: _Source, key: str, final: Path) -> None:
    settings = source.settings
    frame = pl.read_parquet(source.interactions)
    users = source.nodes("user", frame.get_column("user"))
    items = source.nodes("item", frame.get_column("item"))
    num_users, num_items = _checked_sizes(source.path, users, items)
    log = Interactions(
        _codes(frame, "user", users),
        _codes(frame, "item", items),
        frame.get_column("time").to_numpy(),
        frame.get_column("row").to_numpy(),
        frame.get_column("weight").to_numpy() if "weight" in frame.columns else None,
    )
    if draws_order(source.dataset, settings):
        log = splits.shuffled(log, settings.seed)
    labels = _label(log, frame, num_items, source)
    if settings.withhold_items:
        labels = splits.withhold(labels, log, num_items, settings.withhold_items, settings.seed)
    counts = {"num_users": num_users, "num_items": num_items, **_counts(log, labels)}
    content = source.content(key, counts)
    with writing(final.parent.parent), atomic_directory(final) as work:
        _write_training(work, log[labels == TRAIN], num_users, num_items, settings)
        for split, label in (("valid", VALID), ("test", TEST)):
            held = log[labels == label]
            indptr, indices = held_out_rows(held.user, held.item, num_users, num_items)
            np.save(work / f"{split}_indptr.npy", indptr)
            np.save(work / f"{split}_indices.npy", indices)
        users.write_parquet(work / "users.parquet")
        items.write_parquet(work / "items.parquet")
        write_manifest(work, KIND, SCHEMA, content)


def _prepare_in_blocks(source: _Source, key: str, final: Path, memory_mb: int) -> None:
    settings = source.settings
    refuse_unstreamed(settings)
    with writing(final.parent.parent), atomic_directory(final) as work:
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-spill-") as folder:
            spill, logged = coded_log(source.interactions, Path(folder) / "log", memory_mb)
            users = source.nodes("user", logged["user"])
            items = source.nodes("item", logged["item"])
            num_users, num_items = _checked_sizes(source.path, users, items)
            spill.sort(
                _codes(logged["user"].to_frame("user"), "user", users),
                _codes(logged["item"].to_frame("item"), "item", items),
            )
            draws = draws_order(source.dataset, settings)
            writer = GraphWriter(work, num_users, num_items, settings, memory_mb, draws)
            for b in range(spill.num_blocks):
                writer.add(spill.block(b))  # no name, so that only one block is in memory
        counts = {"num_users": num_users, "num_items": num_items, **writer.counts}
        content = source.content(key, counts)
        indptr = writer.finish()
        indices = np.load(work / "indices.npy", mmap_mode="r", allow_pickle=False)
        _write_partition(work, settings, indptr, indices)
        users.write_parquet(work / "users.parquet")
        items.write_parquet(work / "items.parquet")
        write_manifest(work, KIND, SCHEMA, content)


def _checked_sizes(path: Path, users: pl.DataFrame, items: pl.DataFrame) -> tuple[int, int]:
    """The numbers of users and items. Raises DataError for too many nodes."""
    num_nodes = users.height + items.height
    if num_nodes > MAX_NODES:
        raise DataError(f"{path}: {num_nodes} nodes: a graph holds at most {MAX_NODES}")
    return users.height, items.height


def _check_split(dataset: dict[str, Any], settings: GraphSettings) -> None:
    name = dataset["name"]
    given = settings.split == "given"
    if given and not dataset["given_split"]:
        raise DataError(
            f"{name}: graph.split is given, but the data set has none: set dataset.test"
        )
    if not given and dataset["given_split"]:
        raise DataError(
            f"{name}: dataset.test gives a split: set graph.split: given, or unset dataset.test"
        )
    if settings.split == "global-time" and not dataset["has_time"]:
        raise DataError(
            f"{name}: graph.split global-time cuts the log by time, and it has no column of times: "
            "set dataset.interactions.columns.time, or graph.split: leave-one-out or ratio"
        )
    if given and dataset["has_valid"] and settings.valid_share:
        raise DataError(
            f"{name}: dataset.valid and graph.valid_share both make a validation set: unset one"
        )


def _codes(frame: pl.DataFrame, side: str, nodes: pl.DataFrame) -> IntArray:
    """External ids → codes from 0, which are rows of `nodes`."""
    code = pl.int_range(pl.len(), dtype=pl.Int64).alias("code")
    numbered = nodes.select(pl.col("id").alias(side), code)
    joined = frame.select(side).join(numbered, on=side, how="left", maintain_order="left")
    return joined.get_column("code").to_numpy()


def _label(log: Interactions, frame: pl.DataFrame, num_items: int, source: _Source) -> Labels:
    settings = source.settings
    if settings.split == "none":
        return np.full(len(log.user), TRAIN, np.int8)
    if settings.split == "leave-one-out":
        return splits.leave_one_out(log)
    if settings.split == "ratio":
        return splits.ratio(log, settings.valid_share, settings.test_share)
    if settings.split == "global-time":
        return splits.global_time(log, settings.valid_share, settings.test_share)
    names = {"train": TRAIN, "valid": VALID, "test": TEST}
    labels = frame.get_column("split").replace_strict(names, return_dtype=pl.Int8).to_numpy()
    if settings.valid_share and not source.dataset["has_valid"]:
        return splits.share_of_training(labels, log, num_items, settings.valid_share, settings.seed)
    return labels


def _counts(log: Interactions, labels: Labels) -> dict[str, int]:
    tested = np.unique(log.user[labels == TEST])
    return {
        "num_edges": int((labels == TRAIN).sum()),
        "num_valid": int((labels == VALID).sum()),
        "num_withheld": int((labels == WITHHELD).sum()),
        "num_test": int((labels == TEST).sum()),
        "users_without_test": int(len(np.unique(log.user)) - len(tested)),
    }


def _write_training(
    work: Path, train: Interactions, num_users: int, num_items: int, settings: GraphSettings
) -> None:
    rank = splits.rank_in_time(train)
    order = edge_order(train.user, train.item, num_users, num_items)
    indptr, indices = both_directions(train.user[order], train.item[order], num_users, num_items)
    np.save(work / "indptr.npy", indptr)
    np.save(work / "indices.npy", indices)
    np.save(work / "time_rank.npy", rank[order].astype(np.int32))
    if train.weight is not None:
        mean = train.weight.mean()
        np.save(work / EDGE_WEIGHT, (train.weight[order] / mean).astype(np.float32))
    _write_partition(work, settings, indptr, indices)


def _write_partition(
    work: Path, settings: GraphSettings, indptr: IntArray, indices: Int32Array
) -> None:
    row_of_node, part_rows = partition_nodes(settings, indptr, indices)
    np.save(work / "row_of_node.npy", row_of_node)
    np.save(work / "part_rows.npy", part_rows)
