"""Data sets of small files, and what is said of them."""

from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.ingest import DatasetSettings, dataset_summary, ingest_dataset

LOG = "user,item\nu1,i1\nu1,i2\nu2,i1\n"


def ingest(tmp_path: Path, files: dict[str, str | bytes], **settings: Any) -> Path:
    """A data set of `log.csv`, unless settings name another log, in `tmp_path`."""
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(content.encode() if isinstance(content, str) else content)
    for key in ("interactions", "items", "test"):
        value = settings.get(key, "log.csv" if key == "interactions" else None)
        if isinstance(value, dict):
            settings[key] = {**value, "path": tmp_path / value["path"]}
        elif value is not None:
            settings[key] = tmp_path / value
    made = DatasetSettings.model_validate({"name": "toy", **settings})
    return ingest_dataset(made, tmp_path / "cache")


def rows(made: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(made / "interactions.parquet").sort("row")["user", "item"].rows()


def warnings(made: Path) -> str:
    return "\n".join(line for line in dataset_summary(made) if line.startswith("warning"))
