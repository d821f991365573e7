"""A run that was moved or copied: its paths, found again beside it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import config_of_run
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import check_seal, read_json
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.training.inputs import Inputs


def relocated(path: Path, old_run: Path, new_run: Path) -> Path:
    """Where a path of a run is now: as recorded if it is there, else in the same place as seen from
    the run directory; files of the run itself are looked for in its new place first.

    Args:
        path, old_run: absolute, as recorded.
    """
    beside = Path(os.path.normpath(new_run.absolute() / os.path.relpath(path, old_run)))
    if not beside.exists() or (path.exists() and not path.is_relative_to(old_run)):
        return path
    return beside


def relocated_inputs(inputs: Inputs, run: RunDirectory) -> Inputs:
    """The inputs of a run with the paths that hold now."""
    try:
        old = config_of_run(run.config).run_dir
    except (RecmindError, OSError):
        return inputs  # whoever needs the config says what is wrong with it
    if not old.is_absolute() or old == run.path.absolute():
        return inputs
    given: dict[str, Path | None] = {
        "graph": inputs.graph,
        "text": inputs.text,
        "whitening": inputs.whitening,
        "texts": inputs.texts,
        "start": inputs.start,
        "item_vectors": inputs.item_vectors,
    }

    paths: dict[str, Any] = {
        name: relocated(path, old, run.path) for name, path in given.items() if path is not None
    }
    return replace(inputs, **paths)


def relocated_config(config: RunConfig, run: RunDirectory) -> RunConfig:
    """A run's config with the paths that hold now."""
    old = config.run_dir
    changed: dict[str, object] = {"run_dir": run.path}
    if old.is_absolute() and old != run.path.absolute():
        changed["cache_dir"] = relocated(config.cache_dir, old, run.path)
        model = Path(config.text.model)
        if model.is_absolute():
            moved = str(relocated(model, old, run.path))
            changed["text"] = config.text.model_copy(update={"model": moved})
    return config.model_copy(update=changed)


def read_inputs(run: RunDirectory) -> Inputs:
    """What a run was trained on. Raises StoreError if it is untrained, or its graph is lost."""
    path = run.path / "inputs.json"
    if not path.is_file():
        raise StoreError(f"{run.path}: {_why_no_inputs(run)}")
    check_seal(path, DOCTOR)
    inputs = relocated_inputs(Inputs.from_json(read_json(path)), run)
    if not inputs.graph.exists():
        raise StoreError(
            f"{inputs.graph}: not there, and {run.path} was trained on it: when a run is moved or "
            "copied, take its cache_dir along, to the same place beside it, or let `recmind doctor "
            "RUN --repair` make it again where the log is (recommend, serve need RUN/bundle alone)"
        )
    Graph.open(inputs.graph, verify=True)  # once, not by every rank
    return inputs


def _why_no_inputs(run: RunDirectory) -> str:
    try:
        config = config_of_run(run.config)
    except (RecmindError, OSError):
        config = None
    if config is not None and not config.trains:
        return f"variant {config.variant} trains no vectors: run another variant to recommend"
    return "no inputs.json: not a trained run: run `recmind train` first"
