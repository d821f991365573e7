"""Writes the bundle of a trained model: vectors, states and weights that rank without torch.

Legend: U users, I items, N nodes, D embedding dims, C columns of a vector.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from safetensors.numpy import save_file
from torch import Tensor

from recmind_dist.errors import ConfigError
from recmind_dist.export.card import model_card
from recmind_dist.export.text_model import text_settings, write_text_model
from recmind_dist.graph import EdgeRows, Graph
from recmind_dist.inference.fold_in import FoldIn, reads_histories
from recmind_dist.inference.user_states import UserStates
from recmind_dist.model.alpharec import AlphaRec
from recmind_dist.model.models import Model
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.recmind import RecMind
from recmind_dist.recommend.bundle import (
    KIND,
    OWN_COLUMNS,
    ROW_GROUP,
    SCHEMA,
    Bundle,
    lists_of_column,
    vector_column,
)
from recmind_dist.recommend.fold_in import FoldIn as BundleFoldIn
from recmind_dist.recommend.fold_in import Histories
from recmind_dist.recommend.parquet_files import write_items, write_users
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import atomic_directory, follow_umask, write_bytes, write_manifest
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import title_template, word_fields
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.state import Cursor
from recmind_dist.types import FloatArray, Int32Array, IntArray

_LATEST = 1 << 32  # past every time rank
Rows = Callable[[int, int], FloatArray]
"""Of some users, by their positions: [start, stop) → [stop − start, D]."""


def write_bundle(
    model: ModelShard,
    cursor: Cursor,
    results: dict[str, Any],
    config_yaml: bytes,
    to: Path,
    *,
    text_model: bool = False,
    adapter: Path | None = None,
    per_user: pl.DataFrame | None = None,
) -> None:
    """Writes a bundle, atomically, in place of what is at `to`.

    A user's vector is made of their whole history, the items that evaluation held out among it,
    where the model folds users in; else it is the trained one.

    Args:
        model: with the best checkpoint's parameters, on one rank alone.
        cursor: of the checkpoint.
        results: content of results.json, for the model card; empty: not evaluated.
        config_yaml: the run's config as resolved.
        text_model: whether the language model goes with it, so that texts can be ranked by and new
            items be read.
        per_user: the users' metrics, for the card's intervals.
        adapter: of the warm-up, which the language model is merged with; None: it has none.
    Raises:
        ConfigError: there is no language model that the model reads.
        TextError: the language model cannot be loaded.
    """
    assert model.context.world_size == 1, "a bundle is written by one rank alone"
    if text_model and not model.config.model.reads_text:
        raise ConfigError(
            f"--text-model: a model of kind {model.config.model.kind} reads no texts: leave it out"
        )
    fold_in = model.fold_in() if _folds(model.model) else None
    states = None if fold_in is None else model.user_states()
    final = model.final_embeddings().final.cpu().numpy()
    users, items = np.split(final, [model.graph.num_users])
    if cursor.norm_exponent:
        length = np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
        items = items / length**cursor.norm_exponent
    with atomic_directory(to) as directory:
        _write_items(model.graph, model.config, items, directory / "items.parquet")
        _write_tensors(model, fold_in, states, directory)
        if text_model:
            write_text_model(model.config.text, adapter, directory)
        for file in directory.rglob("*.safetensors"):
            follow_umask(file)
        write_bytes(directory / "config.yaml", config_yaml)
        content = _content(model, cursor, results, states)
        half = Bundle(directory, write_manifest(directory, KIND, SCHEMA, content))
        parts = _user_rows(model, users, fold_in, states, half)
        write_users(parts, directory / "users.parquet")
        card = model_card(content, model.config, results, per_user)
        write_bytes(directory / "README.md", card.encode())
        write_manifest(directory, KIND, SCHEMA, content)


def _folds(model: Model) -> bool:
    """Gates inside the layers need the user's own states between hops, which no bundle keeps."""
    return reads_histories(model) and not isinstance(model, PaperRecMind)


