"""A seeded bipartite graph of any size: power-law degrees, planted communities, and texts that tell
them (E edges).

Edge e is a function of (seed, e) alone, so chunks of any size give the same files and memory stays
that of a chunk.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as arrow_parquet
from pydantic import Field, model_validator

from recmind_dist.config import Settings
from recmind_dist.ingest.dataset import writing
from recmind_dist.ingest.vocabulary import PLAIN, TRADES
from recmind_dist.randomness import integers, stream_key, uniforms
from recmind_dist.storage import atomic_directory, content_key, read_json, write_manifest
from recmind_dist.types import IntArray

KIND = "synthetic"
SCHEMA = 1
CHUNK = 2_000_000  # edges in memory at a time


class SyntheticSettings(Settings):
    """Size and shape of the graph. Pairs may repeat, as visits do: ingest collapses them."""

    num_users: int = Field(default=2000, ge=1)
    num_items: int = Field(default=1000, ge=1)
    num_edges: int = Field(default=50_000, ge=1)
    num_communities: int = Field(default=8, ge=1)
    """communities take turns: node i belongs to community i mod num_communities"""
    power: float = Field(default=0.8, ge=0.0, lt=1.0)
    """popularity of the k-th of n is ∝ k^-power; 0 is uniform"""
    loyalty: float = Field(default=0.85, ge=0.0, le=1.0)
    """share of a user's interactions inside the user's own community"""
    community_words: int = Field(default=3, ge=0, le=8)
    """words of the community in an item's title"""
    item_words: int = Field(default=2, ge=0, le=8)
    """words in an item's title that say nothing of its community"""
    texts: bool = True
    """write items.parquet and users.parquet; without them a graph of a hundred million edges is
    made in minutes
    """
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _populated(self) -> "SyntheticSettings":
        if self.num_communities > min(self.num_users, self.num_items):
            raise ValueError(
                "synthetic.num_communities is more than there are users or items: lower it"
            )
        return self


def synthesize(settings: SyntheticSettings, into: Path) -> Path:
    """Writes interactions.parquet (user, item, time), items.parquet (id, title, category),
    users.parquet (id, category).

    The same settings give the same bytes; a directory that holds them already is returned
    untouched.

    Args:
        into: the directory to be made.

    Raises:
        StoreError: `into` cannot be written.
    """
    key = content_key([SCHEMA, settings.model_dump(mode="json")])
    manifest = into / "manifest.json"
    if manifest.is_file() and read_json(manifest).get("key") == key:
        return into
    with writing(into.parent), atomic_directory(into) as work:
        chunks = (_edges(settings, start) for start in range(0, settings.num_edges, CHUNK))
        _stream(work / "interactions.parquet", chunks)
        if settings.texts:
            _stream(work / "items.parquet", _each(settings, settings.num_items, _item_rows))
            _stream(work / "users.parquet", _each(settings, settings.num_users, _user_rows))
        write_manifest(
            work, KIND, SCHEMA, {"key": key, "settings": settings.model_dump(mode="json")}
        )
    return into


def _stream(path: Path, frames: Iterator[pl.DataFrame]) -> None:
    writer: arrow_parquet.ParquetWriter | None = None
    for frame in frames:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or arrow_parquet.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _each(
    settings: SyntheticSettings,
    count: int,
    rows: Callable[[SyntheticSettings, IntArray], pl.DataFrame],
) -> Iterator[pl.DataFrame]:
    for start in range(0, count, CHUNK // 10):
        yield rows(settings, np.arange(start, min(start + CHUNK // 10, count), dtype=np.int64))


def _edges(settings: SyntheticSettings, start: int) -> pl.DataFrame:
    """Edges [start, start + CHUNK). Time is the edge's number, so later edges are newer."""
    edge = np.arange(start, min(start + CHUNK, settings.num_edges), dtype=np.int64)

    def draw(name: str) -> np.ndarray:
        return uniforms(stream_key(settings.seed, name), edge)

    user = _by_power(draw("user"), np.full(len(edge), settings.num_users), settings.power)
    own = user % settings.num_communities
    other = integers(stream_key(settings.seed, "community"), edge, settings.num_communities)
    community = np.where(draw("loyal") < settings.loyalty, own, other)
    members = (
        settings.num_items - community + settings.num_communities - 1
    ) // settings.num_communities
    item = _by_power(draw("item"), members, settings.power) * settings.num_communities + community
    return pl.DataFrame({"user": user, "item": item, "time": edge}).select(
        pl.concat_str(pl.lit("u"), "user").alias("user"),
        pl.concat_str(pl.lit("i"), "item").alias("item"),
        "time",
    )


def _by_power(draw: np.ndarray, count: IntArray, power: float) -> IntArray:
    """Ranks in [0, count), density ∝ (rank + 1)^-power: the continuous distribution inverted.
    Shape: as `draw`.
    """
    rest = 1.0 - power
    rank = (draw * ((count + 1.0) ** rest - 1.0) + 1.0) ** (1.0 / rest) - 1.0
    within: IntArray = np.minimum(rank.astype(np.int64), count - 1)
    return within


def category(community: int) -> str:
    """The name of a community: its trade, with a number once the trades are used up."""
    trade = list(TRADES)[community % len(TRADES)]
    turn = community // len(TRADES)
    return trade if turn == 0 else f"{trade} {turn + 1}"


def _item_rows(settings: SyntheticSettings, item: IntArray) -> pl.DataFrame:
    community = item % settings.num_communities
    trades = np.array([TRADES[name] for name in TRADES])
    told = [
        trades[
            community % len(trades), _pick(settings, f"community word {k}", item, trades.shape[1])
        ]
        for k in range(settings.community_words)
    ]
    plain = np.array(PLAIN)
    untold = [
        plain[_pick(settings, f"item word {k}", item, len(plain))]
        for k in range(settings.item_words)
    ]
    columns = {f"w{k}": words for k, words in enumerate([*untold, *told])}
    names = np.array([category(c) for c in range(settings.num_communities)])
    frame = pl.DataFrame({"number": item, "category": names[community], **columns})
    title = pl.concat_str(*columns, pl.concat_str(pl.lit("no. "), "number"), separator=" ")
    return frame.select(
        pl.concat_str(pl.lit("i"), "number").alias("id"), title.alias("title"), "category"
    )


def _user_rows(settings: SyntheticSettings, user: IntArray) -> pl.DataFrame:
    names = np.array([category(c) for c in range(settings.num_communities)])
    frame = pl.DataFrame({"number": user, "category": names[user % settings.num_communities]})
    return frame.select(pl.concat_str(pl.lit("u"), "number").alias("id"), "category")


def _pick(settings: SyntheticSettings, name: str, rows: IntArray, high: int) -> IntArray:
    return integers(stream_key(settings.seed, name), rows, high)
