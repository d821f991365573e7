"""Item files whose texts are hidden, replaced or dealt anew, from those of a data set.

Legend: I items, in the order of the graph.
"""

import io
from pathlib import Path

import numpy as np
import polars as pl

from recmind_dist.errors import DataError
from recmind_dist.graph import Graph
from recmind_dist.randomness import stream_key, uniforms
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_bytes
from recmind_dist.text import build_texts
from recmind_dist.text.columns import has_text
from recmind_dist.types import BoolArray, IntArray

BOILERPLATE = "Thank you for shopping with us. See our store for more."


def refuse_without_texts(graph: Graph, config: RunConfig) -> None:
    """Raises DataError: fewer than two items have a text, so there is nothing to change."""
    texts = build_texts(graph, config.text, users=False).items
    if int(has_text(texts).sum()) < 2:
        raise DataError(
            f"data set {config.dataset.name}: fewer than two items have a text: name a file with "
            "texts as dataset.items"
        )


def chosen(num_items: int, share: float, seed: int) -> BoolArray:
    """A share of the items, of which a smaller share with the same seed is a part. Shape: [I]."""
    return uniforms(stream_key(seed, "item-texts"), np.arange(num_items)) < share


def hidden(items: pl.DataFrame, these: BoolArray) -> pl.DataFrame:
    """Without the texts of these items."""
    return _where(items, these, {})


def boilerplate(items: pl.DataFrame, these: BoolArray) -> pl.DataFrame:
    """With one and the same sentence as the first field of these items, and nothing else."""
    return _where(items, these, {items.columns[1]: BOILERPLATE})


def permuted(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    """With all texts dealt anew among the items."""
    order = np.argsort(uniforms(stream_key(seed, "deal-texts"), np.arange(items.height)))
    return _with_texts_of(items, order)


def misleading(items: pl.DataFrame, degree: IntArray, share: float, seed: int) -> pl.DataFrame:
    """With texts of other items in place of those of the most popular ones.

    Args:
        degree: [I].
        share: of the items, at most one half.
    """
    count = min(round(share * items.height), items.height // 2)
    popular = np.argsort(-degree, kind="stable")[:count]
    others = np.setdiff1d(np.arange(items.height), popular)
    drawn = np.argsort(uniforms(stream_key(seed, "mislead"), others))[:count]
    order = np.arange(items.height)
    order[popular] = others[drawn]
    return _with_texts_of(items, order)


def write_items(items: pl.DataFrame, path: Path) -> str:
    """Writes an item file; returns the override that names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    items.write_parquet(out)
    write_bytes(path, out.getvalue())
    return f"dataset.items={{path: '{path}', format: parquet, id: id}}"


def _where(items: pl.DataFrame, these: BoolArray, texts: dict[str, str]) -> pl.DataFrame:
    marked = pl.Series(these)
    return items.with_columns(
        pl.when(marked).then(pl.lit(texts.get(name), pl.String)).otherwise(pl.col(name)).alias(name)
        for name in items.columns[1:]
    )


def _with_texts_of(items: pl.DataFrame, order: IntArray) -> pl.DataFrame:
    """Row k with the texts of row `order[k]`."""
    return pl.concat([items.select("id"), items.select(pl.exclude("id"))[order]], how="horizontal")
