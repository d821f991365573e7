"""Extraction: a pool of Ray actors turns texts into vectors. One task is one shard.

If no shard is left to make, no actor starts and no model is loaded. Only workers that are alive
get shards, and more workers start when nodes join. A worker that dies (killed, or out of memory)
is replaced, and its shards (two on a GPU) are tried again with half the batch, `MAX_RETRIES` times
at most. If its
node left, the batch stays as it was. The driver retries, not Ray, since Ray would repeat the very
batch that did not fit.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recmind_dist.causes import cause_of
from recmind_dist.errors import RecmindError, TextError
from recmind_dist.storage import directory_lock
from recmind_dist.text.backbone import refuse_long_texts
from recmind_dist.text.embed_actor import EmbedActor, embed_shard
from recmind_dist.text.plan import (
    KEPT,
    ShardJob,
    make_store,
    num_shards_if_complete,
    plan_shards,
    store_path,
)
from recmind_dist.text.prompts import Texts
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import resolve_dtype, resolve_model
from recmind_dist.text.store import TextStore

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (texts embedded so far, texts to embed) after every shard."""
START_S = 600.0  # without any worker at all an extraction gives up; a growing cluster is faster
POLL_S = 2.0  # between looks at the cluster while no shard ends
NODE_VERDICT_S = 30.0  # until the cluster knows whether a node that fell silent is gone
MAX_NODES_LOST = 20
MAX_RETRIES = 3  # of a shard whose worker died, each with half the batch
SHARDS_AT_ONCE = {"cpu": 1, "cuda": 2}
"""Of a worker, by its device: one is written while the next is on the GPU."""


@dataclass(frozen=True)
class EmbedReport:
    """What an extraction did: `embedded` of `total` texts, at `path`."""

    path: Path
    embedded: int
    total: int
    skipped_shards: int


def embed_texts(
    texts: Texts,
    settings: TextSettings,
    cache_dir: Path,
    adapter: Path | None = None,
    on_progress: Progress | None = None,
    on_start: Callable[[int], None] | None = None,
) -> EmbedReport:
    """Brings the store of this encoder and these texts up to date. Needs Ray if work is left, but
    where states of the lower layers are kept (lower_states.py).

    Args:
        adapter: a directory of `save_adapter`, merged into the model first and part of the key.
        on_start: called once with the number of texts to embed, if any; may start Ray.

    Raises:
        TextError: no such model; vectors not finite or of a wrong width; a shard that killed every
            worker.
        StoreError: the disk is full, or the store cannot be read.
        LockedError: work is left, and another process extracts into the same store.
    """
    path = store_path(texts, settings, cache_dir, adapter)
    complete = num_shards_if_complete(texts, settings, path, adapter)
    if complete is not None:  # needs no lock: many runs may read one store at a time
        return EmbedReport(path, 0, texts.count, complete)
    refuse_long_texts(resolve_model(settings), settings)  # before Ray starts
    with directory_lock(path):  # before the plan: nothing may change between it and the work
        make_store(texts, settings, path, adapter)
        jobs, num_shards = plan_shards(texts, settings, path, adapter)
        embedded = sum(job.num_texts for job in jobs)
        if jobs and _run_here(jobs, texts, settings, path, cache_dir, adapter):
            return EmbedReport(path, embedded, texts.count, num_shards - len(jobs))
        if jobs and on_start:
            on_start(embedded)
        if jobs:
            _run(jobs, settings, path, adapter, on_progress)
    return EmbedReport(path, embedded, texts.count, num_shards - len(jobs))


def _run_here(
    jobs: list[ShardJob],
    texts: Texts,
    settings: TextSettings,
    path: Path,
    cache_dir: Path,
    adapter: Path | None,
) -> bool:
    """Makes the shards in this process, without Ray, where a study keeps the states below the
    adapters: what is left to do is little. Returns whether it does.
    """
    if not (cache_dir / KEPT).is_dir():  # spares the import of torch
        return False
    from recmind_dist.text.encoder import TextEncoder
    from recmind_dist.text.lower_states import LowerStates

    states = LowerStates.find(cache_dir, settings, texts, settings.lora if adapter else None)
    if states is None:
        return False
    encoder, store = TextEncoder.load(settings, adapter=adapter), TextStore.open(path)
    encoder.use_lower_states(states)
    for job in jobs:
        embed_shard(encoder, store, job)
    return True


