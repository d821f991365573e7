"""The benchmark's end of a contender that runs in a process of its own; `protocol.py` is the other.

A process of its own gives each contender its own peak of memory and, where its packages clash with
ours, its own environment.
"""

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

SCRIPTS = Path(__file__).parent


class ContenderProcess:
    """Starts a contender's script, sends it orders and receives its answers. It idles in between.

    Args:
        script: a file of benchmarks/contenders, such as "run_pyg.py".
        words: the script's command line.
        python: interpreter of the contender's environment. Default: this one.
        wait: return only when the contender is ready. False for ranks that wait for each other:
            start all of them first, then call `wait_ready` on each.
    """

    def __init__(
        self,
        script: str,
        *words: str | Path | int,
        python: Path | None = None,
        wait: bool = True,
    ) -> None:
        self.name = Path(script).stem
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            [python or sys.executable, SCRIPTS / script, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": "" if python else str(ROOT),
                "TOKENIZERS_PARALLELISM": "false",
            },
        )
        self.ready: dict[str, Any] = {}
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when the contender takes orders."""
        self.ready = self.receive()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Sends an order and waits for its answer.

        Raises:
            RecmindError: the contender died; the message holds the end of its log.
        """
        self.send(do, **order)
        return self.receive()

    def send(self, do: str, **order: Any) -> None:
        """Sends an order whose answer is received later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next answer. Raises as `ask` does."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        exit_code = self._process.wait()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace").strip()[-600:]
        raise RecmindError(f"contender {self.name} died with exit code {exit_code}: {log}")

    def close(self) -> None:
        """Closes the contender's input, which ends it, and waits for that."""
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> "ContenderProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.terminate()
        self.close()
