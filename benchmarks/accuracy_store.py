"""Where results of accuracy runs are kept, in benchmarks/results:

    accuracy.parquet              a row a run: bench, model, seed, settings hash, commit; metrics
    accuracy_comparisons.parquet  a row a comparison of RecMind with a model, user by user
    settings/<hash>.json          settings of the runs that name this hash

Any Parquet reader does; `strata` and `gate` are lists of structs (polars: `explode`, `unnest`).
`python benchmarks/accuracy.py` writes these files. Rows are sorted and nothing is compressed: Git
then stores 2 kB for a run more, not the 131 kB of a new file that it needs with zstd.
"""

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import RESULTS
from recmind_dist.errors import DataError, LockedError
from recmind_dist.storage import content_key, directory_lock, read_json, write_bytes, write_json

Record = dict[str, Any]
"""One run: the fields of RUN, "settings", and dicts "metrics" and "strata", and the list "gate"."""
Compared = dict[str, Any]
"""One model's "role", and under "users recall@20", … the fields of COMPARISON."""

LOCK_WAIT_S = 60.0  # another writer is done within a second
RUN = {
    "bench": pl.String,
    "model": pl.String,
    "seed": pl.Int64,
    "role": pl.String,
    "settings_hash": pl.String,
    "commit": pl.String,
    "train_seconds": pl.Float64,
    "epoch": pl.Int64,
    "norm_exponent": pl.Float64,
    "validation": pl.Float64,
    "macro_recall@20": pl.Float64,
}
STRATUM = {"stratum": pl.String, "users": pl.Int64, "pairs": pl.Int64}
GATE = {
    "layer": pl.Int64,
    "side": pl.String,
    "spearman": pl.Float64,
    "spearman_low": pl.Float64,
    "spearman_high": pl.Float64,
    "count": pl.Int64,
}
COMPARISON = {
    "a": pl.Float64,
    "b": pl.Float64,
    "gain": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "seeds": pl.Int64,
    "users": pl.Int64,
    "significant": pl.Boolean,
    "verdict": pl.String,
}
COMPARISON_KEYS = dict.fromkeys(("bench", "model", "role", "what"), pl.String)


def settings_hash(settings: dict[str, Any]) -> str:
    """What names a setting's file: the first 12 digits of the sha256 of its canonical JSON."""
    return content_key(settings)[:12]


class AccuracyStore:
    """The results of all benches, read and written whole: there are hundreds of runs, not more.

    Args:
        folder: where the files lie. Default: benchmarks/results.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = Path(folder)
        self.runs_file = self.folder / "accuracy.parquet"
        self.comparisons_file = self.folder / "accuracy_comparisons.parquet"
        self.settings_folder = self.folder / "settings"

    def runs(self) -> list[Record]:
        """All runs with their settings, by bench, model and seed.

        Raises:
            DataError: a run's settings are missing or have another hash.
        """
        records = [_record_of_row(row) for row in _read_rows(self.runs_file)]
        settings = {key: self._read_settings(key) for key in {r["settings_hash"] for r in records}}
        return [{**record, "settings": settings[record["settings_hash"]]} for record in records]

    def comparisons(self, bench: str) -> dict[str, Compared]:
        """RecMind against each model of a bench, by model, in the order of `replace_bench`."""
        found: dict[str, Compared] = {}
        for row in _read_rows(self.comparisons_file):
            if row["bench"] == bench:
                model = found.setdefault(row["model"], {"role": row["role"]})
                model[row["what"]] = {field: row[field] for field in COMPARISON}
        return found

    def replace_bench(
        self, bench: str, runs: Iterable[Record], comparisons: dict[str, Compared]
    ) -> None:
        """Replaces all that is kept of a bench; other benches stay. Waits for other writers.

        Settings are written before the runs that name them, and those that no run names any more
        are deleted last, so a process that dies in between leaves a store that can be read.

        Raises:
            DataError: a run's settings do not have its hash; nothing is written.
            LockedError: another process has held the store for a minute.
        """
        new = list(runs)
        for run in new:
            _check_hash(run["settings"], run["settings_hash"], f"{bench}, {run['model']}")
        with self.lock():
            kept = [_record_of_row(row) for row in _read_rows(self.runs_file)]
            records = [run for run in kept if run["bench"] != bench] + new
            self.settings_folder.mkdir(exist_ok=True)
            for run in new:
                write_json(self._settings_file(run["settings_hash"]), run["settings"])
            write_bytes(self.runs_file, _parquet(_runs_frame(records)))
            rows = [row for row in _read_rows(self.comparisons_file) if row["bench"] != bench]
            rows += _comparison_rows(bench, comparisons)
            write_bytes(self.comparisons_file, _parquet(_comparisons_frame(rows)))
            self._delete_settings_but({run["settings_hash"] for run in records})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the store for this process; waits up to a minute while another one has it."""
        deadline = time.monotonic() + LOCK_WAIT_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(directory_lock(self.folder))
                    break
                except LockedError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield

    def _settings_file(self, key: str) -> Path:
        return self.settings_folder / f"{key}.json"

    def _read_settings(self, key: str) -> dict[str, Any]:
        path = self._settings_file(key)
        if not path.is_file():
            raise DataError(f"{path}: missing, but runs in {self.runs_file} name it: restore it")
        settings: dict[str, Any] = read_json(path, DataError)
        _check_hash(settings, key, str(path))
        return settings

    def _delete_settings_but(self, kept: set[str]) -> None:
        for path in self.settings_folder.glob("*.json"):
            if path.stem not in kept:
                path.unlink()


