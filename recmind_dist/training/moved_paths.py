"""A run that was moved or copied: its paths, found again beside it."""

import os
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError
from recmind_dist.ingest.settings import DatasetSettings, Paths, paths_of
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import config_of_run
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.run_stores import RunStores

WILDCARDS = frozenset("*?[")


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


def relocated_inputs(inputs: RunStores, run: RunDirectory) -> RunStores:
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
        changed["dataset"] = _relocated_files(config.dataset, old, run.path)
        if (of := config.update.of) is not None and of.is_absolute():
            moved_of = relocated(of, old, run.path)
            changed["update"] = config.update.model_copy(update={"of": moved_of})
    return config.model_copy(update=changed)


def _relocated_files(dataset: DatasetSettings, old: Path, new: Path) -> DatasetSettings:
    """The data set with the absolute paths of its files as they hold now."""

    changed: dict[str, object] = {}
    for name in ("interactions", "items", "users"):
        if (files := getattr(dataset, name)) is not None:
            moved = _relocated_paths(files.path, old, new)
            changed[name] = files.model_copy(update={"path": moved})
    for name in ("test", "valid"):
        if (paths := getattr(dataset, name)) is not None:
            changed[name] = _relocated_paths(paths, old, new)
    return dataset.model_copy(update=changed)


def _relocated_paths(paths: Paths, old: Path, new: Path) -> Paths:
    found = [_relocated_pattern(p, old, new) if p.is_absolute() else p for p in paths_of(paths)]
    return found if isinstance(paths, list) else found[0]


def _relocated_pattern(path: Path, old: Path, new: Path) -> Path:
    """As `relocated`, of a pattern by its last folder without a wildcard."""
    plain = [*takewhile(lambda part: not WILDCARDS & set(part), path.parts)]
    return relocated(Path(*plain), old, new).joinpath(*path.parts[len(plain) :])
