"""Extraction: a pool of Ray actors turns texts into vectors, one shard a task, each shard written
by one actor only.

Each set of texts has a store of its own, named after the encoder and the texts, so that no run
changes what another
reads. The driver plans from the ledger: a shard whose content key stands there and whose bytes are
sound is not made again; one that another store of the same encoder has is copied from there; and
where nothing is left to do no actor starts and no model is loaded.

Only workers that are alive get shards, and more are started when nodes join. A worker that dies
(killed, or out of memory) is replaced and its shard tried again with half the batch, at most
`MAX_RETRIES` times; the batch of one that went with its node stays as it was. Retries are the
driver's and not Ray's, because Ray would repeat the very batch that did not fit.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recmind_dist import faults
from recmind_dist.causes import cause_of
from recmind_dist.errors import RecmindError, StoreError, TextError
from recmind_dist.storage import content_key, directory_lock
from recmind_dist.text.adapter import adapter_hash
from recmind_dist.text.prompts import Texts
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import (
    encoder_content,
    encoder_key,
    hidden_size,
    resolve_dtype,
    resolve_model,
)
from recmind_dist.text.store import META, SIDES, TextStore

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (texts embedded so far, texts to embed) after every shard."""
START_S = 600.0  # without any worker at all an extraction gives up; a cluster that grows is faster
LOOK_S = 2.0  # between looks at the cluster while no shard ends
NODE_VERDICT_S = 30.0  # until the cluster knows whether a node that fell silent is gone
MAX_NODES_LOST = 20
MAX_RETRIES = 3  # of a shard whose worker died, each with half the batch


@dataclass(frozen=True)
class EmbedReport:
    """What an extraction did: `embedded` of `total` texts, at `path`."""

    path: Path
    embedded: int
    total: int
    skipped_shards: int
    seconds: float


@dataclass(frozen=True)
class ShardJob:
    """One task: the rows of one shard. `attempt` counts the workers that died on it, `nodes_lost`
    those whose node left.
    """

    side: str
    shard: int
    texts: list[str | None] = field(repr=False)
    content_key: str
    max_tokens: int
    attempt: int = 0
    nodes_lost: int = 0

    @property
    def num_texts(self) -> int:
        """Rows that have a text."""
        return sum(text is not None for text in self.texts)


def store_path(
    texts: Texts, settings: TextSettings, cache_dir: Path, adapter: Path | None = None
) -> Path:
    """Where `embed_texts` keeps the vectors: `<cache_dir>/text/<encoder key>-<texts' key>`, 12
    digits of each.
    """
    return cache_dir / "text" / f"{encoder_key(settings, adapter)[:12]}-{texts.key[:12]}"


def embed_texts(
    texts: Texts,
    settings: TextSettings,
    cache_dir: Path,
    adapter: Path | None = None,
    on_progress: Progress | None = None,
    on_start: Callable[[int], None] | None = None,
) -> EmbedReport:
    """Brings the store of this encoder and these texts up to date. Needs Ray if there is work to
    do.

    Args:
        adapter: a directory of `save_adapter`, merged into the model first and part of the key.
        on_start: called with the number of texts before any is embedded, if any is; it may start
        Ray.

    Raises:
        TextError: no such model; vectors that are not finite or of a wrong width; a shard that
        killed every worker.
        StoreError: the disk is full, or the store cannot be read.
        LockedError: there is work to do, and another process extracts into the same store.
    """
    started = time.monotonic()
    path = store_path(texts, settings, cache_dir, adapter)
    complete = _shards_if_complete(texts, settings, path, adapter)
    if complete is not None:  # runs that have nothing to do read the same store at the same time
        return EmbedReport(path, 0, texts.count, complete, time.monotonic() - started)
    with directory_lock(path):  # before the plan: nothing may change between it and the work
        make_store(texts, settings, path, adapter)
        jobs, num_shards = plan_shards(texts, settings, path, adapter)
        embedded = sum(job.num_texts for job in jobs)
        if jobs and on_start:
            on_start(embedded)
        if jobs:
            _run(jobs, settings, path, adapter, on_progress)
    return EmbedReport(
        path, embedded, texts.count, num_shards - len(jobs), time.monotonic() - started
    )