def _check_hash(settings: dict[str, Any], expected: str, where: str) -> None:
    found = settings_hash(settings)
    if found != expected:
        raise DataError(f"{where}: settings have the hash {found}, not {expected}: restore them")


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return pl.read_parquet(path).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read: restore it") from error


def _record_of_row(row: dict[str, Any]) -> Record:
    """A row of accuracy.parquet as a record without settings.

    A metric that is null was not computed in this run and is left out. If the run has the metric,
    a null in a stratum means that nobody is in it, and stays.
    """
    known = {*RUN, "strata", "gate"}
    metrics = {name: row[name] for name in row if name not in known and row[name] is not None}
    strata = {}
    for values in row["strata"]:
        name = values.pop("stratum")
        strata[name] = {
            key: value for key, value in values.items() if value is not None or key in metrics
        }
    run = {field: row[field] for field in RUN}
    return {**run, "metrics": metrics, "strata": strata, "gate": row["gate"]}


def _runs_frame(records: list[Record]) -> pl.DataFrame:
    """Sorted rows; a column for each metric that any run has."""
    metrics = _names(record["metrics"] for record in records)
    in_strata = _names(stratum for record in records for stratum in record["strata"].values())
    of_stratum = STRATUM | {name: pl.Float64 for name in in_strata if name not in STRATUM}
    schema: dict[str, Any] = {
        **RUN,
        **dict.fromkeys(metrics, pl.Float64),
        "strata": pl.List(pl.Struct(of_stratum)),
        "gate": pl.List(pl.Struct(GATE)),
    }
    rows = [
        {
            **{field: record[field] for field in RUN},
            **{name: record["metrics"].get(name) for name in metrics},
            "strata": [{"stratum": name, **values} for name, values in record["strata"].items()],
            "gate": [{field: row.get(field) for field in GATE} for row in record["gate"]],
        }
        for record in sorted(records, key=lambda r: (r["bench"], r["model"], r["seed"]))
    ]
    return pl.DataFrame(rows, schema=schema)


def _comparison_rows(bench: str, comparisons: dict[str, Compared]) -> list[dict[str, Any]]:
    return [
        {"bench": bench, "model": model, "role": compared["role"], "what": what, **result}
        for model, compared in comparisons.items()
        for what, result in compared.items()
        if what != "role"
    ]


def _comparisons_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows by bench; within a bench in the order given, which is the order on the page."""
    ordered = sorted(rows, key=lambda row: str(row["bench"]))
    return pl.DataFrame(ordered, schema={**COMPARISON_KEYS, **COMPARISON})


def _names(dicts: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({name for values in dicts for name in values})


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="uncompressed", statistics=False)
    return buffer.getvalue()
