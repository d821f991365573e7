"""The stage between extraction and joint training: item vectors that learn from the log.

`item_vectors` in the run's directory is a text store of items alone, in whitened coordinates. Texts
of users, and items that come later, keep to the language model's vectors and the whitening. Where
no text is read (`model.item_offsets: alone`) it stands in the place of the text store, and has rows
of users, without a text. An update takes the vectors of the run before it. A run in a neighbouring
directory that has learnt from the same texts, log and seed, as other runs of an experiment have,
has the same vectors, which are copied.
"""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.errors import StoreError
from recmind_dist.graph import Graph
from recmind_dist.item_vectors.learn import Interactions, learn_item_vectors
from recmind_dist.item_vectors.stand_ins import with_stand_ins
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.pipeline.embed import push_vectors
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.pipeline.texts import texts_of_previous
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.edge_masks import heldout_slice
from recmind_dist.storage import atomic_directory, content_key
from recmind_dist.text import Texts, TextStore, Whitening
from recmind_dist.text.store import ITEM_VECTORS, META, SIDES
from recmind_dist.text.whitening import WHITENING
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.warm_start import places_by_id
from recmind_dist.types import BoolArray, FloatArray, Say

WIDTH = 384
"""Numbers of a vector that learns alone."""


def with_item_vectors(
    config: RunConfig,
    run: RunDirectory,
    inputs: RunStores,
    texts: Texts | None,
    say: Say,
    device: str = "cpu",
    anew: bool = False,
) -> RunStores:
    """A run's inputs with its item vectors, which are made if they are not there.

    Args:
        config: resolved, with absolute paths.
        texts: all texts of the run; None where the model reads none.
        device: where they are learnt: not on a GPU that other processes will train on.
        anew: whether they are made whatever is there.
    """
    model = config.model
    if not isinstance(model, RecMindSettings) or not model.item_offsets:
        return inputs
    alone = model.item_offsets == "alone"
    if texts is None and not alone:
        return inputs
    previous = _previous(config)
    if previous is not None and _store_of(previous.inputs) is None:
        return inputs
    path, graph = (run.path / ITEM_VECTORS).absolute(), Graph.open(inputs.graph)
    made_from = {"vectors": inputs.store_key, "graph": graph.key, "seed": config.train.seed}
    mirror = Mirror.of(config.storage_uri, config.run_dir)
    if mirror is not None:
        mirror.pull_store(path)
    if anew or not _is_made(path, made_from):
        started = time.monotonic()
        text_IT, has_text = _no_texts(graph) if alone else _text_vectors(inputs)
        if previous is not None:
            x_IT, how = _carried(previous, graph, texts, text_IT, has_text), "carried over"
        else:
            given = _LearningInputs.of(config, graph, text_IT, has_text, device)
            made_from["lesson"] = given.key
            found = None if anew else _learnt_beside(run, given.key)
            how = f"as in {found[0].parent}" if found is not None else "learnt from the log"
            x_IT = found[1] if found is not None else given.learn()
        _write(path, made_from, x_IT, graph.num_users if alone else 0)
        has_vector = ~np.isnan(x_IT[:, 0])
        textless = 0 if alone else int((has_vector & ~has_text).sum())
        of_them = f", {textless:,} of items without a text," if textless else ""
        seconds = time.monotonic() - started
        say(f"item vectors: {has_vector.sum():,}{of_them} {how} in {seconds:.0f} s")
    if mirror is not None:  # a kill may have come before
        push_vectors(mirror, path)
    return _in_place_of_texts(inputs, run, path) if alone else replace(inputs, item_vectors=path)


def _previous(config: RunConfig) -> PreviousRun | None:
    """The run whose vectors are carried over."""
    if not config.updates:
        return None
    assert config.update.of is not None, "an update is of a run"
    return PreviousRun.open(config.update.of)


def remake(
    config: RunConfig, run: RunDirectory, inputs: RunStores, texts: Texts | None, say: Say
) -> None:
    """Makes the item vectors of a run again.

    Args:
        texts: None where the vectors learn alone.
    """
    if texts is None:
        inputs = RunStores(inputs.graph, start=inputs.start)
    with_item_vectors(config, run, inputs, texts, say, anew=True)


def _in_place_of_texts(inputs: RunStores, run: RunDirectory, path: Path) -> RunStores:
    """Stores whose text store the item vectors are, with a map that leaves them as they are."""
    whitening = (run.path / WHITENING).absolute()
    Whitening.identity(WIDTH).save(whitening)  # a run that was begun with texts left another
    key = TextStore.open(path).content_key()
    return replace(inputs, text=path, whitening=whitening, store_key=key)


def _store_of(inputs: RunStores) -> Path | None:
    """Where a run's item vectors lie; None where it has learnt none."""
    return inputs.text if inputs.vectors_without_texts else inputs.item_vectors


def _is_made(path: Path, made_from: dict[str, Any]) -> bool:
    if not (path / META).is_file():
        return False
    found = TextStore.open(path).meta["encoder"]
    return {key: found.get(key) for key in made_from} == made_from


