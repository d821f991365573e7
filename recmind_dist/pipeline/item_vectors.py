"""The stage between extraction and joint training: item vectors that learn from the log.

`item_vectors` in the run's directory is a text store of items alone, in whitened coordinates. Texts
of users, and items that come later, keep to the language model's vectors and the whitening. An
update takes the vectors of the run before it.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.graph import Graph
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.pipeline.embed import push_vectors
from recmind_dist.pipeline.previous_run import PreviousRun, carries_rows
from recmind_dist.pipeline.texts import texts_of_previous
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.storage import atomic_directory, content_key
from recmind_dist.text import Texts, TextStore, Whitening
from recmind_dist.text.store import META
from recmind_dist.training.inputs import Inputs
from recmind_dist.training.item_vectors import Interactions, learn_item_vectors
from recmind_dist.training.warm_start import places_by_id
from recmind_dist.types import BoolArray, FloatArray, Say

ITEM_VECTORS = "item_vectors"


def with_item_vectors(
    config: RunConfig,
    run: RunDirectory,
    inputs: Inputs,
    texts: Texts | None,
    say: Say,
    device: str = "cpu",
) -> Inputs:
    """A run's inputs with its item vectors, which are made if they are not there.

    Args:
        config: resolved, with absolute paths.
        texts: all texts of the run; None where the model reads none.
        device: where they are learnt: not on a GPU that other processes will train on.
    """
    model = config.model
    if not isinstance(model, RecMindSettings) or not model.item_offsets or texts is None:
        return inputs
    previous = None
    if carries_rows(config):
        assert config.update.of is not None, "an update is of a run"
        previous = PreviousRun.open(config.update.of)
        if previous.inputs.item_vectors is None:
            return inputs
    path, graph = (run.path / ITEM_VECTORS).absolute(), Graph.open(inputs.graph)
    made_from = {"vectors": inputs.store_key, "graph": graph.key, "seed": config.train.seed}
    mirror = Mirror.of(config.storage_uri, config.run_dir)
    if mirror is not None:
        mirror.pull_store(path)
    if not _is_made(path, made_from):
        started = time.monotonic()
        text_IT, has_text = _text_vectors(inputs)
        if previous is not None:
            x_IT = _carried(previous, graph, texts, text_IT)
        else:
            log = Interactions.of(graph, may_teach(config, graph, has_text), torch.device(device))
            text = torch.from_numpy(text_IT).to(device)
            x_IT = learn_item_vectors(text, log, config.train.seed).cpu().numpy()
        _write(path, made_from, np.where(has_text[:, None], x_IT, np.nan))
        if mirror is not None:
            push_vectors(mirror, path)
        how = "carried over" if previous is not None else "learnt from the log"
        say(f"item vectors: {has_text.sum():,} {how} in {time.monotonic() - started:.0f} s")
    return replace(inputs, item_vectors=path)


def remake(config: RunConfig, run: RunDirectory, inputs: Inputs, texts: Texts, say: Say) -> None:
    """Makes the item vectors of a run again, whatever is there."""
    (run.path / ITEM_VECTORS / META).unlink(missing_ok=True)
    with_item_vectors(config, run, inputs, texts, say)


def _is_made(path: Path, made_from: dict[str, Any]) -> bool:
    return (path / META).is_file() and TextStore.open(path).meta["encoder"] == made_from


def _text_vectors(inputs: Inputs) -> tuple[FloatArray, BoolArray]:
    """Whitened text vectors of all items, zero where there is no text, and where there is one."""
    assert inputs.text is not None, "items have texts"
    assert inputs.whitening is not None, "texts are whitened"
    raw = TextStore.open(inputs.text).read_all("items")
    return Whitening.load(inputs.whitening).apply("items", raw), ~np.isnan(raw[:, 0])


def may_teach(config: RunConfig, graph: Graph, has_text: BoolArray) -> BoolArray:
    """The interactions that item vectors learn from: of items with text, and none that gates learn
    from, to whom the vectors must be as good as they are to users who come later.

    Args:
        has_text: [I].
    Returns: mask over the user half of the edges, [E].
    """
    allowed: BoolArray = has_text[np.asarray(graph.indices[: graph.num_edges]) - graph.num_users]
    if config.heldout_gates and config.gate is not None:
        gate, seed = config.gate, config.graph.seed
        allowed &= ~heldout_slice(graph, gate.heldout_share, seed, gate.withheld_items)
    return allowed


def _carried(previous: PreviousRun, graph: Graph, texts: Texts, text_IT: FloatArray) -> FloatArray:
    """Vectors of the run before by external id; of new items and new texts what the text says."""
    assert previous.inputs.item_vectors is not None, "the caller has looked"
    before = TextStore.open(previous.inputs.item_vectors).read_all("items").astype(np.float32)
    place, old = places_by_id(previous.graph.item_ids, graph.item_ids), texts_of_previous(previous)
    known = np.array([p >= 0 and old.items[p] == texts.items[i] for i, p in enumerate(place)])
    known[known] = ~np.isnan(before[place[known], 0])
    x_IT = text_IT.copy()
    x_IT[known] = before[place[known]]
    return x_IT


def _write(path: Path, made_from: dict[str, Any], x_IT: FloatArray) -> None:
    with atomic_directory(path) as work:
        store = TextStore.create(work, made_from, x_IT.shape[1], {"items": len(x_IT), "users": 0})
        for shard in range(store.num_shards("items")):
            start, stop = store.shard_range("items", shard)
            vectors = x_IT[start:stop].astype(np.float16)
            store.write_shard("items", shard, vectors, content_key([made_from, shard]))
