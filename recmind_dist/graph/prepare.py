"""`prepare_graph`: a data set directory → a graph directory (split, CSR both ways, partition, texts
in node order).
"""

import tempfile
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
from recmind_dist.graph.store import KIND, SCHEMA
from recmind_dist.graph.streaming import GraphWriter, logged_ids, refuse_unstreamed, sorted_log
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
    """Splits, sorts and partitions a data set. What was done before is found by content and
    returned untouched.

    Of runs that want the same graph at once, one makes it and the others wait for it.

    Nodes are numbered by external id (whole numbers by value, then text), users first: the order of
    files does not matter. Users and items that are only held out keep their node.

    Args:
        dataset_dir: as `ingest_dataset` returns it; cache: holds `<name>/graph-<key>/`; memory_mb:
        above 0 works in blocks of about so much (see `streaming`); the files are the same.

    Raises:
        DataError: the split leaves nothing to train on, is not there, or there are more parts than
        nodes.
        StoreError: the data set is damaged, or the cache cannot be written.
    """
    dataset = read_manifest(dataset_dir, DATASET_KIND, DATASET_SCHEMA)
    key = content_key([SCHEMA, dataset["key"], settings.content()])
    final = cache / str(dataset["name"]) / f"graph-{key[:12]}"
    if is_complete(final, KIND, SCHEMA):
        return final
    with building(final):
        if not is_complete(
            final, KIND, SCHEMA
        ):  # another run may have made it while this one waited
            _prepare(dataset_dir, dataset, settings, key, final, memory_mb)
    return final


def _prepare(
    dataset_dir: Path,
    dataset: dict[str, Any],
    settings: GraphSettings,
    key: str,
    final: Path,
    memory_mb: int,
) -> None:
    faults.check("prepare")
    verify_manifest(dataset_dir, dataset)
    _check_split(dataset, settings)
    content = {
        "name": dataset["name"],
        "key": key,
        "dataset_key": dataset["key"],
        "settings": settings.content(),
    }
    content |= {
        "split": settings.split,
        "partition": settings.partition,
        "num_parts": settings.num_parts,
    }
    if memory_mb:
        _prepare_in_blocks(dataset_dir, dataset, settings, final, content, memory_mb)
    else:
        _prepare_at_once(dataset_dir, dataset, settings, final, content)


def _prepare_at_once(
    dataset_dir: Path,
    dataset: dict[str, Any],
    settings: GraphSettings,
    final: Path,
    content: dict[str, Any],
) -> None:
    frame = pl.read_parquet(dataset_dir / "interactions.parquet")
    users = _nodes(frame.get_column("user"), dataset_dir / "users.parquet")
    items = _nodes(frame.get_column("item"), dataset_dir / "items.parquet")
    _check_size(dataset_dir, users, items)
    log = _encode(frame, users, items)
    labels = _label(log, frame, items.height, dataset, settings)
    if settings.withhold_items:
        labels = splits.withhold(labels, log, items.height, settings.withhold_items, settings.seed)
    _check_left(dataset, settings, int((labels == TRAIN).sum()))
    content |= {"num_users": users.height, "num_items": items.height, **_counts(log, labels)}
    with writing(final.parent.parent), atomic_directory(final) as work:
        _write_training(work, log, labels, users.height, items.height, settings)
        for split, label in (("valid", VALID), ("test", TEST)):
            chosen = labels == label
            indptr, indices = held_out_rows(
                log.user[chosen], log.item[chosen], users.height, items.height
            )
            np.save(work / f"{split}_indptr.npy", indptr)
            np.save(work / f"{split}_indices.npy", indices)
        users.write_parquet(work / "users.parquet")
        items.write_parquet(work / "items.parquet")
        write_manifest(work, KIND, SCHEMA, content)


def _prepare_in_blocks(
    dataset_dir: Path,
    dataset: dict[str, Any],
    settings: GraphSettings,
    final: Path,
    content: dict[str, Any],
    memory_mb: int,
) -> None:
    refuse_unstreamed(settings)
    log = dataset_dir / "interactions.parquet"
    users, items = (
        _nodes(logged_ids(log, side), dataset_dir / f"{side}s.parquet") for side in ("user", "item")
    )
    _check_size(dataset_dir, users, items)
    with writing(final.parent.parent), atomic_directory(final) as work:
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-spill-") as folder:
            writer = GraphWriter(work, users.height, items.height, settings, memory_mb)
            spill = sorted_log(log, users["id"], items["id"], Path(folder) / "log", memory_mb)
            for b in range(spill.num_blocks):
                writer.add(spill.block(b))
        _check_left(dataset, settings, writer.counts["num_edges"])
        indptr = writer.finish()
        indices = np.load(work / "indices.npy", mmap_mode="r", allow_pickle=False)
        _write_partition(work, settings, indptr, indices)
        users.write_parquet(work / "users.parquet")
        items.write_parquet(work / "items.parquet")
        counts = {"num_users": users.height, "num_items": items.height, **writer.counts}
        write_manifest(work, KIND, SCHEMA, content | counts)


