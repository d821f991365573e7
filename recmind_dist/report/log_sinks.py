"""metrics.jsonl, sent on to TensorBoard, MLflow, Weights & Biases or Trackio. The file stays the
record: whatever was sent can be sent again.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from recmind_dist.causes import telling_line
from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.report.metrics_log import parse_line
from recmind_dist.report.run_directory import RunDirectory

PLACE = {"time", "kind", "phase", "step", "total", "epoch", "epochs", "world_size", "steps_done"}
"""What says where a record stands, and is not sent as a value."""
KINDS = ("step", "epoch", "validation", "whole_validation", "traffic")
Values = Mapping[str, float]


class Sink(Protocol):
    """Takes scalars, by name and step."""

    def send(self, values: Values, step: int, unix_s: float) -> None:
        """Sends values that belong to one step."""

    def close(self) -> None:
        """Waits until all is sent."""


def open_sink(kind: str, run: RunDirectory, dataset: str, settings: Mapping[str, Any]) -> Sink:
    """A sink for one run.

    Args:
        kind: a key of `SINKS`.
        settings: sent along once, where the sink has a place for them.
    Raises:
        ConfigError: no such sink, its package is not installed, or refuses.
    """
    if kind not in SINKS:
        raise ConfigError(f"--to {kind}: choose {', '.join(SINKS)}")
    package, make = SINKS[kind]
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--to {kind}: needs the package {package}: pip install {package}"
        ) from error
    try:
        return make(module, run, dataset, settings)
    except Exception as error:  # of the package: no server, no key, a store that it refuses
        raise ConfigError(f"--to {kind}: {package} says: {telling_line(str(error))}") from error


def send_log(run: RunDirectory, sink: Sink, follow: bool, every_s: float = 2.0) -> int:
    """Sends a run's records, then the results of its evaluation. Returns how many records.

    Args:
        follow: go on until an evaluation that ends later, or an interruption.
    Raises:
        StoreError: there is no metrics.jsonl, and `follow` does not wait for it.
    """
    if not follow and not run.metrics.is_file():
        raise StoreError(f"{run.metrics}: missing: give a run that trains, or --follow")
    before = _written(run.results)
    sent, step, before_phase, phase, unix_s = 0, 0, 0, None, 0.0
    tail = _Tail(run.metrics)
    while True:
        ended = not follow or _written(run.results) != before  # asked before the last reading
        for record in tail.records():
            if record["kind"] == "step":
                if record["phase"] != phase:  # each phase counts from 1
                    before_phase, phase = step, record["phase"]
                step = before_phase + int(record["step"])
            unix_s = float(record["time"])
            if values := scalars_of(record):
                sink.send(values, step, unix_s)
                sent += 1
        if ended:
            if run.results.is_file():
                results = run.read_results()["metrics"]
                sink.send({f"test/{name}": value for name, value in results.items()}, step, unix_s)
            return sent
        time.sleep(every_s)


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The values of a record: `joint/step/loss`, `validation/recall@20`."""
    if record.get("kind") not in KINDS:
        return {}
    parts = [record["phase"]] if "phase" in record else []
    prefix = "/".join([*parts, record["kind"]])
    return {
        f"{prefix}/{name}": float(value)
        for name, value in record.items()
        if name not in PLACE and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _without_at(name: str) -> str:
    """`recall_at_20` for `recall@20`: not every sink takes an @."""
    return name.replace("@", "_at_")


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


class _Tail:
    """What has been appended to metrics.jsonl since the last call; a torn last line waits."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest = path, 0, b""

    def records(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if (record := parse_line(line)) is not None:
                yield record


class _TensorBoard:
    """Event files in RUN/tensorboard; what was sent before is replaced."""

    def __init__(
        self, module: Any, run: RunDirectory, dataset: str, settings: Mapping[str, Any]
    ) -> None:
        self._writer = module.SummaryWriter(str(run.path / "tensorboard"), purge_step=0)
        self._writer.add_text("settings", f"    {json.dumps(settings, indent=1)}", 0)

    def send(self, values: Values, step: int, unix_s: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(_without_at(name), value, step, walltime=unix_s)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run of the experiment named as the data set, where MLFLOW_TRACKING_URI says."""

    def __init__(
        self, module: Any, run: RunDirectory, dataset: str, settings: Mapping[str, Any]
    ) -> None:
        self._module = module
        module.set_experiment(dataset)
        module.start_run(run_name=run.path.name)
        module.log_dict(dict(settings), "config.json")

    def send(self, values: Values, step: int, unix_s: float) -> None:
        named = {_without_at(name): value for name, value in values.items()}
        self._module.log_metrics(named, step=step, timestamp=int(1000 * unix_s))

    def close(self) -> None:
        self._module.end_run()


class _Wandb:
    """A run of the project named as the data set; Trackio has the same calls."""

    def __init__(
        self, module: Any, run: RunDirectory, dataset: str, settings: Mapping[str, Any]
    ) -> None:
        self._module = module
        module.init(project=dataset, name=run.path.name, config=dict(settings))

    def send(self, values: Values, step: int, unix_s: float) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


Make = Callable[[Any, RunDirectory, str, Mapping[str, Any]], Sink]
SINKS: dict[str, tuple[str, Make]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "mlflow": ("mlflow", _MLflow),
    "wandb": ("wandb", _Wandb),
    "trackio": ("trackio", _Wandb),
}
"""Name → the package that it needs, and its class."""
