"""What the run of an update takes from the run before it, but for the rows, which each rank reads
itself: vectors of unchanged texts, whitening, adapters, and the numbers of the rows.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from recmind_dist.errors import ConfigError
from recmind_dist.graph import Graph
from recmind_dist.pipeline.embed import embed
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.pipeline.texts import (
    render_texts,
    texts_of_previous,
    user_ledger,
    write_ledger,
)
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import atomic_directory
from recmind_dist.text import Texts, TextStore, Whitening
from recmind_dist.text.cache import remove_store
from recmind_dist.text.plan import num_shards_if_complete, store_path
from recmind_dist.text.reuse import EmbeddedTexts, gather_vectors, texts_to_embed
from recmind_dist.text.whitening import WHITENING
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.warm_start import WarmStart
from recmind_dist.types import Say


def inputs_of_update(
    config: RunConfig, run: RunDirectory, graph: Path, texts: Texts | None, texts_key: str, say: Say
) -> RunStores:
    """The inputs of an update, made once. Needs Ray if there are new texts.

    Args:
        config: with absolute paths, and `update.of`.
        graph: of the old and the new log.
        texts: of that graph, by policy; None where the model reads none.
    Raises:
        ConfigError: rows of another data set would be carried over.
    """
    assert config.update.of is not None, "not an update"
    previous, new = PreviousRun.open(config.update.of), Graph.open(graph)
    start, carries = run.path / "start", config.updates
    if carries and previous.config.dataset.name != config.dataset.name:
        raise ConfigError(
            f"update.rows: carried, and {config.update.of} is of {previous.config.dataset.name}, "
            f"not of {config.dataset.name}, so that its ids mean others: set update.rows: anew"
        )
    if not start.is_dir():
        old = previous.graph if carries else None
        WarmStart.write(start, previous.checkpoint.path, old, new)
    inputs = RunStores(graph.absolute(), start=start)
    if texts is None:
        return inputs
    if config.users_have_text and carries:
        write_ledger(run, user_ledger(config, new, render_texts(config, new)))
    whitening, store = run.path / WHITENING, _embed(config, run, texts, previous, say)
    if not whitening.is_file():
        copy_whitening(previous, whitening)
    return replace(
        inputs,
        text=store.path.absolute(),
        whitening=whitening,
        texts_key=texts_key,
        store_key=store.content_key(),
    )


def copy_whitening(previous: PreviousRun, path: Path) -> None:
    """Keeps the map of the run before, in whose coordinates the projection has learnt."""
    assert previous.inputs.whitening is not None, "the model reads texts"
    Whitening.load(previous.inputs.whitening).save(path)


def _embed(
    config: RunConfig, run: RunDirectory, texts: Texts, previous: PreviousRun, say: Say
) -> TextStore:
    """The vectors of all texts: those of unchanged ones from the run before."""
    adapter = _copied_adapter(run, previous)
    before = _embedded(config, previous, adapter)
    if before is None:
        return TextStore.open(embed(config, texts, adapter, say).path)
    return embed_beside(config, texts, before, say, adapter)


def embed_beside(
    config: RunConfig, texts: Texts, before: EmbeddedTexts, say: Say, adapter: Path | None = None
) -> TextStore:
    """The vectors of all texts: those that `before` has are copied, whatever their row."""
    cache, sources = config.cache_dir / config.dataset.name, [before]
    path = store_path(texts, config.text, cache, adapter)
    if num_shards_if_complete(texts, config.text, path, adapter) is not None:
        return TextStore.open(path)
    lacking = texts_to_embed(texts, before)
    delta = embed(config, lacking, adapter, _silent).path if lacking.count else None
    if delta is not None:
        sources.append(EmbeddedTexts(lacking, TextStore.open(delta)))
    gather_vectors(texts, config.text, cache, sources, adapter)
    if delta not in (None, path):
        remove_store(delta)
    say(f"text vectors: {texts.count - lacking.count} kept, {lacking.count} new")
    return TextStore.open(embed(config, texts, adapter, _silent).path)


def _silent(line: str) -> None:
    """Says nothing."""


def _embedded(
    config: RunConfig, previous: PreviousRun, adapter: Path | None
) -> EmbeddedTexts | None:
    """The run's texts and vectors; None where its store is not of these texts and this encoder."""
    path = previous.inputs.text
    texts = texts_of_previous(previous)
    if path is None or num_shards_if_complete(texts, config.text, path, adapter) is None:
        return None
    return EmbeddedTexts(texts, TextStore.open(path))


def _copied_adapter(run: RunDirectory, previous: PreviousRun) -> Path | None:
    """The adapters, in this run's directory; None where there are none."""
    if previous.adapter is None:
        return None
    path = run.path / "adapter"
    if not path.is_dir():
        with atomic_directory(path) as work:
            shutil.copytree(previous.adapter, work, dirs_exist_ok=True)
    return path