def _check_size(dataset_dir: Path, users: pl.DataFrame, items: pl.DataFrame) -> None:
    if users.height + items.height > MAX_NODES:
        raise DataError(
            f"{dataset_dir}: {users.height + items.height} nodes: a graph holds at most {MAX_NODES}"
        )


def _check_left(dataset: dict[str, Any], settings: GraphSettings, num_edges: int) -> None:
    if not num_edges:
        raise DataError(
            f"{dataset['name']}: graph.split {settings.split} leaves no training interaction: "
            "hold out less"
        )


def _check_split(dataset: dict[str, Any], settings: GraphSettings) -> None:
    given = settings.split == "given"
    if given and not dataset["given_split"]:
        raise DataError(
            f"{dataset['name']}: graph.split is given, but the data set has none: set dataset.test"
        )
    if not given and dataset["given_split"]:
        raise DataError(
            f"{dataset['name']}: dataset.test gives a split: set graph.split: given, or unset "
            "dataset.test"
        )
    if given and dataset["has_valid"] and settings.valid_share:
        raise DataError(
            f"{dataset['name']}: dataset.valid and graph.valid_share both make a validation set: "
            "unset one"
        )


def _nodes(logged: pl.Series, table: Path) -> pl.DataFrame:
    """One row a node, in node order, with its texts."""
    texts = pl.read_parquet(table)
    ids = natural_order(pl.concat([logged.unique().alias("id"), texts.get_column("id")]))
    return ids.to_frame().join(texts, on="id", how="left", maintain_order="left")


def _encode(frame: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> Interactions:
    """External ids → codes from 0."""

    def codes(side: str, nodes: pl.DataFrame) -> IntArray:
        numbered = nodes.select(
            pl.col("id").alias(side), pl.int_range(pl.len(), dtype=pl.Int64).alias("code")
        )
        return (
            frame.select(side)
            .join(numbered, on=side, how="left", maintain_order="left")
            .get_column("code")
            .to_numpy()
        )

    times = frame.get_column("time").to_numpy()
    return Interactions(
        codes("user", users), codes("item", items), times, frame.get_column("row").to_numpy()
    )


def _label(
    log: Interactions,
    frame: pl.DataFrame,
    num_items: int,
    dataset: dict[str, Any],
    settings: GraphSettings,
) -> Labels:
    if settings.split == "leave-one-out":
        return splits.leave_one_out(log)
    if settings.split == "ratio":
        return splits.ratio(log, settings.valid_share, settings.test_share)
    if settings.split == "global-time":
        return splits.global_time(log, settings.valid_share, settings.test_share)
    names = {"train": TRAIN, "valid": VALID, "test": TEST}
    labels = frame.get_column("split").replace_strict(names, return_dtype=pl.Int8).to_numpy()
    if settings.valid_share and not dataset["has_valid"]:
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
    work: Path,
    log: Interactions,
    labels: Labels,
    num_users: int,
    num_items: int,
    settings: GraphSettings,
) -> None:
    chosen = labels == TRAIN
    train = Interactions(log.user[chosen], log.item[chosen], log.time[chosen], log.row[chosen])
    rank = splits.rank_in_time(train)
    order = edge_order(train.user, train.item, num_users, num_items)
    indptr, indices = both_directions(train.user[order], train.item[order], num_users, num_items)
    np.save(work / "indptr.npy", indptr)
    np.save(work / "indices.npy", indices)
    np.save(work / "time_rank.npy", rank[order].astype(np.int32))
    _write_partition(work, settings, indptr, indices)


def _write_partition(
    work: Path, settings: GraphSettings, indptr: IntArray, indices: Int32Array
) -> None:
    row_of_node, part_rows = partition_nodes(settings, indptr, indices)
    np.save(work / "row_of_node.npy", row_of_node)
    np.save(work / "part_rows.npy", part_rows)
