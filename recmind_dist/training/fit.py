"""Training from prepared stores to a finished run: texts embedded, warm-up, adapters merged, texts embedded again, joint."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.report import Progress, RunDirectory
from recmind_dist.sampling import held_out_slice
from recmind_dist.storage import content_key, read_json, write_json
from recmind_dist.text import (
    EmbedReport,
    Texts,
    TextStore,
    Whitening,
    build_texts,
    embed_texts,
    encoder_key,
    plan_shards,
    store_path,
)
from recmind_dist.training.rank_model import Inputs
from recmind_dist.training.run_config import RunConfig
from recmind_dist.training.state import Cursor

log = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A graph and, where the variant uses text, all its texts."""

    graph: Path
    texts: Texts | None


def prepare_texts(config: RunConfig, graph_path: Path) -> Prepared:
    """Checks that every worker gets a share, and renders all texts.

    Titles of edges that are held out for the gates stay out of the user texts.
    """
    graph = Graph.open(graph_path)
    workers = config.scaling.num_workers
    if workers > min(graph.num_users, graph.num_items):
        raise ConfigError(
            f"scaling.num_workers is {workers}, more ranks than the {graph.num_users} users or {graph.num_items} items of "
            f"{graph.name}: lower it"
        )
    if not config.model.use_text:
        return Prepared(graph_path, None)
    hidden = held_out_slice(graph, config.model.gate.heldout_share, config.train.seed) if config.heldout_gates else None
    return Prepared(graph_path, build_texts(graph, config.text, hidden))


def embed(config: RunConfig, texts: Texts, adapter: Path | None, say: Say) -> EmbedReport:
    """Brings the text store up to date through the actor pool; starts Ray only if there is something to embed."""
    config = config.absolute()
    cache = config.cache_dir / config.dataset.name
    path = store_path(config.text, cache, adapter)
    jobs, _ = plan_shards(texts, config.text, path, adapter)
    todo = sum(job.num_texts for job in jobs)
    if jobs:
        from recmind_dist.training.runner import start_ray

        start_ray(config)
    with Progress("embed", todo, unit="text") as bar:
        found = embed_texts(texts, config.text, cache, adapter, on_progress=lambda done, _: bar.update(done - bar.done))
    say(f"embedded {found.embedded} of {found.total} texts" + (" with the adapter" if adapter else ""))
    return found


def fit(config: RunConfig, prepared: Prepared, say: Say, resume: str = "auto", allow_mismatch: bool = False) -> Inputs:
    """Trains a run to its end, from wherever it stands. Returns (and keeps in inputs.json) what it was trained on."""
    from recmind_dist.training.runner import train

    config = config.absolute()
    run = RunDirectory(config.run_dir)
    if resume == "never":
        _start_over(run, say)
    cursor = _cursor(run)
    inputs, adapts = Inputs(prepared.graph.absolute()), False
    if prepared.texts is not None:
        inputs = _text_inputs(config, run, prepared, say, fresh=cursor is None)
        adapts = config.text.lora is not None and config.warms_up
    run.write_config(config.model_dump(mode="json"))
    if adapts and prepared.texts is not None:
        if cursor is None or cursor.phase == "warmup":
            train(config, inputs, ("warmup",), resume, allow_mismatch)
            resume = "must"
        adapted = embed(config, prepared.texts, run.path / "adapter", say)
        inputs = Inputs(inputs.graph, adapted.path.absolute(), inputs.whitening, inputs.texts, inputs.texts_key)
    write_json(run.path / "inputs.json", {name: str(value) if value else None for name, value in vars(inputs).items()})
    cursor = _cursor(run)
    if cursor is None or cursor.phase != "done":
        train(config, inputs, ("warmup", "joint"), resume, allow_mismatch)
    return inputs


def read_inputs(run: RunDirectory) -> Inputs:
    """What a run was trained on. Raises StoreError if the run has not come so far."""
    path = run.path / "inputs.json"
    if not path.is_file():
        raise StoreError(f"{run.path}: no inputs.json: not a trained run: run `recmind run` or `recmind train` first")
    values = read_json(path)
    paths = {name: Path(values[name]) if values.get(name) else None for name in ("text", "whitening", "texts")}
    return Inputs(Path(values["graph"]), **paths, texts_key=values.get("texts_key") or "")


def _text_inputs(config: RunConfig, run: RunDirectory, prepared: Prepared, say: Say, fresh: bool) -> Inputs:
    assert prepared.texts is not None
    base = embed(config, prepared.texts, None, say)
    whitening, texts = run.path / "whitening.safetensors", run.path / "texts.json"
    if fresh or not whitening.is_file():
        # fitted once a run, to the untouched model: the projection learns in these coordinates and keeps them
        Whitening.fit(TextStore.open(base.path), config.model.text_whitening).save(whitening)
    values = {"items": prepared.texts.items, "users": prepared.texts.users}
    if config.text.lora is not None:
        texts.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    lora_texts = texts.absolute() if config.text.lora is not None else None
    return Inputs(
        prepared.graph.absolute(),
        base.path.absolute(),
        whitening.absolute(),
        lora_texts,
        _texts_key(config, prepared.texts),
    )


def _texts_key(config: RunConfig, texts: Texts) -> str:
    """All that decides the vectors before adapters: model, tokenizer, prompt, pooling, dtype, and the texts."""
    return content_key([encoder_key(config.text), texts.items, texts.users])


def _start_over(run: RunDirectory, say: Say) -> None:
    """An old checkpoint with a better score would be taken for the new run's best."""
    if any(run.checkpoints.glob("step-*")):
        say(f"--resume never: the checkpoints in {run.checkpoints} are removed")
        shutil.rmtree(run.checkpoints)
    run.create()


def _cursor(run: RunDirectory) -> Cursor | None:
    found = find_checkpoint(run.checkpoints, verify=False)
    return Cursor.from_info(found.info) if found else None