def _content(
    model: ModelShard, cursor: Cursor, results: dict[str, Any], states: UserStates | None
) -> dict[str, Any]:
    """What the manifest says beside the files."""
    graph, settings = model.graph, model.config.model
    fold_in = None
    if states is not None:
        fold_in = {
            "init": settings.init,
            "graph_length": states.graph_length,
            "num_layers": settings.num_layers,
            "embedding_dim": settings.embedding_dim,
            "max_degree": int(graph.degree.max(initial=1)),
            **_text_settings(model.model),
        }
    return {
        "name": graph.name,
        "model": settings.kind,
        "num_users": graph.num_users,
        "num_items": graph.num_items,
        "views": views_of(model),
        "norm_exponent": cursor.norm_exponent,
        "fold_in": fold_in,
        "text": text_settings(model.config, graph),
        "files_of_data": _data_files(model.config),
        "epoch": cursor.epoch,
        "metrics": results.get("metrics", {}),
    }


def _data_files(config: RunConfig) -> dict[str, Any]:
    """How the item file and the log are read, for those that come later."""
    data = config.dataset
    return {
        "item_id": data.items.id if data.items is not None else None,
        "columns": data.interactions.columns.model_dump(),
        "min_rating": data.min_rating,
    }


def _text_settings(model: Model) -> dict[str, Any]:
    """What folding in reads of the settings of a text view."""
    if isinstance(model, AlphaRec):
        return {"text_layers": model.num_layers, "users_have_text": False, "text_view": True}
    if not isinstance(model, RecMind):
        return {}
    s = model.settings
    return {
        "text_layers": s.text_layers,
        "users_have_text": s.users_have_text,
        "text_view": s.has_text_view,
        "recent_decay": s.recent_decay,
        "degree_input": s.gate.degree_input,
    }


def columns_of_view(model: ModelShard, name: str) -> slice:
    """Columns of a final vector that are the view of this name, the first of several."""
    views, start = views_of(model), 0
    for other, width in views:
        if other == name:
            return slice(start, start + width)
        start += width
    raise ValueError(f"no view {name}: {', '.join(other for other, _ in views)}")


def views_of(model: ModelShard) -> list[tuple[str, int]]:
    """Name and width of each view, in the order of a vector's columns."""
    dim = model.config.model.embedding_dim
    if isinstance(model.model, RecMind):
        views = [("graph", dim), ("text" if model.model.settings.has_text_view else "graph", dim)]
        if model.model.settings.has_content_view and model.whitening is not None:
            views.append(("content", model.whitening.dim))
        return views
    if isinstance(model.model, PaperRecMind) and model.model.settings.readout == "concat":
        return [("graph", dim), ("text", dim)]
    return [("text" if isinstance(model.model, AlphaRec) else "graph", dim)]


def _write_items(graph: Graph, config: RunConfig, vectors: FloatArray, path: Path) -> None:
    frame = graph.items_frame()
    title = title_template(config.text.item_template, word_fields([frame]))
    table = pa.table(
        {
            "id": frame["id"].cast(pl.String).to_arrow(),
            "vector": vector_column(vectors),
            "title": pa.array(item_titles(frame, title)),
            "degree": pa.array(np.asarray(graph.degree)[graph.num_users :]),
        }
    )
    for name in frame.columns:
        if name != "id":
            kept = f"item.{name}" if name in OWN_COLUMNS else name
            table = table.append_column(kept, frame[name].to_arrow())
    write_items(table, path)


def item_titles(frame: pl.DataFrame, template: str | None) -> list[str]:
    """Titles as in user texts; empty where the items have none of the template's fields."""
    if template is None:
        return [""] * frame.height
    parsed = Template.parse(template)
    fields = [name for name in parsed.fields if name in frame.columns]
    return [parsed.render(row) or "" for row in frame.select("id", *fields).iter_rows(named=True)]


def _write_tensors(
    model: ModelShard, fold_in: FoldIn | None, states: UserStates | None, directory: Path
) -> None:
    weights = {name: _array(p) for name, p in model.model.state_dict().items()}
    if isinstance(model.model, RecMind):
        gates = {n.removeprefix("mix."): w for n, w in weights.items() if n.startswith("mix.")}
        save_file(gates, directory / "gates.safetensors")
    text = {
        n.removeprefix("text_view."): w for n, w in weights.items() if n.startswith("text_view.")
    }
    if model.whitening is not None:
        for side, mean in model.whitening.mean.items():
            text |= {f"whitening.{side}.mean": mean}
            text |= {f"whitening.{side}.matrix": model.whitening.matrix[side]}
    if text:
        save_file(text, directory / "projection.safetensors")
    if fold_in is not None and states is not None:
        save_file(_states(fold_in, states), directory / "states.safetensors")


