"""A load generator in a process of its own: clients that each send a request, wait, send the next.

    python benchmarks/load.py URL --requests 10000 --clients 16 --num-users 20000

Prints one JSON object: requests, seconds, milliseconds at percentiles, and what failed.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import typer
import uvloop
from pydantic_core import from_json, to_json

KINDS = ("user", "mixed")
_TIMEOUT_S = 30


def main(
    url: str,
    requests: int = 10_000,
    clients: int = 16,
    num_users: int = 20_000,
    num_items: int = 50_000,
    kind: str = "user",
    seed: int = 0,
) -> None:
    """Sends requests for random users; "mixed": also histories, filters and similar items. The
    token is read from RECMIND_TOKEN.
    """
    load = Load(url, random.Random(seed), num_users, num_items, kind == "mixed")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load.run(requests, clients))))


class Connection:
    """One connection that is kept open: a library's client would take more of the cores that the
    server shares than the server's own network code does.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        token = os.environ.get("RECMIND_TOKEN")
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._head += f"Authorization: Bearer {token}\r\n" if token else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, route: str, body: bytes) -> tuple[int, bytes]:
        """Status and content of the answer. Raises OSError, EOFError, ValueError."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(f"POST {route}{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length))


class Load:
    """Requests and what became of them."""

    def __init__(
        self, url: str, draw: random.Random, num_users: int, num_items: int, mixed: bool
    ) -> None:
        self._url, self._draw, self._mixed = url, draw, mixed
        self._num_users, self._num_items = num_users, num_items
        self._seconds: list[float] = []
        self._failed: Counter[str] = Counter()
        self._versions: set[str] = set()

    async def run(self, requests: int, clients: int) -> dict[str, Any]:
        """Sends all of them."""
        self._left = requests
        start = time.perf_counter()
        await asyncio.gather(*(self._client() for _ in range(clients)))
        whole = time.perf_counter() - start
        return {
            "requests": requests,
            "seconds": whole,
            "errors": sum(self._failed.values()),
            "failed": dict(self._failed),
            "versions": sorted(self._versions),
            **{f"p{p}_ms": self._percentile_ms(p) for p in (50, 90, 99, 100)},
        }

    async def _client(self) -> None:
        connection = Connection(self._url)
        while self._left > 0:
            self._left -= 1
            route, body = self._request()
            start = time.perf_counter()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    status, content = await connection.post(route, to_json(body))
            except (OSError, EOFError, ValueError) as error:
                self._failed[type(error).__name__] += 1
                connection = Connection(self._url)
                continue
            self._seconds.append(time.perf_counter() - start)
            self._look_at(status, content)

    def _look_at(self, status: int, content: bytes) -> None:
        if status != 200:
            self._failed[str(status)] += 1
            return
        reply = from_json(content)
        if not reply["results"][0]["items"]:
            self._failed["no item"] += 1
        self._versions.add(reply["bundle"]["version"])

    def _request(self) -> tuple[str, dict[str, Any]]:
        user = f"u{self._draw.randrange(self._num_users)}"
        kind = self._draw.random() if self._mixed else 0.0
        if kind < 0.6:
            return "/recommend", {"user": user, "k": 10}
        if kind < 0.75:
            history = self._draw.sample(range(self._num_items), 10)
            return "/recommend", {"history": [f"i{item}" for item in history], "k": 10}
        if kind < 0.9:
            year = self._draw.randrange(1990, 2020, 5)
            return "/recommend", {"user": user, "k": 10, "where": f"year >= {year}"}
        return "/similar", {"item": f"i{self._draw.randrange(self._num_items)}", "k": 10}

    def _percentile_ms(self, percent: int) -> float:
        ordered = sorted(self._seconds) or [float("nan")]
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1e3


if __name__ == "__main__":
    typer.run(main)
