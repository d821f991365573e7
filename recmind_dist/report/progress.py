"""Progress for people: a live bar on a terminal, plain lines every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from recmind_dist.report.quiet import is_quiet

EVERY_S = 5.0  # between plain lines, at least


class Progress:
    """Counts units of work: `train  epoch 3/20  step 120/980  41.2 steps/s  ETA 21 s  loss 0.412`.

    Args:
        task: its name ("train").
        total: all units.
        unit: name of a unit.
        done: units done before, by a run that is resumed; do not count in the rate.
        stream: default: stderr.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        task: str,
        total: int,
        unit: str = "step",
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task = task
        self.total = total
        self.unit = unit
        self.stage = ""
        self.done = self._before = done
        self._clock = clock
        self._stream = stream or sys.stderr
        self._fields: dict[str, Any] = {}
        self._began = self._last_time = clock()
        self._printed: tuple[int, dict[str, Any]] = (0, {})
        self._bar: RichProgress | None = None
        if self._stream.isatty() and not is_quiet():
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
            self._bar = RichProgress(
                *columns,
                console=Console(file=self._stream),
                transient=False,
                auto_refresh=True,
                redirect_stdout=sys.stdout.isatty(),  # else what goes to a file would come here
            )
            self._bar_task = self._bar.add_task(self.line(), total=total, completed=done)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done and self._printed != (self.done, self._fields):
            self._print()

    def update(self, advance: int = 1, stage: str | None = None, **fields: Any) -> None:
        """Counts `advance` more units.

        Args:
            stage: follows the task ("epoch 3/20") until replaced.
            fields: end the line (loss=0.41) until replaced.
        """
        self.done += advance
        self.stage = self.stage if stage is None else stage
        self._fields.update(fields)
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=self.done, description=self.line())
            return
        # the last line is printed on exit, with what is known then
        if self._clock() - self._last_time >= EVERY_S and self.done < self.total:
            self._print()

    @property
    def rate(self) -> float:
        """Units a second since the start, 0 before the first."""
        elapsed_s = self._clock() - self._began
        return (self.done - self._before) / elapsed_s if elapsed_s > 0 else 0.0

    def line(self) -> str:
        """The state as one line of plain text."""
        rate = self.rate
        count = f"{self.unit} {self.done}/{self.total}"
        parts = [self.task, self.stage, count]
        if rate > 0:
            parts.append(f"{_number(rate)} {self.unit}s/s")
            parts.append(f"ETA {_duration(max(self.total - self.done, 0) / rate)}")
        parts += [f"{name} {_number(value)}" for name, value in self._fields.items()]
        return "  ".join(part for part in parts if part)

    def _print(self) -> None:
        self._last_time = self._clock()
        self._printed = (self.done, dict(self._fields))
        if not is_quiet():
            print(self.line(), file=self._stream, flush=True)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
