"""What a node must have to take part in a run: the same packages, sight of the run's files, a way
to the other nodes.

Light: asking is cheap.
"""

import platform
import uuid
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError
from recmind_dist.launch.network import fault_of_network

FOLDER = "places"  # on shared storage
PACKAGES = ("recmind-dist", "torch", "deepspeed", "ray", "numpy")


@dataclass(frozen=True)
class NodeRequirements:
    """What the driver has and asks of every node.

    Attributes:
        versions: of `PACKAGES`; token: a file in the run directory that holds `word`; paths: other
        files that must be there;
        storage_uri: where a file of the token's name holds `word` too, and more can be written;
        num_ranks: how many meet, 0 where none do; many_nodes: they run on more than one machine.
    """

    versions: dict[str, str]
    token: str
    word: str
    paths: list[str] = field(default_factory=list)
    storage_uri: str | None = None
    num_ranks: int = 0
    many_nodes: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data, for workers."""
        return asdict(self)


def versions() -> dict[str, str]:
    """The versions of `PACKAGES` in this process; "none" where one is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def check_node(place: NodeRequirements) -> str | None:
    """What keeps this node from taking part, a sentence without its subject; None if nothing does."""
    here = versions()
    differing = [name for name, wanted in place.versions.items() if here.get(name) != wanted]
    if differing:
        theirs = ", ".join(f"{name} {here.get(name)}" for name in differing)
        ours = ", ".join(f"{name} {place.versions[name]}" for name in differing)
        return f"has {theirs}, the driver {ours}: install the same versions on every node"
    run_dir = Path(place.token).parent.parent
    try:
        seen = Path(place.token).read_text()
    except OSError as error:
        return f"does not see run_dir {run_dir} ({error.strerror}): put it on storage that every node mounts"
    if seen != place.word:
        return (
            f"sees another directory at run_dir {run_dir}: put it on storage that every node mounts"
        )
    for path in place.paths:
        try:
            with Path(path).open("rb") as file:
                file.read(1)
        except OSError as error:
            return (
                f"cannot read {path} ({error.strerror}): put it on storage that every node mounts"
            )
    if place.storage_uri and (fault := _storage_fault(place)):
        return fault
    return fault_of_network(place.many_nodes, place.num_ranks)


def _storage_fault(place: NodeRequirements) -> str | None:
    from recmind_dist.storage.remote import Remote

    name = f"{FOLDER}/{Path(place.token).name}"
    try:
        remote = Remote(str(place.storage_uri))
        if remote.read(name, 100).decode("ascii", "replace") != place.word:
            return f"sees another place at storage_uri {place.storage_uri}: mount the same storage on every node"
        remote.write(f"{name}-{uuid.uuid4().hex[:8]}", b"written")
    except (OSError, RecmindError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        return f"cannot read and write storage_uri {place.storage_uri} ({said}): give it the credentials and the way there"
    return None


def name_of_this_node() -> str:
    """The machine's name, for sentences."""
    return platform.node()
