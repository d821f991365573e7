"""What a node needs to take part in a run: the same packages, the run's files, a network to the
others.

Imports little, so that a check is quick.
"""

import platform
import uuid
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recmind_dist.causes import telling_line
from recmind_dist.errors import RecmindError
from recmind_dist.launch.network import fault_of_network

FOLDER = "node-checks"  # on shared storage
PACKAGES = ("recmind-dist", "torch", "deepspeed", "ray", "numpy")


@dataclass(frozen=True)
class NodeRequirements:
    """What the driver has, and every node must have too."""

    versions: dict[str, str]
    """Of `PACKAGES`."""
    token: str
    """A file in the run directory that holds `word`."""
    word: str
    paths: list[str] = field(default_factory=list)
    """Other files that must be readable."""
    storage_uri: str | None = None
    """Where a file named as the token holds `word` too, and more can be written."""
    num_ranks: int = 0
    """Ranks that will meet; 0 where none do."""
    many_nodes: bool = False
    """Whether they run on more than one machine."""
    shared_memory: bool = True
    """`scaling.shared_memory`."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for workers."""
        return asdict(self)


def versions() -> dict[str, str]:
    """Versions of `PACKAGES` in this process; "none" where one is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def check_node(requirements: NodeRequirements) -> str | None:
    """What keeps this node from taking part, a sentence without a subject; None if nothing."""
    here, driver = versions(), requirements.versions
    differing = [name for name, wanted in driver.items() if here.get(name) != wanted]
    if differing:
        theirs = ", ".join(f"{name} {here.get(name)}" for name in differing)
        ours = ", ".join(f"{name} {driver[name]}" for name in differing)
        return f"has {theirs}, the driver {ours}: install the same versions on every node"
    remedy = "put it on storage that every node mounts"
    run_dir = Path(requirements.token).parent.parent
    try:
        word = Path(requirements.token).read_text()
    except OSError as error:
        return f"does not see run_dir {run_dir} ({error.strerror}): {remedy}"
    if word != requirements.word:
        return f"sees another directory at run_dir {run_dir}: {remedy}"
    for path in requirements.paths:
        try:
            with Path(path).open("rb") as file:
                file.read(1)
        except OSError as error:
            return f"cannot read {path} ({error.strerror}): {remedy}"
    uri = requirements.storage_uri
    if uri and (fault := _storage_fault(requirements, uri)):
        return fault
    return fault_of_network(
        requirements.many_nodes, requirements.num_ranks, requirements.shared_memory
    )


def _storage_fault(requirements: NodeRequirements, uri: str) -> str | None:
    from recmind_dist.storage.remote import Remote

    name = f"{FOLDER}/{Path(requirements.token).name}"
    try:
        remote = Remote(uri)
        if remote.read(name, 100).decode("ascii", "replace") != requirements.word:
            return f"sees another storage at storage_uri {uri}: mount the same one on every node"
        remote.write(f"{name}-{uuid.uuid4().hex[:8]}", b"written")
    except (OSError, RecmindError) as error:
        remedy = "give it the credentials and the network to reach it"
        return f"cannot read and write storage_uri {uri} ({telling_line(str(error))}): {remedy}"
    return None


def name_of_this_node() -> str:
    """The machine's name, for error sentences."""
    return platform.node()
