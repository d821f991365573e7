"""Joins a Ray cluster, and checks before training that every node can take part."""

import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recmind_dist.causes import cause_of, telling_line
from recmind_dist.errors import ConfigError, TrainingError
from recmind_dist.graph.edge_rows import rows_directory
from recmind_dist.launch.network import fault_of_network, fewest_nodes
from recmind_dist.launch.node_check import FOLDER, NodeRequirements, check_node, versions
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.storage.remote import Remote
from recmind_dist.text.store import META
from recmind_dist.training.run_stores import RunStores

log = logging.getLogger(__name__)

_ANSWER_S = 120.0  # a node that takes longer to import this package is not fit to train
_CONNECT_S = 5.0
MAX_SOCKET_BYTES = 107  # of a path of a Unix socket
SOCKET_BYTES = 75
"""Of what Ray puts behind the folder: /ray/session_<date>_<time>_<process>/sockets/plasma_store."""
SHORT_FOLDER = "/tmp"  # noqa: S108 - a folder of the user's own is made in it
START_ATTEMPTS = 10
"""Waits for the workers' start, of scaling.start_timeout_s each, before a run gives up."""


def start_ray(config: RunConfig) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine for this process.

    Raises:
        ConfigError: no cluster is at the address.
        TrainingError: Ray does not start in time.
    """
    if ray.is_initialized():
        return
    # a report waits for the next health check, by default 2 s
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address, options)
        return
    # workers on one machine share its cores: there may be more of them than cores
    num_cpus = max(os.cpu_count() or 1, config.scaling.max_workers, config.evaluation.num_workers)
    if (folder := short_folder()) is not None:
        options["_temp_dir"] = folder
    notice = logging.getLogger("ray._private.authentication.authentication_token_setup")
    notice.setLevel(logging.ERROR)  # that a Ray of this process alone asks for its token
    try:
        ray.init(address="local", include_dashboard=False, num_cpus=num_cpus, **options)
    except Exception as error:  # Ray has no class of its own for it
        if "timed out during startup" not in str(error):
            raise
        raise TrainingError(
            "Ray did not start on this machine within its 30 s: it is busy or short of memory: run "
            "again when it is not"
        ) from error


def short_folder() -> str | None:
    """A folder for Ray's sockets where the path of its own would be too long; None: it is not.

    Raises:
        ConfigError: it is, and /tmp cannot be written; or RAY_TMPDIR cannot.
    """
    if given := os.environ.get("RAY_TMPDIR"):
        try:
            os.makedirs(given, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"RAY_TMPDIR={given}: cannot be made ({error.strerror}): set another folder, or "
                "unset it"
            ) from error
    names = [name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(usual)) + SOCKET_BYTES <= MAX_SOCKET_BYTES:
        return None
    folder = Path(SHORT_FOLDER, f"ray-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
    except OSError:
        owned = False
    if not owned:
        raise ConfigError(
            f"{names[0] if names else 'TMPDIR'}={usual}: too long for Ray's sockets, and {folder} "
            "cannot be used: set RAY_TMPDIR to a path of at most "
            f"{MAX_SOCKET_BYTES - SOCKET_BYTES} bytes"
        )
    log.info("%s is too long for Ray's sockets: %s instead", usual, folder)
    return str(folder)


def _join(address: str, options: dict[str, Any]) -> None:
    remedy = "start the cluster, correct the address, or unset it for a Ray of this run's own"
    if address.startswith("http"):
        raise ConfigError(
            f"RAY_ADDRESS {address}: the address of the job API: give HEAD:6379, or use "
            "`ray job submit`"
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:  # Ray itself would try for two minutes and then end the process
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"RAY_ADDRESS {address}: no Ray cluster answers ({error}): {remedy}"
            ) from error
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        first = telling_line(str(error)).rstrip(".")
        raise ConfigError(
            f"RAY_ADDRESS {address}: no Ray cluster answers ({first}): {remedy}"
        ) from error


@contextmanager
def publish_requirements(
    config: RunConfig, inputs: RunStores | None, num_ranks: int = 0, kind: str = "CPU"
) -> Iterator[NodeRequirements]:
    """What every node must have, with test files that exist as long as the context.

    The files are in the run directory and on shared storage.

    Args:
        num_ranks: ranks that will meet, at most
        kind: "CPU" or "GPU": what a worker takes one of
    """
    config = config.absolute()
    run = RunDirectory(config.run_dir)
    remote = Remote(config.storage_uri) if config.storage_uri else None
    token = run.logs / f"node-check-{uuid.uuid4().hex[:8]}"
    word = uuid.uuid4().hex
    run.create()
    files = _files_of(config, inputs) if inputs else []
    model = Path(config.text.model) / "config.json"
    if config.model.reads_text and model.is_file():
        files.append(model)
    try:
        token.write_text(word)
        if remote is not None:
            _write_word(remote, f"{FOLDER}/{token.name}", word)
        yield NodeRequirements(
            versions(),
            str(token),
            word,
            paths=[str(path) for path in files],
            storage_uri=config.storage_uri,
            num_ranks=num_ranks,
            many_nodes=fewest_nodes(_workers_by_machine(kind), num_ranks) > 1,
            shared_memory=config.scaling.shared_memory,
        )
    finally:
        token.unlink(missing_ok=True)
        if remote is not None:
            _remove_words(remote)


def _files_of(config: RunConfig, inputs: RunStores) -> list[Path]:
    """One file of each store that workers read."""
    stores = [path / META for path in (inputs.text, inputs.item_vectors) if path is not None]
    files = [path for path in (inputs.whitening, inputs.texts) if path is not None]
    if config.graph.placement == "partitioned":
        files.append(rows_directory(inputs.graph) / MANIFEST)
    return [inputs.graph / MANIFEST, *stores, *files]


def _write_word(remote: Remote, name: str, word: str) -> None:
    try:
        remote.write(name, word.encode())
    except OSError as error:
        raise ConfigError(
            f"storage_uri {remote.uri}: cannot be written ({error}): check credentials and quota"
        ) from error


def _remove_words(remote: Remote) -> None:
    try:
        remote.delete_folder(FOLDER)
    except OSError as error:
        log.warning("%s/%s: not removed: %s", remote.uri, FOLDER, error)


def check_nodes(requirements: NodeRequirements) -> None:
    """Checks every node that could get a worker.

    Raises:
        ConfigError: a node cannot take part; names the node, the fault and the remedy.
    """
    nodes = [
        node for node in ray.nodes() if node["Alive"] and {"CPU", "GPU"} & set(node["Resources"])
    ]
    if len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        # this process runs there, with the same files and packages
        if fault := fault_of_network(False, requirements.num_ranks, requirements.shared_memory):
            raise ConfigError(f"this machine {fault}")
        return
    check = ray.remote(num_cpus=0, max_retries=0)(check_node)
    answers = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers.append(check.options(scheduling_strategy=there).remote(requirements))
    for node, answer in zip(nodes, answers, strict=True):
        if fault := _fault_of_node(answer):
            name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            raise ConfigError(f"node {name} {fault}")


def wait_for_room(config: RunConfig, num_workers: int, kind: str) -> None:
    """Waits until the cluster has room for `num_workers`; asks a cluster that can grow to do so.

    Args:
        kind: "CPU" or "GPU": what a worker takes one of
    Raises:
        TrainingError: there is no room after START_ATTEMPTS × scaling.start_timeout_s.
    """
    patience_s = START_ATTEMPTS * config.scaling.start_timeout_s
    deadline = time.monotonic() + patience_s
    warned = False
    while (room := sum(_workers_by_machine(kind))) < num_workers:
        nodes_have = f"the cluster's nodes have {room} {kind}s"
        if time.monotonic() > deadline:
            raise TrainingError(
                f"no room for {num_workers} workers after {patience_s:g} s ({START_ATTEMPTS} × "
                f"scaling.start_timeout_s): {nodes_have}: add nodes, or lower scaling.num_workers"
            )
        if not warned:
            log.warning("waiting for room for %d workers: %s", num_workers, nodes_have)
            warned = True
        request_resources(bundles=[{kind: 1}] * num_workers)
        time.sleep(0.5)


def _workers_by_machine(kind: str) -> list[int]:
    """Workers that each machine has room for. Ray nodes with one address are one machine."""
    room: dict[str, int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            address = node["NodeManagerAddress"]
            room[address] = room.get(address, 0) + int(node["Resources"].get(kind, 0))
    return list(room.values())


def _fault_of_node(answer: "ray.ObjectRef[Any]") -> str | None:
    try:
        fault: str | None = ray.get(answer, timeout=_ANSWER_S)
        return fault
    except ray.exceptions.GetTimeoutError:
        return f"gave no answer within {_ANSWER_S:g} s: see its log, or remove it from the cluster"
    except ray.exceptions.TaskUnschedulableError as error:
        # a node that died a moment ago counts as alive for a while
        log.warning("a node left while it was checked: %s", telling_line(str(error)))
        return None
    except ray.exceptions.RayError as error:
        lines = (line.strip() for line in str(error).splitlines())
        cause = next((line for line in lines if "No module named" in line), cause_of(error))
        return f"cannot run this package ({cause[-200:]}): install the same versions on every node"
