"""Starts the head of a Ray cluster, or joins a node to it, with token authentication.

    python launchers/cluster.py head                           # dashboard and jobs on 127.0.0.1
    python launchers/cluster.py head --dashboard-host 0.0.0.0  # on every address
    python launchers/cluster.py node --address HEAD:6379

The token is in the file RAY_AUTH_TOKEN_PATH, by default ~/.ray/auth_token. The head makes one if
there is none. Copy the file to every node and to whoever submits jobs; only its owner may read it.
RAY_AUTH_MODE=disabled switches the token off, and then only loopback addresses are accepted. Words
after -- go to `ray start`.
"""

import argparse
import ipaddress
import os
import secrets
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path

RAY = Path(sys.executable).parent / "ray"
# not to be had past the checks below
OURS = ("--head", "--address", "--dashboard-host", "--node-ip-address")


class Refusal(ValueError):
    """What will not be started, and what to do instead."""


def main(words: list[str], environment: MutableMapping[str, str]) -> int:
    """Checks, then runs `ray start`. Returns its exit code, or 2 with one sentence on stderr."""
    try:
        command = ray_command(parse(words), environment)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    return subprocess.run(command, env=dict(environment), check=False).returncode


def parse(words: list[str]) -> argparse.Namespace:
    """role, address, dashboard_host, node_ip_address, and the rest for Ray."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    roles = parser.add_subparsers(dest="role", required=True)
    head, node = roles.add_parser("head"), roles.add_parser("node")
    head.add_argument(
        "--dashboard-host",
        default="127.0.0.1",
        help="address that the dashboard and job API listen on",
    )
    node.add_argument("--address", required=True, help="HEAD:PORT of the cluster")
    for role in (head, node):
        role.add_argument("--node-ip-address", help="address of this machine in the cluster")
        role.add_argument("rest", nargs="*", metavar="-- WORD", help="for `ray start`")
    return parser.parse_args(words)


def ray_command(arguments: argparse.Namespace, environment: MutableMapping[str, str]) -> list[str]:
    """The `ray start` to run; sets RAY_AUTH_MODE, makes the token, and switches Ray's usage
    statistics off where nothing is said of them. Raises Refusal. The token is never in the words.
    """
    for word in arguments.rest:
        name = word.partition("=")[0].replace("_", "-")
        if name in OURS:
            raise Refusal(f"{name} after --: give it before, where it is checked")
    head = arguments.role == "head"
    if not require_token(environment, make=head):
        _refuse_public(arguments, head)
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    command = [str(RAY), "start"]
    if head:
        command += ["--head", f"--dashboard-host={arguments.dashboard_host}"]
    else:
        command += [f"--address={arguments.address}"]
    if arguments.node_ip_address:
        command += [f"--node-ip-address={arguments.node_ip_address}"]
    return [*command, *arguments.rest]


def require_token(environment: MutableMapping[str, str], make: bool) -> bool:
    """Turns token authentication on where nothing is said of it, and looks for the token.

    Returns:
        False if RAY_AUTH_MODE is "disabled".

    Raises:
        Refusal: the mode is unknown, or the token is absent, empty, or readable by others.
    """
    mode = environment.setdefault("RAY_AUTH_MODE", "token")
    if mode == "disabled":
        return False
    if mode != "token":
        raise Refusal(f"RAY_AUTH_MODE={mode}: choose token or disabled")
    if environment.get("RAY_AUTH_TOKEN"):
        return True
    path = token_file(environment)
    if not path.exists():
        if not make:
            raise Refusal(
                f"{path}: no token: copy the head's file there, or set RAY_AUTH_TOKEN_PATH"
            )
        _write_token(path)
    if path.stat().st_mode & 0o077:
        raise Refusal(f"{path}: others may read the token: run chmod 600 {path}")
    if not path.read_text().strip():
        raise Refusal(f"{path}: empty: remove it, and the head makes a new one")
    return True


def token_file(environment: MutableMapping[str, str]) -> Path:
    """Where Ray looks for the token."""
    return Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches the address. Names other than localhost are not known."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _write_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    print(f"token: made in {path}: copy it to the other nodes, readable by its owner alone")


def _refuse_public(arguments: argparse.Namespace, head: bool) -> None:
    """Without a token, whoever reaches a port of Ray runs code of his own."""
    remedy = "set RAY_AUTH_MODE=token, or keep to 127.0.0.1"
    if head and not is_loopback(arguments.dashboard_host):
        raise Refusal(
            f"--dashboard-host {arguments.dashboard_host} without a token: refused: {remedy}"
        )
    if not is_loopback(arguments.node_ip_address):
        shown = arguments.node_ip_address or "(unset)"
        raise Refusal(f"--node-ip-address {shown} without a token: refused: {remedy}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
