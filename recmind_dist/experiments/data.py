"""Checks that a study's data are there before anything is prepared."""

from pathlib import Path

from recmind_dist.errors import DataError
from recmind_dist.ingest.settings import paths_of
from recmind_dist.ingest.sources import is_there
from recmind_dist.run_config.run_config import RunConfig


def refuse_missing_data(config: RunConfig) -> None:
    """Raises DataError that names every missing file, except those that `fetch` downloads."""
    missing = [path for path in _files(config) if not is_there(path)]
    if not missing or config.dataset.name in config.fetch:
        return
    names = ", ".join(str(path) for path in missing)
    folders = sorted({str(path.parent) for path in missing if not path.parent.exists()})
    absent = f" (no folder {', '.join(folders)})" if folders else ""
    raise DataError(
        f"data set {config.dataset.name} is not here: {names}{absent}: put the files there, or "
        "name them with dataset.interactions and dataset.items; `recmind fetch ml-100k` brings a "
        "data set that needs no more"
    )


def _files(config: RunConfig) -> list[Path]:
    data = config.dataset
    tables = [
        path for table in (data.items, data.users) if table is not None for path in table.paths
    ]
    return [*data.interactions.paths, *tables, *paths_of(data.test), *paths_of(data.valid)]
