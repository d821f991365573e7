"""The texts of a run: rendered from its graph; of an update, users' texts are made anew by policy.

The ledger of users' texts (user_texts.parquet in the run of an update) says of each user which text
they have, and how many interactions it knew: id, text, events, time (seconds of the log).
"""

import io
from pathlib import Path

import numpy as np
import polars as pl

from recmind_dist.errors import StoreError
from recmind_dist.graph import Graph
from recmind_dist.ingest.dataset import KIND as DATASET
from recmind_dist.ingest.dataset import SCHEMA as DATASET_SCHEMA
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.run_config.update_settings import UpdateSettings
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.storage import check_seal, read_manifest, write_sealed
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.text import Texts, build_texts

LEDGER = "user_texts.parquet"
DAY_S = 86_400.0


def texts_of_run(config: RunConfig, graph: Graph) -> Texts:
    """All texts of a run. Titles of edges held out for the gates are left out of user texts."""
    texts = render_texts(config, graph)
    if not config.users_have_text or not config.updates:
        return texts
    return Texts(texts.items, user_ledger(config, graph, texts)["text"].to_list())


def render_texts(config: RunConfig, graph: Graph) -> Texts:
    """All texts as the graph has them now."""
    heldout, gate = None, config.gate
    if config.heldout_gates and gate is not None:
        seed = config.graph.seed
        heldout = heldout_slice(graph, gate.heldout_share, seed, gate.withheld_items)
    users = config.users_have_text
    return build_texts(graph, config.text, heldout, users=users, spool=config.cache_dir)


def texts_of_previous(previous: PreviousRun) -> Texts:
    """The texts that a finished run has vectors of."""
    texts = render_texts(previous.config, previous.graph)
    ledger = _read_ledger(previous.directory)
    return texts if ledger is None else Texts(texts.items, ledger["text"].to_list())


def user_ledger(config: RunConfig, graph: Graph, rendered: Texts) -> pl.DataFrame:
    """The ledger of an update, in node order.

    Args:
        rendered: the texts as the graph has them now.
    """
    assert config.update.of is not None, "only an update keeps texts"
    previous = PreviousRun.open(config.update.of)
    before = _read_ledger(previous.directory)
    if before is None:
        texts = render_texts(previous.config, previous.graph)
        before = _ledger(previous.graph, texts)
    return refreshed(before, _ledger(graph, rendered), config.update)


def refreshed(before: pl.DataFrame, now: pl.DataFrame, settings: UpdateSettings) -> pl.DataFrame:
    """`now`, but for users whose text stays as it was. Shape: as `now`.

    Args:
        before, now: ledgers.
    """
    joined = now.join(before, on="id", how="left", suffix="_old", maintain_order="left")
    events = pl.col("events") - pl.col("events_old")
    days = (pl.col("time") - pl.col("time_old")) / DAY_S
    changed = pl.col("text_old").ne_missing(pl.col("text")) & pl.col("text_old").is_not_null()
    stays = (
        changed & (events < settings.refresh_after_events) & (days < settings.refresh_every_days)
    )
    kept = [
        pl.when(stays).then(pl.col(f"{name}_old")).otherwise(pl.col(name)).alias(name)
        for name in ("text", "events", "time")
    ]
    return joined.select("id", *kept)


def write_ledger(run: RunDirectory, ledger: pl.DataFrame) -> None:
    """Writes the ledger of an update, with its hash."""
    data = io.BytesIO()
    ledger.write_parquet(data)
    write_sealed(run.path / LEDGER, data.getvalue())


def _read_ledger(run: RunDirectory) -> pl.DataFrame | None:
    path = run.path / LEDGER
    if not path.is_file():
        return None
    check_seal(path, DOCTOR)
    return pl.read_parquet(path)


def _ledger(graph: Graph, texts: Texts) -> pl.DataFrame:
    degree = np.asarray(graph.degree)[: graph.num_users].astype(np.int64)
    frame = pl.DataFrame({"id": graph.user_ids, "text": pl.Series(texts.users, dtype=pl.String)})
    return frame.with_columns(events=pl.Series(degree), time=pl.lit(newest_time_s(graph)))


def newest_time_s(graph: Graph) -> float:
    """Seconds of the newest interaction of the graph's data set; 0 where it has no times."""
    dataset = dataset_of(graph)
    if not read_manifest(dataset, DATASET, DATASET_SCHEMA)["has_time"]:
        return 0.0
    log = pl.scan_parquet(dataset / "interactions.parquet")
    return seconds(float(log.select(pl.col("time").max()).collect(engine="streaming").item()))


def seconds(time: float) -> float:
    """A time of a log in seconds, by its size: milli-, micro- and nanoseconds of our days are a
    thousand times as large.
    """
    while abs(time) >= 1e11:
        time /= 1000.0
    return time


def dataset_of(graph: Graph) -> Path:
    """The data set that a graph was made of. Raises StoreError: it is not there."""
    path = graph.dataset
    if not path.is_dir():
        raise StoreError(
            f"{path}: not there, and an update compares logs: run `recmind prepare` with the run's "
            "config.yaml, which makes it again"
        )
    return path