def make_store(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None = None
) -> TextStore:
    """Makes the store if need be, and copies what other stores of the encoder have. Only for the
    holder of its lock.
    """
    encoder = encoder_content(settings, adapter_hash(adapter) if adapter else None)
    num_rows = {"items": len(texts.items), "users": len(texts.users)}
    if (path / META).is_file():
        dim = TextStore.open(
            path
        ).dim  # spares the import of transformers when there is nothing to do
    else:
        dim = hidden_size(resolve_model(settings))
    store = TextStore.create(path, encoder, dim, num_rows)
    store.clean()
    absent, _ = plan_shards(texts, settings, path, adapter)
    elsewhere = _shards_elsewhere(path, dim) if absent else {}
    for job in absent:
        if (job.side, job.content_key) in elsewhere:
            _copy(job, *elsewhere[job.side, job.content_key], store)
    return store


def plan_shards(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None = None
) -> tuple[list[ShardJob], int]:
    """The shards that are absent or damaged in a store, and how many it has in all. Changes
    nothing.
    """
    store = TextStore.open(path)
    key = content_key(encoder_content(settings, adapter_hash(adapter) if adapter else None))
    shards = list(_shards(texts, settings, store, key))
    return [job for job in shards if not _is_done(store, job)], len(shards)


def _shards_elsewhere(path: Path, dim: int) -> dict[tuple[str, str], tuple[TextStore, int]]:
    """Shards of the other stores of an encoder, by side and content key. These stores are only
    read.
    """
    found: dict[tuple[str, str], tuple[TextStore, int]] = {}
    for other in sorted(path.parent.glob(f"{path.name.partition('-')[0]}*")):
        with suppress(StoreError):  # damaged, or about to be made
            store = TextStore.open(other)
            if other != path and store.dim == dim:
                found |= {(side, key): (store, shard) for side, shard, key in _keys(store)}
    return found


def _keys(store: TextStore) -> Iterator[tuple[str, int, str]]:
    """(side, shard, content key) of all entries of a ledger that can be read."""
    for side in SIDES:
        for shard in range(store.num_shards(side)):
            with suppress(StoreError):
                key = (store.entry(side, shard) or {}).get("content_key")
                if isinstance(key, str):
                    yield side, shard, key


def _copy(job: ShardJob, source: TextStore, shard: int, store: TextStore) -> None:
    """Writes a shard as another store has it, if its bytes are sound there."""
    with suppress(StoreError):
        vectors = source.read_shard(job.side, shard)
        if len(vectors) == len(job.texts):
            store.write_shard(job.side, job.shard, vectors, job.content_key)


def _shards_if_complete(
    texts: Texts, settings: TextSettings, path: Path, adapter: Path | None
) -> int | None:
    """The number of shards of a store that holds just these texts; None at the first that is not
    done. Changes nothing.
    """
    try:
        store = TextStore.open(path)
    except StoreError:
        return None
    if (store.num_rows("items"), store.num_rows("users")) != (len(texts.items), len(texts.users)):
        return None
    key = content_key(encoder_content(settings, adapter_hash(adapter) if adapter else None))
    if not all(_is_done(store, job) for job in _shards(texts, settings, store, key)):
        return None
    return sum(store.num_shards(side) for side in SIDES)


def _shards(texts: Texts, settings: TextSettings, store: TextStore, key: str) -> Iterator[ShardJob]:
    """What each shard of the store is to hold."""
    max_tokens = {"items": settings.max_tokens, "users": settings.user_max_tokens}
    rows = {"items": texts.items, "users": texts.users}
    for side in SIDES:
        for shard in range(store.num_shards(side)):
            start, stop = store.shard_range(side, shard)
            shard_texts = rows[side][start:stop]
            yield ShardJob(
                side, shard, shard_texts, content_key([key, shard_texts]), max_tokens[side]
            )


def _is_done(store: TextStore, job: ShardJob) -> bool:
    """A shard that is damaged is as good as absent here: this is the one place that mends it."""
    try:
        entry = store.entry(job.side, job.shard)
        if entry is None or entry.get("content_key") != job.content_key:
            return False
        store.read_shard(job.side, job.shard)
    except StoreError:
        return False
    return True