def _run(
    jobs: list[ShardJob],
    settings: TextSettings,
    path: Path,
    adapter: Path | None,
    on_progress: Progress | None,
) -> None:
    # workers may run in another directory, so all paths become absolute
    model = str(resolve_model(settings))
    settings = settings.model_copy(update={"model": model, "dtype": resolve_dtype(settings)})
    pool = _Pool(settings, path.resolve(), adapter.resolve() if adapter else None, len(jobs))
    total = sum(job.num_texts for job in jobs)
    done = 0
    try:
        for job in pool.run(deque(jobs)):
            done += job.num_texts
            if on_progress:
                on_progress(done, total)
    finally:
        pool.close()


def num_slots(nodes: Iterable[dict[str, float]], on_gpus: bool) -> int:
    """Workers that fit at once: each takes a CPU and, on GPUs, a GPU of the same node.

    Args:
        nodes: resources of each node, as Ray names them.
    """
    kinds = ("CPU", "GPU") if on_gpus else ("CPU",)
    return sum(int(min(node.get(kind, 0) for kind in kinds)) for node in nodes)


def num_actors(wanted: int, slots: int, num_jobs: int) -> int:
    """Workers to start: `wanted` (0: one a slot), at most one a slot and a job.

    Warns where fewer than `wanted` fit. At least one, which waits for a node.
    """
    room = max(slots, 1)
    if wanted > room and num_jobs > room:
        log.warning(
            "text.num_actors: %d lowered to %d: the cluster has no room for more", wanted, room
        )
    return max(1, min(wanted or slots, slots, num_jobs))


@dataclass(frozen=True, eq=False)
class _Worker:
    """An actor and the id of its node."""

    actor: Any
    node: str


