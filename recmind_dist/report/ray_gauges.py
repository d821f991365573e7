"""A run's loss, speed and validations as gauges of Ray, beside Ray's own metrics."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recmind_dist.report.metrics_log import MetricsLog

log = logging.getLogger(__name__)

GAUGES = {
    "recmind_loss": "loss of the newest step in metrics.jsonl",
    "recmind_steps_per_second": "between the two newest of them, with all that lies between",
    "recmind_sampler_stall_percent": "share of the newest epoch that was spent waiting for batches",
    "recmind_validation": "the metric that chooses the checkpoint, in the newest validation",
}
"""Name → what it is. Prometheus has them with `ray_` before the name."""
TAGS = ("run", "phase", "metric")


def show_in_ray(metrics: MetricsLog, run: Path, chosen: str) -> None:
    """From now on what is logged sets gauges of the Ray that this process belongs to. Without one,
    or where Ray refuses, nothing does.

    Args:
        run: its directory, a tag of every gauge.
        chosen: the metric of validations, as "ndcg@20".
    """
    import ray
    from ray.util.metrics import Gauge

    if not ray.is_initialized():
        return
    try:
        gauges = {name: Gauge(name, about, TAGS) for name, about in GAUGES.items()}
    except Exception as error:
        _warn(error)
        return
    metrics.observers.append(RayGauges(gauges, str(run), chosen))


class RayGauges:
    """Sets gauges by records of metrics.jsonl: a few microseconds for a step that is logged.

    Args:
        gauges: by the names of `GAUGES`; each has `set(value, tags)`.
    """

    def __init__(self, gauges: Mapping[str, Any], run: str, chosen: str) -> None:
        self._gauges, self._run, self._chosen = gauges, run, chosen
        self._last: Mapping[str, Any] = {}
        self._refused = False

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes one record. Training goes on whatever Ray says to it."""
        try:
            for name, value in self._values(record):
                if value is not None:
                    self._set(name, value, str(record.get("phase", "")))
        except Exception as error:  # Ray names no class of its own
            if not self._refused:
                _warn(error)
            self._refused = True

    def _values(self, record: Mapping[str, Any]) -> list[tuple[str, float | None]]:
        """A gauge keeps its value where there is none, as for a loss that is not finite."""
        if record["kind"] == "step":
            return [
                ("recmind_loss", record.get("loss")),
                ("recmind_steps_per_second", self._speed(record)),
            ]
        if record["kind"] == "epoch":
            return [("recmind_sampler_stall_percent", record.get("sampler_stall_percent"))]
        if record["kind"] == "validation":
            return [("recmind_validation", record.get(self._chosen))]
        return []

    def _speed(self, record: Mapping[str, Any]) -> float | None:
        """Steps a second since the step before, of the same phase."""
        before, self._last = self._last, record
        if before.get("phase") != record.get("phase"):
            return None
        seconds = float(record["time"] - before["time"])
        return (record["step"] - before["step"]) / seconds if seconds > 0 else None

    def _set(self, name: str, value: float, phase: str) -> None:
        metric = self._chosen if name == "recmind_validation" else ""
        self._gauges[name].set(value, {"run": self._run, "phase": phase, "metric": metric})


def _warn(error: Exception) -> None:
    log.warning("Ray takes no metrics (%s): metrics.jsonl has them", error)
