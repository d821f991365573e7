"""What stands before every request: host, token, size of the body; and headers of every answer."""

import asyncio
import hmac
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recmind_dist.serving.metrics import Metrics
from recmind_dist.serving.refusal import Refusal
from recmind_dist.serving.settings import LOOPBACK_NAMES, ServeSettings

OPEN_ROUTES = frozenset({"/", "/page.css", "/page.js", "/health"})
"""Answered without a token: they say nothing of the bundle."""
_DRAINED = 256 << 20  # bytes of a body too large that are read, so that its client hears why
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
_HEADERS = (
    (
        b"content-security-policy",
        f"{_POLICY}connect-src 'self'; base-uri 'none'; frame-ancestors 'none'".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
Headers = Mapping[bytes, bytes]


class Guard:
    """ASGI middleware.

    Args:
        app: what it stands before.
        settings: token and limits.
        metrics: counts every answer.
        routes: paths that are counted by name; all others count as "other".
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, routes: frozenset[str]
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._routes = routes
        self._token = settings.token.encode() if settings.token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._pass(scope, receive, send_guarded)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.count(route, status, time.perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        try:
            self._check_host(headers)
            self._check_token(scope["path"], headers)
            body = await self._body(headers, receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, _Once(body, receive), send)

    def _check_host(self, headers: Headers) -> None:
        """Without a token a page elsewhere could reach this server by a name of its own that leads
        here (DNS rebinding): then only loopback's names are answered.
        """
        if self._token is not None:
            return
        name = headers.get(b"host", b"").decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name not in LOOPBACK_NAMES and name != self._settings.host:
            raise Refusal(403, "without a token only requests to localhost are answered")

    def _check_token(self, path: str, headers: Headers) -> None:
        if self._token is None or path in OPEN_ROUTES:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise Refusal(
                401,
                "the token is missing or wrong: send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._settings.limits.body_bytes
        refusal = Refusal(
            413, f"the body is longer than {limit} bytes: send less", {"Connection": "close"}
        )
        length = headers.get(b"content-length", b"0")
        announced = int(length) if length.isdigit() else 0
        if announced > limit and headers.get(b"expect", b"").lower() == b"100-continue":
            raise refusal  # a client that asks first is told before it sends
        try:
            async with asyncio.timeout(self._settings.limits.body_s):
                return await _read(receive, limit, refusal)
        except TimeoutError:
            raise Refusal(408, "the body did not come in time", {"Connection": "close"}) from None


async def _read(receive: Receive, limit: int, refusal: Refusal) -> bytes:
    """The whole body. A longer one is read and thrown away before it is refused: who still sends
    would see a broken connection, not the answer.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > _DRAINED:
            raise refusal
    if size > limit:
        raise refusal
    return b"".join(parts)


class _Once:
    """Gives the body that was read, then what the server says further."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}