class _Pool:
    """The actors: starting, idle, or running a job."""

    def __init__(
        self, settings: TextSettings, path: Path, adapter: Path | None, num_jobs: int
    ) -> None:
        import ray
        import torch

        if not ray.is_initialized():
            raise RuntimeError("embed_texts has shards to make: call ray.init first")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._on_gpus = num_slots(nodes, on_gpus=True) > 0 and torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
        device = "cuda" if self._on_gpus else "cpu"
        self._shards_at_once = SHARDS_AT_ONCE[device]
        self._actor = ray.remote(EmbedActor).options(
            num_cpus=1,
            num_gpus=int(self._on_gpus),
            max_restarts=0,
            max_concurrency=self._shards_at_once,
        )
        self._arguments = (settings, path, adapter, 1, device)
        self._max_actors = settings.num_actors
        self._most_slots = num_slots(nodes, self._on_gpus)
        self._alive_at = time.monotonic()
        self._failed_starts = 0
        self._starting: dict[Any, Any] = {}
        self._idle: list[_Worker] = []  # once for each shard that a worker can take
        self._dead: list[_Worker] = []
        self._running: dict[Any, tuple[_Worker, ShardJob]] = {}
        for _ in range(num_actors(self._max_actors, self._most_slots, num_jobs)):
            self._start()

    def run(self, queue: deque[ShardJob]) -> Iterator[ShardJob]:
        """Yields each job when its shard is in the ledger."""
        import ray

        while queue or self._running:
            self._submit(queue)
            self._grow(len(queue))
            ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=POLL_S)
            if not ready:
                self._refuse_to_wait_for_ever(queue)
            elif ready[0] in self._starting:
                self._admit(ready[0])
            else:
                worker, job = self._running.pop(ready[0])
                if self._is_made(ready[0], worker, job, queue):
                    yield job

    def close(self) -> None:
        """Kills all actors, also in mid-work: a shard without a ledger entry does not count."""
        import ray

        workers = [*self._idle, *(worker for worker, _ in self._running.values())]
        for actor in [*self._starting.values(), *(worker.actor for worker in workers)]:
            ray.kill(actor)

    def _submit(self, queue: deque[ShardJob]) -> None:
        import ray

        while queue and self._idle:
            busy = [worker for worker, _ in self._running.values()]
            worker = min(self._idle, key=busy.count)
            self._idle.remove(worker)
            job = queue.popleft()
            self._running[worker.actor.embed.remote(ray.put(job))] = (worker, job)
        if self._running:
            self._alive_at = time.monotonic()

    def _is_made(self, ref: Any, worker: _Worker, job: ShardJob, queue: deque[ShardJob]) -> bool:
        """Whether a job that has ended made its shard. If its worker died, it is queued again."""
        import ray

        try:
            ray.get(ref)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            queue.append(_retry(job, worker, error))
            self._replace(worker)
            return False
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RecmindError):
                raise error.cause from None
            raise TextError(
                f"shard {job.shard} of {job.side} failed: {cause_of(error)}: mend that, then run "
                "the same command again"
            ) from error
        if worker not in self._dead:
            self._idle.append(worker)
        return True

    def _replace(self, worker: _Worker) -> None:
        """Starts a worker in place of a dead one: one, however many shards that had in hand."""
        import ray

        if worker in self._dead:
            return
        self._dead.append(worker)
        self._idle = [other for other in self._idle if other is not worker]
        ray.kill(worker.actor)
        self._start()

    def _start(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.node.remote()] = actor

    def _admit(self, ref: Any) -> None:
        """Makes a started worker idle. Raises TextError if too many died in a row at the start."""
        import ray

        actor = self._starting.pop(ref)
        try:
            worker = _Worker(actor, ray.get(ref))
            self._idle += [worker] * self._shards_at_once
            self._failed_starts = 0
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts > MAX_RETRIES:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise TextError(
                    f"{self._failed_starts} extraction workers died while they started ({reason}): "
                    "look at their logs"
                ) from error
            ray.kill(actor)
            self._start()

    def _grow(self, num_waiting: int) -> None:
        """Starts a worker for each slot that the cluster has gained, up to text.num_actors."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        slots = num_slots(nodes, self._on_gpus)
        num_new = slots - self._most_slots
        self._most_slots = max(slots, self._most_slots)
        if self._max_actors:
            workers = [*self._idle, *(worker for worker, _ in self._running.values())]
            count = len(self._starting) + len({id(worker) for worker in workers})
            num_new = min(num_new, self._max_actors - count)
        for _ in range(min(num_new, num_waiting - len(self._starting))):
            self._start()

    def _refuse_to_wait_for_ever(self, queue: deque[ShardJob]) -> None:
        """Raises TextError if there has been no worker at all for `START_S`."""
        if not self._running and time.monotonic() - self._alive_at > START_S:
            raise TextError(
                f"shard {queue[0].shard} of {queue[0].side}: no worker has started within "
                f"{START_S:g} s: the cluster has no free {'GPU' if self._on_gpus else 'CPU'}: "
                "free one or add nodes, then run the same command again"
            )


def _retry(job: ShardJob, worker: _Worker, error: Exception) -> ShardJob:
    """The next try of a job whose worker died. Raises TextError after too many."""
    if _node_has_left(worker.node, error):
        if job.nodes_lost >= MAX_NODES_LOST:
            raise TextError(
                f"shard {job.shard} of {job.side}: {job.nodes_lost + 1} nodes left while they "
                "worked on it: use nodes that stay"
            ) from error
        return replace(job, nodes_lost=job.nodes_lost + 1)
    if job.attempt >= MAX_RETRIES:
        raise TextError(
            f"shard {job.shard} of {job.side}: {job.attempt + 1} workers died on it: lower "
            "text.max_tokens or text.num_actors"
        ) from error
    return replace(job, attempt=job.attempt + 1)


def _node_has_left(node: str, error: Exception) -> bool:
    """Whether a worker died because its node left, so that its batch is not to blame."""
    import ray

    if getattr(error, "preempted", False):
        return True
    # of a worker that only fell silent: its node may be gone, and the cluster not know yet
    silent = isinstance(error, ray.exceptions.ActorUnavailableError)
    deadline = time.monotonic() + (NODE_VERDICT_S if silent else 0.0)
    while any(known["NodeID"] == node and known["Alive"] for known in ray.nodes()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)
    return True
