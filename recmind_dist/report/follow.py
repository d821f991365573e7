"""Draws the progress of training from metrics.jsonl while workers write it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recmind_dist.report.metrics_log import parse_line
from recmind_dist.report.printable import printable_lines
from recmind_dist.report.progress import Progress
from recmind_dist.report.quiet import is_quiet
from recmind_dist.report.tables import table_metrics


@contextmanager
def follow_training(metrics: Path, chosen: str = "", every_s: float = 0.5) -> Iterator[None]:
    """Inside the block a thread displays what is appended to `metrics`.

    Args:
        chosen: the metric of validations to show beside Recall and NDCG.
    """
    stop = threading.Event()
    offset = metrics.stat().st_size if metrics.exists() else 0
    thread = threading.Thread(
        target=_follow,
        args=(metrics, offset, stop, chosen, every_s),
        daemon=True,
        name="follow-training",
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(metrics: Path, offset: int, stop: threading.Event, chosen: str, every_s: float) -> None:
    display = _Display(chosen)
    rest = b""
    while True:
        is_last = stop.is_set()
        if metrics.exists():
            with metrics.open("rb") as file:
                file.seek(offset)
                data = file.read()
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:  # torn ones are skipped: read_metrics warns of them
                display.add(parse_line(line) or {})
        if is_last:
            display.close()
            return
        stop.wait(every_s)


class _Display:
    """A progress bar for each phase; restarts and warnings as lines."""

    def __init__(self, chosen: str = "") -> None:
        self._chosen = chosen
        self._bar: Progress | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Displays one record of metrics.jsonl."""
        kind = entry.get("kind")
        if kind == "start":
            self.close()
            if entry.get("steps_done") and not is_quiet():
                _print(
                    f"going on at step {entry['steps_done']} ({entry['phase']}), "
                    f"{entry['world_size']} workers"
                )
        elif kind == "warning":
            _print(f"warning: {entry.get('message')}")
        elif kind == "step":
            self._step(entry)
        elif kind == "validation" and self._bar is not None:
            usual = table_metrics({"": {"metrics": _scores(entry)}})[:2]
            names = dict.fromkeys((*usual, self._chosen))
            of = f" of {entry['users']:,} users" if "users" in entry else ""  # a sample
            scores = {name + of: entry[name] for name in names if entry.get(name) is not None}
            self._bar.update(0, **scores)

    def _step(self, entry: dict[str, Any]) -> None:
        if self._bar is None or self._bar.task != entry["phase"]:
            self.close()
            self._bar = Progress(entry["phase"], entry["total"], done=entry["step"])
            self._bar.__enter__()
        stage = f"epoch {entry['epoch'] + 1}/{entry['epochs']}"
        self._bar.update(max(entry["step"] - self._bar.done, 0), stage=stage, loss=entry["loss"])

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None


def _scores(entry: dict[str, Any]) -> dict[str, Any]:
    """The metrics at a cut-off among the values of a line."""
    return {name: value for name, value in entry.items() if "@" in name}


def _print(line: str) -> None:
    print(printable_lines(line), file=sys.stderr, flush=True)
