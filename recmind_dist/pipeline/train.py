"""Training from prepared stores: embed, warm up, merge adapters, embed again, train jointly."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from recmind_dist.checkpoint.layout import attempt_directories
from recmind_dist.checkpoint.mirror import Mirror, open_mirror
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.checkpoint.retention import remove
from recmind_dist.errors import CheckpointError, ConfigError, RecmindError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.pipeline.carry_over import inputs_of_update
from recmind_dist.pipeline.embed import embed, settle_dtype
from recmind_dist.pipeline.item_vectors import with_item_vectors
from recmind_dist.pipeline.same_rows import refuse_other_rows
from recmind_dist.pipeline.text_dtype import key_of_texts
from recmind_dist.pipeline.texts import texts_of_run
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import config_of_run
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed_json
from recmind_dist.text import Texts, TextStore, Whitening
from recmind_dist.text.whitening import WHITENING
from recmind_dist.training.run_stores import RunStores, run_identity
from recmind_dist.training.state import (
    Cursor,
    cursor_of,
    refuse_other_run,
    refuse_settings_without_effect,
)
from recmind_dist.types import Say

log = logging.getLogger(__name__)
TrainPhases = Callable[[RunConfig, RunStores, tuple[str, ...], str, bool], None]
"""Trains phases, given (config, inputs, phases, resume, allow_mismatch)."""


@dataclass(frozen=True)
class Prepared:
    """A graph and, where the variant uses text, all its texts."""

    graph: Path
    texts: Texts | None


def prepare_texts(config: RunConfig, graph_path: Path) -> Prepared:
    """Renders all texts, after a check that every worker gets users and items.

    Raises:
        ConfigError: one of them gets none; or texts alone are to rank, and no two differ.
    """
    graph = Graph.open(graph_path)
    workers = config.scaling.max_workers
    if workers > min(graph.num_users, graph.num_items):
        raise ConfigError(
            f"scaling.num_workers is {workers}, more ranks than the {graph.num_users} users or "
            f"{graph.num_items} items of {graph.name}: lower it"
        )
    if not config.model.reads_text:
        refuse_texts_alone(config)
        return Prepared(graph_path, None)
    return Prepared(graph_path, texts_of_run(config, graph))


def refuse_texts_alone(config: RunConfig) -> None:
    """For a data set without texts. Raises ConfigError where texts alone are to rank."""
    if config.variant == "text_only":
        raise ConfigError(
            "variant: text_only ranks by item texts, of which no two differ here: name a file "
            "with texts as dataset.items, or leave the variant out"
        )


def fit(
    config: RunConfig,
    prepared: Prepared,
    say: Say,
    resume: str = "auto",
    allow_mismatch: bool = False,
    train: TrainPhases | None = None,
    device: str = "cpu",
) -> RunStores:
    """Trains a run from its last checkpoint to the end. Returns its inputs, kept in inputs.json.

    Args:
        train: trains phases. Default: on Ray workers.
        device: of this process, where item vectors are learnt.
    Raises:
        CheckpointError: resume is "must" and there is no checkpoint; or the run was made with other
            settings, graph or texts, or for other users and items.
    """
    config = config.absolute()
    run = RunDirectory(config.run_dir)
    mirror = open_mirror(config.storage_uri, run.path)
    if resume == "never":
        _start_over(run, mirror, say)
    elif mirror is not None and (pulled := mirror.pull()):
        say(f"{mirror.remote.uri}: brought {', '.join(pulled)}")
    if resume != "never":
        refuse_other_rows(run, prepared.graph)
    found = find_checkpoint(run.checkpoints)
    if prepared.texts is not None:
        config = settle_dtype(config, prepared.texts, say, found.info if found else None)
    texts_key = key_of_texts(config, prepared.texts) if prepared.texts is not None else ""
    if found is None and resume == "must":
        raise CheckpointError(
            f"{run.checkpoints}: nothing to resume: start with --resume auto or never"
        )
    if found is not None:
        refuse = refuse_settings_without_effect if allow_mismatch else refuse_other_run
        refuse(found, run_identity(config, Graph.open(prepared.graph).key, texts_key))
    inputs = RunStores(prepared.graph.absolute())
    if config.starts_from_run:
        inputs = inputs_of_update(config, run, prepared.graph, prepared.texts, texts_key, say)
    elif prepared.texts is not None:
        inputs = _text_inputs(config, run, prepared, say, texts_key, fresh=found is None)
    values = config.model_dump(mode="json")
    later = found is not None and (so_far := _epochs_so_far(run)) < config.train.epochs
    run.write_config(values | {"train": {**values["train"], "epochs": so_far}} if later else values)
    train = train or partial(_train_on_ray, say)
    phases: tuple[str, ...] = ("warmup", "joint")
    cursor = cursor_of(found, config.train.epochs) if found is not None else None
    if prepared.texts is not None and config.text.lora is not None and config.has_warmup:
        cursor = _train_past(run, config, inputs, ("warmup",), cursor, allow_mismatch, train)
        path = embed(config, prepared.texts, run.path / "adapter", say).path.absolute()
        inputs = replace(inputs, text=path, store_key=TextStore.open(path).content_key())
        phases = ("joint",)
    inputs = with_item_vectors(config, run, inputs, prepared.texts, say, device)
    write_sealed_json(run.path / "inputs.json", inputs.to_json())
    _train_past(run, config, inputs, phases, cursor, allow_mismatch, train)
    if later:
        run.write_config(values)
    return inputs


def _epochs_so_far(run: RunDirectory) -> float:
    """train.epochs of the run's config.yaml, which says nothing of epochs that are to come;
    infinite where there is none that can be read.
    """
    try:
        return config_of_run(run.config).train.epochs
    except (RecmindError, OSError):
        return math.inf


def _train_on_ray(
    say: Say,
    config: RunConfig,
    inputs: RunStores,
    phases: tuple[str, ...],
    resume: str,
    allow_mismatch: bool,
) -> None:
    from recmind_dist.launch.ray_train import train  # takes seconds to import

    train(config, inputs, phases, resume, allow_mismatch, say)


def _train_past(
    run: RunDirectory,
    config: RunConfig,
    inputs: RunStores,
    phases: tuple[str, ...],
    cursor: Cursor | None,
    allow_mismatch: bool,
    train: TrainPhases,
) -> Cursor:
    """Trains `phases`, unless the run is past them already. Returns where it stands then.

    Args:
        cursor: of the run's newest good checkpoint, which is not hashed here again; None without
            one.
    """
    if cursor is not None and cursor.phase not in phases:
        return cursor
    train(config, inputs, phases, "auto", allow_mismatch)
    cursor = _cursor(run, config)
    if cursor is None or cursor.phase in phases:
        raise CheckpointError(
            f"{run.checkpoints}: the end of training could not be saved: free space, then run again"
        )
    return cursor


def _text_inputs(
    config: RunConfig, run: RunDirectory, prepared: Prepared, say: Say, texts_key: str, fresh: bool
) -> RunStores:
    assert prepared.texts is not None
    base = embed(config, prepared.texts, None, say)
    whitening = run.path / WHITENING
    if fresh or not whitening.is_file():
        # fitted once a run, before any adapter: the projection learns in these coordinates
        fit_whitening(config, base.path).save(whitening)
    lora_texts = None
    if config.text.lora is not None:
        lora_texts = (run.path / "texts.arrow").absolute()
        prepared.texts.save(lora_texts)
    return RunStores(
        graph=prepared.graph.absolute(),
        text=base.path.absolute(),
        whitening=whitening.absolute(),
        texts=lora_texts,
        texts_key=texts_key,
        store_key=TextStore.open(base.path).content_key(),
    )


def fit_whitening(config: RunConfig, vectors: Path) -> Whitening:
    """The whitening of a store with the untouched model's vectors."""
    return Whitening.fit(TextStore.open(vectors), config.text_components)


def _start_over(run: RunDirectory, mirror: Mirror | None, say: Say) -> None:
    """Removes old checkpoints: one with a better score would pass for the new run's best."""
    if mirror is not None:
        say(f"--resume never: the checkpoints at {mirror.remote.uri} are removed")
        mirror.clear()
    old = attempt_directories(run.checkpoints)
    if old:
        say(f"--resume never: the checkpoints in {run.checkpoints} are removed")
    for path in old:
        remove(path)  # COMMIT first: a kill in between leaves no half checkpoint
    run.create()


def sync_with_storage(config: RunConfig) -> None:
    """Uploads what is missing on shared storage, if the run has some. Raises StoreError."""
    config = config.absolute()
    mirror = Mirror.of(config.storage_uri, config.run_dir)
    if mirror is None:
        return
    try:
        mirror.sync()
    except OSError as error:
        raise StoreError(
            f"{config.run_dir}: done, but not all of it is at {mirror.remote.uri} ({error}): run "
            "again when it is back"
        ) from error


def _cursor(run: RunDirectory, config: RunConfig) -> Cursor | None:
    found = find_checkpoint(run.checkpoints)
    return cursor_of(found, config.train.epochs) if found else None