def _states(fold_in: FoldIn, states: UserStates) -> dict[str, Any]:
    """Arrays of states.safetensors; see recommend/fold_in.py."""
    items = fold_in.items
    named: dict[str, Tensor | None] = {
        "base": items.base_states,
        "base_map": fold_in.map_DD,
        "item_map": states.item_map,
        "text": items.text_states,
        "content": items.content,
        "texts": items.texts,
        "has_text": items.has_text,
        **{f"newest.{k}": view for k, view in enumerate(items.newest)},
    }
    arrays = {name: _array(x) for name, x in named.items() if x is not None}
    return arrays | {"degree": np.ascontiguousarray(items.degree, np.int64)}


def _user_rows(
    model: ModelShard,
    vectors: FloatArray,
    fold_in: FoldIn | None,
    states: UserStates | None,
    bundle: Bundle,
) -> Iterator[pa.Table]:
    """Rows of users.parquet, `ROW_GROUP` users at a time.

    Args:
        vectors: [U, C] the trained ones.
        bundle: the directory with the states written.
    """
    graph = model.graph
    ids = graph.user_ids.cast(pl.String).to_arrow()
    items, ends = histories_of_users(model.rows)
    own: dict[str, Rows] = {}
    if fold_in is not None and states is not None:
        own = _own_rows(fold_in, states, np.argsort(model.nodes)[: graph.num_users])
    degree = pa.array(np.asarray(graph.degree)[: graph.num_users])
    make = None if fold_in is None else BundleFoldIn(bundle)
    for start in range(0, graph.num_users, ROW_GROUP):
        stop = min(start + ROW_GROUP, graph.num_users)
        offsets = pa.array(ends[start : stop + 1] - ends[start], pa.int32())
        history = pa.ListArray.from_arrays(offsets, pa.array(items[ends[start] : ends[stop]]))
        block = {name: rows(start, stop) for name, rows in own.items()}
        final = vectors[start:stop]
        if make is not None:
            lists = lists_of_column(pa.chunked_array([history]))
            final = make(Histories.of(lists), block.get("base"), block.get("text"))
        columns = {
            "id": ids[start:stop],
            "vector": vector_column(final),
            "history": history,
            "degree": degree[start:stop],
        }
        yield pa.table(columns | {name: vector_column(rows) for name, rows in block.items()})


def _own_rows(fold_in: FoldIn, states: UserStates, row_of_user: IntArray) -> dict[str, Rows]:
    """Blocks of what users have of their own, and of what items take from them."""

    def rows(x: Tensor) -> Rows:
        on_host = x.cpu().numpy()
        return lambda start, stop: on_host[row_of_user[start:stop]]

    own = {"base": fold_in.own_nD, **states.rows}
    if fold_in.z_nD is not None and fold_in.items.texts is not None:
        own["text"] = fold_in.z_nD
    return {name: rows(x) for name, x in own.items()}


def histories_of_users(rows: EdgeRows) -> tuple[Int32Array, IntArray]:
    """Every user's items, the oldest first: those of training in their order, then those that
    validation and test held out.

    Args:
        rows: edges of all users.
    Returns: positions of items [all], and where each user's end [U + 1].
    """
    graph = rows.graph
    user, training = rows.edges_of(np.arange(graph.num_users))
    users, items = [user], [np.asarray(rows.indices[training])]
    places = [np.asarray(rows.time_rank[training], np.int64)]
    for place, split in enumerate(("valid", "test"), 1):
        held = graph.held_out(split)
        users.append(np.repeat(np.arange(graph.num_users), np.diff(held.indptr)))
        items.append(np.asarray(held.indices))
        places.append(np.full(held.num_edges, _LATEST + place))
    user = np.concatenate(users)
    order = np.lexsort([np.concatenate(places), user])
    history = np.concatenate(items)[order].astype(np.int32) - np.int32(graph.num_users)
    counts = np.bincount(user, minlength=graph.num_users)
    return history, np.concatenate([[0], np.cumsum(counts)])


def _array(x: Tensor) -> FloatArray:
    array: FloatArray = np.ascontiguousarray(x.detach().float().cpu().numpy())
    return array
