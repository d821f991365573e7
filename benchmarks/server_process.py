"""`recmind serve` in a process of its own, and requests to it over its socket."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_URL = re.compile(r"(http://\S+)/$")
TOKEN = "0123456789abcdef0123456789abcdef"


class ServerProcess:
    """A server on a port that the system chose.

    Args:
        bundle: to serve.
        options: of `recmind serve`.
        token: that it asks for; None: none.
        port: 0: any free one.

    Attributes:
        url: without a slash at its end.
    """

    def __init__(
        self, bundle: Path, *options: str, token: str | None = None, port: int = 0
    ) -> None:
        self.token = token
        environment = {k: v for k, v in os.environ.items() if k != "RECMIND_TOKEN"}
        words = ["serve", str(bundle), "--port", str(port), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recmind_dist.cli", *words],
            env=environment | ({"RECMIND_TOKEN": token} if token else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url, self._errors = "", [""]
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def wait(self) -> "ServerProcess":
        """Until it says where it listens. Raises RuntimeError with its words if it ends before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = _URL.search(line.strip())
        if not found:
            self.stop()
            raise RuntimeError(f"the server ended: {self.errors()}")
        self.url = found[1]
        return self

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer.

        Args:
            body: sent as JSON; None: a GET.
            headers: over those that are right.
            data: sent as it is, in place of `body`.
        """
        sent = {"Content-Type": "application/json"}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        sent |= headers or {}
        content = json.dumps(body).encode() if data is None and body is not None else data
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request("GET" if content is None else "POST", path, content, sent)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def errors(self) -> str:
        """What it has written to stderr."""
        return "".join(self._errors)

    def stop(self) -> int:
        """Ends it by SIGTERM; its exit code."""
        self.process.terminate()
        code = self.process.wait(30)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def __enter__(self) -> "ServerProcess":
        return self.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.stop()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.append(line)
