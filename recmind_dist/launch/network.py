"""What gloo needs of a node: an address at which other nodes reach it, and a socket to every rank."""

import ipaddress
import os
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "GLOO_SOCKET_IFNAME"
GROUPS = 4
"""Of all ranks: torch's own, two for ids (distributed/context.py), DeepSpeed's. Each has a socket
for every rank.
"""
OTHER_FILES = 128
"""Files that a worker has open besides, rounded up: pipes, logs and Ray's connections."""
_LOOPBACK_FLAG = 0x8  # IFF_LOOPBACK of <net/if.h>
_REMEDY = f"set {INTERFACE} to the interface that the other nodes reach, before `ray start`"


@dataclass(frozen=True)
class Network:
    """Where gloo would listen on this node.

    Attributes:
        chosen: the interfaces that GLOO_SOCKET_IFNAME names; is_loopback: of each interface there
        is;
        hostname: the machine's; address: the first that the hostname stands for and this machine
        has, "" if there is none.
    """

    chosen: Sequence[str]
    is_loopback: dict[str, bool]
    hostname: str
    address: str


def fault_of_network(many_nodes: bool, num_ranks: int) -> str | None:
    """What keeps ranks on this node from meeting the others, a sentence without its subject; None
    if nothing does.

    Args:
        many_nodes: ranks run on more than one machine.
    """
    fault = loopback_fault(network_here()) if many_nodes else None
    return fault or sockets_fault(open_files_allowed(), num_ranks)


def loopback_fault(network: Network) -> str | None:
    """Says that gloo would listen where no other node reaches it, and what to do."""
    for name in network.chosen:
        if name not in network.is_loopback:
            return f"has no network interface {name} ({INTERFACE}): it has {', '.join(sorted(network.is_loopback))}"
        if network.is_loopback[name]:
            return f"is not reached by other nodes at interface {name} ({INTERFACE}): {_REMEDY}"
    if network.chosen:
        return None
    if not network.address:
        return (
            f"is not reached by other nodes: its hostname {network.hostname} is no address of its "
            "own, and gloo then "
            f"listens on loopback: {_REMEDY}"
        )
    if ipaddress.ip_address(network.address.partition("%")[0]).is_loopback:
        return (
            f"is not reached by other nodes: its hostname {network.hostname} stands for "
            f"{network.address}, where gloo "
            f"listens: correct /etc/hosts, or {_REMEDY}"
        )
    return None


def sockets_fault(allowed: int, num_ranks: int) -> str | None:
    """Says that a process may not open as many sockets as so many ranks need, and what to do."""
    needed = GROUPS * num_ranks + OTHER_FILES if num_ranks > 1 else 0
    if needed <= allowed:
        return None
    return (
        f"lets a process open {allowed} files, and {num_ranks} ranks need about {needed}: run "
        "`ulimit -n "
        f"{max(65536, needed)}` before `ray start` (or `recmind`), or lower scaling.num_workers"
    )


def fewest_nodes(rooms: Sequence[int], workers: int) -> int:
    """On how many nodes at least so many workers run, or as many of them as there is room for.

    Args:
        rooms: of each node, for how many workers.
    """
    nodes, left = 0, min(workers, sum(rooms))
    for room in sorted(rooms, reverse=True):
        if left <= 0:
            break
        nodes, left = nodes + 1, left - room
    return nodes


def network_here() -> Network:
    """This process's, found as torch and gloo find it."""
    chosen = [name for name in os.environ.get(INTERFACE, "").split(",") if name]
    names = [name for _, name in socket.if_nameindex()]
    return Network(
        chosen,
        {name: _is_loopback(name) for name in names},
        socket.gethostname(),
        _first_own_address(),
    )


def open_files_allowed() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 62


def _is_loopback(interface: str) -> bool:
    try:
        return bool(int(Path(f"/sys/class/net/{interface}/flags").read_text(), 16) & _LOOPBACK_FLAG)
    except (OSError, ValueError):
        return interface.rstrip("0123456789") == "lo"


def _first_own_address() -> str:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.bind(address)
        except OSError:
            continue
        return str(address[0])
    return ""
