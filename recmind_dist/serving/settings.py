"""What the server listens on, who may ask it, and how much they may ask for."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from recmind_dist.errors import ConfigError

TOKEN_VARIABLE = "RECMIND_TOKEN"  # noqa: S105
SHORTEST_TOKEN = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """Of one request, and of all that wait.

    Attributes:
        body_bytes: of a request's body; a longer one is answered with 413.
        k: items of a ranking.
        users: of one request.
        history: items of a history, and of a list of items to show or to leave out.
        text: characters.
        filter: characters of `where`.
        batch: requests that are ranked together.
        waiting: requests that wait for their ranking; a further one is answered with 503.
        body_s: seconds in which a body must have come.
    """

    body_bytes: int = 1 << 20
    k: int = 1000
    users: int = 256
    history: int = 1000
    text: int = 10_000
    filter: int = 2000
    batch: int = 64
    waiting: int = 1024
    body_s: float = 10.0


@dataclass(frozen=True)
class ServeSettings:
    """Of one server.

    Attributes:
        bundle: directory of the bundle, or of a run; a link is followed when it changes.
        root: `POST /bundle` takes directories below it alone.
        host, port: where to listen; port 0: any free one, which is printed.
        token: that every request must bear; None: nobody needs one, which loopback alone allows.
        limits: see `Limits`.
        popularity_penalty: λ, by which popular items are shown less.
        indexed: whether the bundle's index of nearest neighbours ranks; bundles without one are
            refused then.
        watch_s: seconds between two looks at `bundle`; 0: it is not looked at again.

    Raises:
        ConfigError: no token and a host that others can reach, or a token too short.
    """

    bundle: Path
    root: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    limits: Limits = Limits()
    popularity_penalty: float = 0.0
    indexed: bool = False
    watch_s: float = 1.0

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} without a token would answer whoever reaches it: set "
                f"{TOKEN_VARIABLE} or give --token-file, or listen on 127.0.0.1"
            )
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"the token has {len(self.token)} characters: give at least {SHORTEST_TOKEN}, such "
                "as the output of `openssl rand -hex 32`"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES


def read_token(file: Path | None) -> str | None:
    """The token of a file, else that of the environment, else None.

    Raises:
        ConfigError: the file cannot be read, is empty, or holds more than printable ASCII.
    """
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        source = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read as a token ({error})") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: a token is one word of printable ASCII: make one anew")
    return token