class EmbedActor:
    """One worker: a model loaded on first use, and the only writer of every shard that it is given."""

    def __init__(
        self, settings: TextSettings, path: Path, adapter: Path | None, threads: int, device: str
    ) -> None:
        self.settings = settings
        self.path = path
        self.adapter = adapter
        self.threads = threads
        self.device = device
        self.encoder: Any = None
        self.batch_tokens = 0

    def node(self) -> str:
        """Id of the node that it runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def embed(self, job: ShardJob) -> None:
        """Encodes and writes one shard."""
        if self.encoder is None:
            # here and not at start, so that a model that cannot be loaded is an error of a task,
            # which reaches the user
            import torch

            from recmind_dist.text.encoder import TextEncoder

            torch.set_num_threads(self.threads)
            self.encoder = TextEncoder.load(self.settings, self.device, self.adapter)
            self.batch_tokens = self.encoder.batch_tokens
        # what once did not fit is not tried again: the encoder has halved it for good
        self.encoder.batch_tokens = min(
            self.encoder.batch_tokens, max(1, self.batch_tokens >> job.attempt)
        )
        embed_shard(self.encoder, TextStore.open(self.path), job)


def embed_shard(encoder: Any, store: TextStore, job: ShardJob) -> None:
    """Encodes each distinct text of a shard once and writes the shard. Raises TextError for vectors
    not to be used.
    """
    distinct = {
        text: i
        for i, text in enumerate(dict.fromkeys(text for text in job.texts if text is not None))
    }
    vectors = encoder.encode(list(distinct), job.max_tokens)
    if vectors.shape != (len(distinct), store.dim):
        raise TextError(
            f"text.model: gives vectors of shape {vectors.shape}, the store holds width {store.dim}"
        )
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    rows = np.full((len(job.texts), store.dim), np.nan, dtype=np.float16)
    for row, text in enumerate(job.texts):
        if text is None:
            continue
        rows[row] = half[distinct[text]]
        if not np.isfinite(rows[row]).all():
            where = store.shard_range(job.side, job.shard)[0] + row
            raise TextError(
                f"text.model: the vector of row {where} of {job.side} is not finite (text "
                f"{text[:40]!r}): "
                "the shard is rejected: check the model's weights and text.dtype"
            )
    faults.check("embedded", 0, job.shard)
    store.write_shard(job.side, job.shard, rows, job.content_key)


def _run(
    jobs: list[ShardJob],
    settings: TextSettings,
    path: Path,
    adapter: Path | None,
    on_progress: Progress | None,
) -> None:
    # workers may run in another directory than ours, so all paths become absolute
    model = str(resolve_model(settings))
    sent = settings.model_copy(update={"model": model, "dtype": resolve_dtype(settings)})
    pool = _Pool(sent, path.resolve(), adapter.resolve() if adapter else None, len(jobs))
    total = sum(job.num_texts for job in jobs)
    done = 0
    try:
        for job in pool.run(deque(jobs)):
            done += job.num_texts
            if on_progress:
                on_progress(done, total)
    finally:
        pool.close()


def num_places(nodes: Iterable[dict[str, float]], on_gpus: bool) -> int:
    """How many workers find room at once: each takes a CPU and, on GPUs, a GPU of the same node.

    Args:
        nodes: the resources of each.
    """
    return sum(
        int(min(node.get("CPU", 0), node.get("GPU", 0) if on_gpus else node.get("CPU", 0)))
        for node in nodes
    )


def num_actors(wanted: int, places: int, num_jobs: int) -> int:
    """As many as the cluster has places for; says so where more were asked for. At least one, which
    waits for a node.
    """
    if wanted > max(places, 1) and num_jobs > max(places, 1):
        log.warning(
            "text.num_actors: %d lowered to %d: the cluster has no room for more",
            wanted,
            max(places, 1),
        )
    return max(1, min(wanted or places, places, num_jobs))


@dataclass(frozen=True)
class _Worker:
    """An actor that is alive, and the id of its node."""

    actor: Any
    node: str


class _Pool:
    """The actors: which of them are starting, which are idle, and what the others work on."""

    def __init__(
        self, settings: TextSettings, path: Path, adapter: Path | None, num_jobs: int
    ) -> None:
        import ray
        import torch

        if not ray.is_initialized():
            raise RuntimeError("embed_texts has shards to make: call ray.init first")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_gpus = num_places(nodes, on_gpus=True) > 0 and torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
        kind = "GPU" if on_gpus else "CPU"
        self._actor = ray.remote(EmbedActor).options(
            num_cpus=1, num_gpus=1 if on_gpus else 0, max_restarts=0
        )
        self._arguments = (settings, path, adapter, 1, "cuda" if on_gpus else "cpu")
        self._settings, self._on_gpus, self._kind = settings, on_gpus, kind
        self._most_places = num_places(nodes, on_gpus)
        self._alive_at, self._failed_starts = time.monotonic(), 0
        self._starting: dict[Any, Any] = {}
        self._idle: list[_Worker] = []
        self._running: dict[Any, tuple[_Worker, ShardJob]] = {}
        for _ in range(num_actors(settings.num_actors, self._most_places, num_jobs)):
            self._start()

    def run(self, queue: deque[ShardJob]) -> Iterator[ShardJob]:
        """Yields each job when its shard is in the ledger."""
        import ray

        while queue or self._running:
            self._hand_out(queue)
            self._grow(len(queue))
            ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=LOOK_S)
            if not ready:
                self._refuse_to_wait_for_ever(queue)
            elif ready[0] in self._starting:
                self._take_in(ready[0])
            else:
                worker, job = self._running.pop(ready[0])
                if self._is_made(ready[0], worker, job, queue):
                    yield job

    def close(self) -> None:
        """Ends all actors, whatever they do: a shard without a ledger entry does not count."""
        import ray

        workers = [*self._idle, *(worker for worker, _ in self._running.values())]
        for actor in [*self._starting.values(), *(worker.actor for worker in workers)]:
            ray.kill(actor)

    def _hand_out(self, queue: deque[ShardJob]) -> None:
        import ray

        while queue and self._idle:
            worker, job = self._idle.pop(), queue.popleft()
            self._running[worker.actor.embed.remote(ray.put(job))] = (worker, job)
        if self._running:
            self._alive_at = time.monotonic()

    def _is_made(self, ref: Any, worker: _Worker, job: ShardJob, queue: deque[ShardJob]) -> bool:
        """Whether a job that has ended has made its shard. If its worker died it goes back to the
        queue.
        """
        import ray

        try:
            ray.get(ref)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            queue.append(self._again(worker, job, error))
            ray.kill(worker.actor)
            self._start()
            return False
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RecmindError):
                raise error.cause from None
            raise TextError(
                f"shard {job.shard} of {job.side} failed: {cause_of(error)}: mend that, then run "
                "the same command again"
            ) from error
        self._idle.append(worker)
        return True

    def _start(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.node.remote()] = actor

    def _take_in(self, ref: Any) -> None:
        """Takes in a worker that has started. Raises TextError if as many as may die on a shard
        died in starting.
        """
        import ray

        actor = self._starting.pop(ref)
        try:
            self._idle.append(_Worker(actor, ray.get(ref)))
            self._failed_starts = 0
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts > MAX_RETRIES:
                first = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise TextError(
                    f"{self._failed_starts} extraction workers died while they started ({first}): "
                    "look at their logs"
                ) from error
            ray.kill(actor)
            self._start()

    def _grow(self, num_waiting: int) -> None:
        """Starts a worker for each GPU, or CPU, that the cluster has got since; text.num_actors is
        the most.
        """
        import ray

        places = num_places(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], self._on_gpus
        )
        new, self._most_places = places - self._most_places, max(places, self._most_places)
        if self._settings.num_actors:
            count = len(self._starting) + len(self._idle) + len(self._running)
            new = min(new, self._settings.num_actors - count)
        for _ in range(min(new, num_waiting - len(self._starting))):
            self._start()

    def _refuse_to_wait_for_ever(self, queue: deque[ShardJob]) -> None:
        """Raises TextError if there has been no worker at all for `START_S`."""
        if not self._running and time.monotonic() - self._alive_at > START_S:
            raise TextError(
                f"shard {queue[0].shard} of {queue[0].side}: no worker has started within "
                f"{START_S:g} s: the cluster "
                f"has no free {self._kind}: free one or add nodes, then run the same command again"
            )

    def _again(self, worker: _Worker, job: ShardJob, error: Exception) -> ShardJob:
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
                "text.batch_tokens or text.num_actors"
            ) from error
        return replace(job, attempt=job.attempt + 1)


def _node_has_left(node: str, error: Exception) -> bool:
    """Whether a worker died because its node left, which says nothing about the batch that it had
    in hand.
    """
    import ray

    if getattr(error, "preempted", False):
        return True
    # a worker that only fell silent: its node may be gone, and the cluster not know yet
    silent = isinstance(error, ray.exceptions.ActorUnavailableError)
    deadline = time.monotonic() + (NODE_VERDICT_S if silent else 0.0)
    while any(there["NodeID"] == node and there["Alive"] for there in ray.nodes()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)
    return True