def _learnt_beside(run: RunDirectory, key: str) -> tuple[Path, FloatArray] | None:
    """Vectors learnt from the same inputs by a run in a neighbouring directory, with their path.
    None if there are none, or they are damaged.
    """
    for path in sorted(run.path.parent.glob(f"*/{ITEM_VECTORS}")):
        with suppress(StoreError):
            store = TextStore.open(path)
            if store.meta["encoder"].get("lesson") == key:
                return path, store.read_all("items").astype(np.float32)
    return None


def _no_texts(graph: Graph) -> tuple[FloatArray, BoolArray]:
    return np.zeros((graph.num_items, WIDTH), np.float32), np.zeros(graph.num_items, np.bool_)


def _text_vectors(inputs: RunStores) -> tuple[FloatArray, BoolArray]:
    """Whitened text vectors of all items, zero where there is no text, and where there is one."""
    assert inputs.text is not None, "items have texts"
    assert inputs.whitening is not None, "texts are whitened"
    raw = TextStore.open(inputs.text).read_all("items")
    return Whitening.load(inputs.whitening).apply("items", raw), ~np.isnan(raw[:, 0])


def allowed_interactions(config: RunConfig, graph: Graph, learns_I: BoolArray) -> BoolArray:
    """The interactions that item vectors learn from: of items that learn, and none that gates learn
    from, to whom the vectors must be as good as they are to users who come later.

    Args:
        learns_I: which items do.
    Returns: mask over the user half of the edges, [E].
    """
    allowed: BoolArray = learns_I[np.asarray(graph.indices[: graph.num_edges]) - graph.num_users]
    if config.heldout_gates and config.gate is not None:
        gate, seed = config.gate, config.graph.seed
        allowed &= ~heldout_slice(graph, gate.heldout_share, seed, gate.withheld_items)
    return allowed


@dataclass(frozen=True)
class _LearningInputs:
    """All that learnt item vectors follow from.

    Shapes: text_IT: [I, T]; has_text_I: [I]; allowed_E: [E], over the user half of the edges.
    """

    graph: Graph
    text_IT: FloatArray
    has_text_I: BoolArray
    allowed_E: BoolArray
    all_learn: bool
    seed: int
    device: torch.device

    @staticmethod
    def of(
        config: RunConfig, graph: Graph, text_IT: FloatArray, has_text_I: BoolArray, device: str
    ) -> "_LearningInputs":
        model = config.model
        assert isinstance(model, RecMindSettings)
        all_learn = model.item_offsets == "alone" or model.missing_text == "learnt"
        learns_I = np.ones_like(has_text_I) if all_learn else has_text_I
        allowed_E, seed = allowed_interactions(config, graph, learns_I), config.train.seed
        where = torch.device(device)
        return _LearningInputs(graph, text_IT, has_text_I, allowed_E, all_learn, seed, where)

    @property
    def key(self) -> str:
        arrays = [self.text_IT, self.has_text_I, self.allowed_E]
        hashes = [hashlib.sha256(np.ascontiguousarray(x).data).hexdigest() for x in arrays]
        return content_key([self.graph.key, *hashes, self.all_learn, self.seed, self.device.type])

    def learn(self) -> FloatArray:
        """NaN for an item without text, if not all learn or it has no interaction. [I, T]."""
        log = Interactions.of(self.graph, self.allowed_E, self.device)
        arrays = (self.text_IT, self.has_text_I)
        text, has_vector = (torch.from_numpy(x).to(self.device) for x in arrays)
        if self.all_learn:
            text, has_vector = with_stand_ins(text, has_vector, log, self.seed)
        learnt = learn_item_vectors(text, log, self.seed)
        return np.where(has_vector.cpu().numpy()[:, None], learnt.cpu().numpy(), np.nan)


def _carried(
    previous: PreviousRun,
    graph: Graph,
    texts: Texts | None,
    text_IT: FloatArray,
    has_text_I: BoolArray,
) -> FloatArray:
    """Vectors of the run before by external id; of new items and new texts what the text says, and
    NaN where they have none. Shape: [I, T].
    """
    store = _store_of(previous.inputs)
    assert store is not None, "the caller has looked"
    before = TextStore.open(store).read_all("items").astype(np.float32)
    place = places_by_id(previous.graph.item_ids, graph.item_ids)
    known = place >= 0
    if texts is not None:
        old = texts_of_previous(previous)
        known = np.array([p >= 0 and old.items[p] == texts.items[i] for i, p in enumerate(place)])
    known[known] = ~np.isnan(before[place[known], 0])
    x_IT = np.where(has_text_I[:, None], text_IT, np.float32(np.nan))
    x_IT[known] = before[place[known]]
    return x_IT


def _write(path: Path, made_from: dict[str, Any], x_IT: FloatArray, num_users: int) -> None:
    """Writes items, and users without a text."""
    num_rows = {"items": len(x_IT), "users": num_users}
    with atomic_directory(path) as work:
        store = TextStore.create(work, made_from, x_IT.shape[1], num_rows)
        for side in SIDES:
            for shard in range(store.num_shards(side)):
                start, stop = store.shard_range(side, shard)
                vectors = np.full((stop - start, store.dim), np.nan, np.float16)
                if side == "items":
                    vectors[:] = x_IT[start:stop]
                store.write_shard(side, shard, vectors, content_key([made_from, side, shard]))
