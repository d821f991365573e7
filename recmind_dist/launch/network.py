"""What ranks need of a node: an address that other nodes reach, and open files for every rank."""

import ipaddress
import os
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "GLOO_SOCKET_IFNAME"
GROUPS = 4
"""Process groups of all ranks: torch's, two for ids, DeepSpeed's. Each has a socket per rank; rows
and columns of a grid of ranks have few."""
MAILBOX_FILES = 6
"""Of each rank on this machine, through shared memory: two boxes of each of three transports."""
OTHER_FILES = 128
"""Other open files of a worker, rounded up: pipes, logs, Ray's connections."""
_LOOPBACK_FLAG = 0x8  # IFF_LOOPBACK of <net/if.h>
_REMEDY = f"set {INTERFACE} to the interface that the other nodes reach, before `ray start`"


@dataclass(frozen=True)
class Network:
    """Where gloo would listen on this node."""

    chosen: Sequence[str]
    """Interfaces that GLOO_SOCKET_IFNAME names."""
    is_loopback: dict[str, bool]
    """By interface of this machine."""
    hostname: str
    address: str
    """The first address of the hostname that this machine has; "" if none."""


def fault_of_network(many_nodes: bool, num_ranks: int, shared_memory: bool = True) -> str | None:
    """What keeps ranks on this node from meeting the others, without a subject; None if nothing.

    Args:
        many_nodes: ranks run on more than one machine
        shared_memory: `scaling.shared_memory`, which only ranks of one machine use
    """
    fault = loopback_fault(network_here()) if many_nodes else None
    shares = shared_memory and not many_nodes
    return fault or open_files_fault(open_files_allowed(), num_ranks, shares)


def loopback_fault(network: Network) -> str | None:
    """The fault and remedy if gloo would listen where no other node reaches it."""
    for name in network.chosen:
        if name not in network.is_loopback:
            names = ", ".join(sorted(network.is_loopback))
            return f"has no network interface {name} ({INTERFACE}): it has {names}"
        if network.is_loopback[name]:
            return f"is not reached by other nodes at interface {name} ({INTERFACE}): {_REMEDY}"
    if network.chosen:
        return None
    if not network.address:
        return (
            f"is not reached by other nodes: its hostname {network.hostname} is no address of its "
            f"own, and gloo then listens on loopback: {_REMEDY}"
        )
    if ipaddress.ip_address(network.address.partition("%")[0]).is_loopback:
        return (
            f"is not reached by other nodes: its hostname {network.hostname} stands for "
            f"{network.address}, where gloo listens: correct /etc/hosts, or {_REMEDY}"
        )
    return None


def open_files_fault(allowed: int, num_ranks: int, shared_memory: bool) -> str | None:
    """The fault and remedy if a process may open too few files for `num_ranks`.

    Args:
        shared_memory: they exchange through it
    """
    of_each = GROUPS + MAILBOX_FILES if shared_memory else GROUPS
    needed = of_each * num_ranks + OTHER_FILES if num_ranks > 1 else 0
    if needed <= allowed:
        return None
    return (
        f"lets a process open {allowed} files, and {num_ranks} ranks need about {needed}: run "
        f"`ulimit -n {max(65536, needed)}` before `ray start` (or `recmind`), or lower "
        "scaling.num_workers"
    )


def fewest_nodes(rooms: Sequence[int], workers: int) -> int:
    """The fewest nodes that hold `workers`, or all that there is room for.

    Args:
        rooms: workers that each node has room for
    """
    nodes, left = 0, min(workers, sum(rooms))
    for room in sorted(rooms, reverse=True):
        if left <= 0:
            break
        nodes, left = nodes + 1, left - room
    return nodes


def network_here() -> Network:
    """The network of this node, found as torch and gloo find it."""
    chosen = [name for name in os.environ.get(INTERFACE, "").split(",") if name]
    is_loopback = {name: _is_loopback(name) for _, name in socket.if_nameindex()}
    return Network(chosen, is_loopback, socket.gethostname(), _first_own_address())


def open_files_allowed() -> int:
    """Files that this process may open."""
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
            with socket.socket(family, kind, protocol) as listener:
                listener.bind(address)
        except OSError:
            continue
        return str(address[0])
    return ""
