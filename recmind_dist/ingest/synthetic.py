"""A seeded bipartite graph of any size with power-law degrees and planted communities, and texts
that depend on the community.

Edge e is a function of only (seed, e), so memory is that of a chunk, and chunks of any size give
the same rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from recmind_dist.config import Settings
from recmind_dist.ingest.dataset import write_frames, writing
from recmind_dist.ingest.vocabulary import PLAIN, TRADES
from recmind_dist.randomness import integers, stream_key, uniforms
from recmind_dist.storage import atomic_directory, content_key, read_json, write_manifest
from recmind_dist.types import IntArray

KIND = "synthetic"
SCHEMA = 1
CHUNK = 2_000_000  # edges in memory at a time


class SyntheticSettings(Settings):
    """Size and shape of the graph. Pairs may repeat: ingest collapses them."""

    num_users: int = Field(default=2000, ge=1)
    num_items: int = Field(default=1000, ge=1)
    num_edges: int = Field(default=50_000, ge=1)
    num_communities: int = Field(default=8, ge=1)
    """node i belongs to community i mod num_communities"""
    power: float = Field(default=0.8, ge=0.0, lt=1.0)
    """popularity of the k-th node is ∝ k^-power; 0: uniform"""
    loyalty: float = Field(default=0.85, ge=0.0, le=1.0)
    """share of interactions within the community of the user"""
    community_words: int = Field(default=3, ge=0, le=8)
    """words of the community in an item's title"""
    item_words: int = Field(default=2, ge=0, le=8)
    """words in an item's title that do not depend on its community"""
    texts: bool = True
    """write items.parquet and users.parquet; false: 100 million edges in minutes"""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _populated(self) -> "SyntheticSettings":
        if self.num_communities > min(self.num_users, self.num_items):
            raise ValueError(
                "synthetic.num_communities is more than there are users or items: lower it"
            )
        return self


def synthesize(settings: SyntheticSettings, into: Path) -> Path:
    """Writes interactions.parquet (user, item, time), items.parquet (id, title, category) and
    users.parquet (id, category) to the directory `into`, unless it has them already.

    The same settings give the same bytes.

    Raises:
        StoreError: `into` cannot be written.
    """
    content = settings.model_dump(mode="json")
    key = content_key([SCHEMA, content])
    manifest = into / "manifest.json"
    if manifest.is_file() and read_json(manifest).get("key") == key:
        return into
    with writing(into.parent), atomic_directory(into) as work:
        chunks = (_edges(settings, start) for start in range(0, settings.num_edges, CHUNK))
        write_frames(work / "interactions.parquet", chunks)
        if settings.texts:
            items = (_item_rows(settings, chunk) for chunk in _chunks(settings.num_items))
            write_frames(work / "items.parquet", items)
            users = (_user_rows(settings, chunk) for chunk in _chunks(settings.num_users))
            write_frames(work / "users.parquet", users)
        write_manifest(work, KIND, SCHEMA, {"key": key, "settings": content})
    return into


def _chunks(count: int) -> Iterator[IntArray]:
    size = CHUNK // 10
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count), dtype=np.int64)


def _edges(settings: SyntheticSettings, start: int) -> pl.DataFrame:
    """Edges [start, start + CHUNK). Time is the edge's number, so later edges are newer."""
    edge = np.arange(start, min(start + CHUNK, settings.num_edges), dtype=np.int64)
    draw_user, draw_loyal, draw_item = (
        uniforms(stream_key(settings.seed, name), edge) for name in ("user", "loyal", "item")
    )
    num = settings.num_communities
    user = _power_law(draw_user, np.full(len(edge), settings.num_users), settings.power)
    other = integers(stream_key(settings.seed, "community"), edge, num)
    community = np.where(draw_loyal < settings.loyalty, user % num, other)
    members = (settings.num_items - community + num - 1) // num
    item = _power_law(draw_item, members, settings.power) * num + community
    return pl.DataFrame({"user": user, "item": item, "time": edge}).select(
        pl.concat_str(pl.lit("u"), "user").alias("user"),
        pl.concat_str(pl.lit("i"), "item").alias("item"),
        "time",
    )


def _power_law(draw: np.ndarray, count: IntArray, power: float) -> IntArray:
    """Ranks in [0, count) of density ∝ (rank + 1)^-power, by inversion. Shape: as `draw`."""
    rest = 1.0 - power
    rank = (draw * ((count + 1.0) ** rest - 1.0) + 1.0) ** (1.0 / rest) - 1.0
    clipped: IntArray = np.minimum(rank.astype(np.int64), count - 1)
    return clipped


def category(community: int) -> str:
    """The name of a community: its trade, with a number once all trades have been used."""
    trade = list(TRADES)[community % len(TRADES)]
    repeat = community // len(TRADES)
    return f"{trade} {repeat + 1}" if repeat else trade


def _item_rows(settings: SyntheticSettings, item: IntArray) -> pl.DataFrame:
    community = item % settings.num_communities
    plain = np.array(PLAIN)
    trades = np.array(list(TRADES.values()))  # [trades, words]
    words = []
    for k in range(settings.item_words):
        key = stream_key(settings.seed, f"item word {k}")
        words.append(plain[integers(key, item, len(plain))])
    for k in range(settings.community_words):
        key = stream_key(settings.seed, f"community word {k}")
        words.append(trades[community % len(trades), integers(key, item, trades.shape[1])])
    columns = {f"w{k}": column for k, column in enumerate(words)}
    names = _categories(settings)[community]
    frame = pl.DataFrame({"number": item, "category": names, **columns})
    title = pl.concat_str(*columns, pl.concat_str(pl.lit("no. "), "number"), separator=" ")
    identity = pl.concat_str(pl.lit("i"), "number")
    return frame.select(identity.alias("id"), title.alias("title"), "category")


def _user_rows(settings: SyntheticSettings, user: IntArray) -> pl.DataFrame:
    names = _categories(settings)[user % settings.num_communities]
    frame = pl.DataFrame({"number": user, "category": names})
    return frame.select(pl.concat_str(pl.lit("u"), "number").alias("id"), "category")


def _categories(settings: SyntheticSettings) -> np.ndarray:
    return np.array([category(community) for community in range(settings.num_communities)])
