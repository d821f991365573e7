"""Runs the application under uvicorn on one socket."""

import errno
import socket
import sys

import uvicorn

from recmind_dist.errors import ConfigError
from recmind_dist.serving.app import make_app
from recmind_dist.serving.current import Current, open_served
from recmind_dist.serving.settings import ServeSettings
from recmind_dist.types import Say

_BACKLOG = 2048
_CONNECTIONS = 4096
_LAST_REQUESTS_S = 10
_SWITCH_S = 5e-4
"""After which the ranking thread lets the event loop run, and the other way round. Python's own
5 ms are a fifth of what an answer may take.
"""


def serve(settings: ServeSettings, say: Say) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are answered then.

    Raises:
        DataError: there is no index to rank by.
        ConfigError: the port is in use, or the host is not this machine's.
        StoreError: the bundle is absent, of another version, or damaged.
    """
    listening = _listen(settings)
    sys.setswitchinterval(_SWITCH_S)
    try:
        served = open_served(settings.bundle, settings.popularity_penalty, settings.indexed)
        config = uvicorn.Config(
            make_app(Current(settings.bundle, served), settings),
            loop="uvloop",
            http="httptools",
            log_level="warning",
            access_log=False,  # ids of users stay out of logs
            ws="none",
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_LAST_REQUESTS_S,
            server_header=False,
            proxy_headers=False,
        )
        say(f"serving {served.name}, version {served.version}: {_url(listening)}")
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _listen(settings: ServeSettings) -> socket.socket:
    """Bound before the bundle is read: a port in use is said at once."""
    where = f"port {settings.port} of {settings.host}"
    try:
        kind = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(kind[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(kind[4])
        listening.listen(_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{where} is in use: choose another with --port") from error
        raise ConfigError(f"{where} cannot be listened on ({error.strerror})") from error
    return listening
