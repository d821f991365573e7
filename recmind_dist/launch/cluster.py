"""Joining a Ray cluster, and asking every node of it, before anything is trained, whether it can
take part.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recmind_dist.causes import cause_of
from recmind_dist.errors import ConfigError, TrainingError
from recmind_dist.graph.edge_rows import rows_directory
from recmind_dist.launch.network import fault_of_network, fewest_nodes
from recmind_dist.launch.node_check import FOLDER, NodeRequirements, check_node, versions
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.remote import Remote
from recmind_dist.training.inputs import Inputs

log = logging.getLogger(__name__)

_ANSWER_S = (
    120.0  # a node that has not imported this package in that time is not fit to train either
)
_CONNECT_S = 5.0
START_ATTEMPTS = 10
"""Waits for the workers' places, of scaling.start_timeout_s each, before a run gives up."""


def start_ray(config: RunConfig) -> None:
    """Joins the cluster that is named or found (RAY_ADDRESS), or starts one on this machine for
    this process alone.

    Raises:
        ConfigError: no cluster is at the address.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault(
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
    )  # a report waits for the next one: by default 2 s
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    address = config.scaling.address or os.environ.get("RAY_ADDRESS")
    if address:
        _join(address, "scaling.address" if config.scaling.address else "RAY_ADDRESS", options)
        return
    # on one machine workers are processes that share its cores, so more of them than cores is
    # allowed
    num_cpus = max(os.cpu_count() or 1, config.scaling.max_workers, config.evaluation.num_workers)
    ray.init(address="local", include_dashboard=False, num_cpus=num_cpus, **options)


def _join(address: str, setting: str, options: dict[str, Any]) -> None:
    remedy = "start the cluster, correct the address, or leave it out for a Ray of this run's own"
    if address.startswith("http"):
        raise ConfigError(
            f"{setting} {address}: the address of the job API: give HEAD:6379, or use `ray job "
            "submit`"
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:  # Ray itself would try for two minutes and then end the process
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{setting} {address}: no Ray cluster answers ({error}): {remedy}"
            ) from error
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ConfigError(
            f"{setting} {address}: no Ray cluster answers ({first}): {remedy}"
        ) from error


@contextmanager
def publish_requirements(
    config: RunConfig, inputs: Inputs | None, num_ranks: int = 0, kind: str = "CPU"
) -> Iterator[NodeRequirements]:
    """What nodes are asked, with its files in the run directory and on shared storage, which last
    as long as the call does.

    Args:
        num_ranks: ranks that will meet, at most; kind: "CPU" or "GPU": what a worker takes one of.
    """
    run, uri = RunDirectory(config.run_dir.absolute()), config.absolute().storage_uri
    remote = Remote(uri) if uri else None
    token, word = run.logs / f"place-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    run.create()
    files = [inputs.graph / "manifest.json", inputs.whitening, inputs.texts] if inputs else []
    if inputs and config.graph.placement == "partitioned":
        files.append(rows_directory(inputs.graph) / "manifest.json")
    model = Path(config.absolute().text.model) / "config.json"
    if config.model.reads_text and model.is_file():
        files.append(model)
    try:
        token.write_text(word)
        if remote is not None:
            _write_there(remote, f"{FOLDER}/{token.name}", word)
        paths = [str(path) for path in files if path is not None]
        many = fewest_nodes(_room_of_machines(kind), num_ranks) > 1
        yield NodeRequirements(versions(), str(token), word, paths, uri, num_ranks, many)
    finally:
        token.unlink(missing_ok=True)
        if remote is not None:
            _tidy(remote)


def _write_there(remote: Remote, name: str, word: str) -> None:
    try:
        remote.write(name, word.encode())
    except OSError as error:
        raise ConfigError(
            f"storage_uri {remote.uri}: cannot be written ({error}): check credentials and quota"
        ) from error


def _tidy(remote: Remote) -> None:
    try:
        remote.delete_folder(FOLDER)
    except OSError as error:
        log.warning("%s/%s: not removed: %s", remote.uri, FOLDER, error)


def check_nodes(place: NodeRequirements) -> None:
    """Asks every node that could get a worker.

    Raises:
        ConfigError: one of them cannot take part; names it, and what it lacks.
    """
    nodes = [
        node for node in ray.nodes() if node["Alive"] and {"CPU", "GPU"} & set(node["Resources"])
    ]
    if len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        if fault := fault_of_network(
            False, place.num_ranks
        ):  # this process's own: the same files and packages
            raise ConfigError(f"this machine {fault}")
        return
    asking = ray.remote(num_cpus=0, max_retries=0)(check_node)
    asked = {
        node["NodeID"]: asking.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(place)
        for node in nodes
    }
    for node in nodes:
        if fault := _answer(asked[node["NodeID"]]):
            name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            raise ConfigError(f"node {name} {fault}")


def wait_for_room(config: RunConfig, num_workers: int, kind: str) -> None:
    """Until the cluster has room for so many workers; a cluster that can grow is asked to.

    Args:
        kind: "CPU" or "GPU": what a worker takes one of.
    Raises:
        TrainingError: it has not after START_ATTEMPTS × scaling.start_timeout_s.
    """
    patience_s = START_ATTEMPTS * config.scaling.start_timeout_s
    deadline, said = time.monotonic() + patience_s, False
    while (room := _room(kind)) < num_workers:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"no room for {num_workers} workers after {patience_s:g} s ({START_ATTEMPTS} × "
                f"scaling.start_timeout_s): the cluster's nodes have {room} {kind}s: add nodes, "
                "or lower "
                "scaling.num_workers"
            )
        if not said:
            log.warning(
                "waiting for room for %d workers: the cluster's nodes have %d %ss",
                num_workers,
                room,
                kind,
            )
            said = True
        request_resources(bundles=[{kind: 1}] * num_workers)
        time.sleep(0.5)


def _room(kind: str) -> int:
    return sum(_room_of_machines(kind))


def _room_of_machines(kind: str) -> list[int]:
    """For how many workers, by machine: nodes of one address are processes of one machine."""
    room: dict[str, int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            address = node["NodeManagerAddress"]
            room[address] = room.get(address, 0) + int(node["Resources"].get(kind, 0))
    return list(room.values())


def _answer(asked: "ray.ObjectRef[Any]") -> str | None:
    try:
        answer: str | None = ray.get(asked, timeout=_ANSWER_S)
        return answer
    except ray.exceptions.GetTimeoutError:
        return (
            f"gave no answer within {_ANSWER_S:g} s: look at its log, or take it out of the cluster"
        )
    except (
        ray.exceptions.TaskUnschedulableError
    ) as error:  # a node that died a moment ago counts as alive for a while
        log.warning(
            "a node has left while it was asked: %s", (str(error).splitlines() or [""])[0][:200]
        )
        return None
    except ray.exceptions.RayError as error:
        missing = next(
            (line.strip() for line in str(error).splitlines() if "No module named" in line), None
        )
        said = missing or cause_of(error)
        return f"cannot run this package ({said[-200:]}): install the same versions on every node"
