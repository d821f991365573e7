"""Our end of a side in a process of its own; see sides/protocol.py."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measure import ROOT
from recmind_dist.errors import RecmindError

SIDES = Path(__file__).parent / "sides"


class Child:
    """A side that is ready for orders, and waits idle between them.

    Args:
        python: interpreter of the side's environment; script: file in sides/; words: its command line; wait: until it is
        ready; sides that wait for each other are started first and waited for then.
    """

    def __init__(self, script: str, *words: str | Path | int, python: Path | None = None, wait: bool = True) -> None:
        self.name = Path(script).stem
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            [python or sys.executable, SIDES / script, *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "" if python else str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self.ready: dict[str, Any] = {}
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when the side takes orders."""
        self.ready = self.receive()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Does one piece of work there and waits for its answer.

        Raises:
            RecmindError: the side has died, with its last words.
        """
        self.send(do, **order)
        return self.receive()

    def send(self, do: str, **order: Any) -> None:
        """Gives an order whose answer is received later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._log.close()

    def receive(self) -> dict[str, Any]:
        """The next answer. Raises as `ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip()[-600:]
        raise RecmindError(f"side {self.name} has died with {self._process.returncode}: {last}")

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.terminate()
        self.close()
