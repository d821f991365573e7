"""What is sound and what is damaged of a run: its own files, and the stores of its inputs."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from recmind_dist.checkpoint.manifest import KIND as CHECKPOINT
from recmind_dist.doctor.checkpoints import CheckpointAudit, audit_checkpoints
from recmind_dist.doctor.graphs import audit_graph
from recmind_dist.doctor.text_stores import audit_text_store
from recmind_dist.errors import CheckpointError, RecmindError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.graph.edge_rows import rows_directory, verify_rows
from recmind_dist.ingest.dataset import KIND as DATASET
from recmind_dist.ingest.dataset import SCHEMA as DATASET_SCHEMA
from recmind_dist.pipeline.text_dtype import with_dtype_of_store
from recmind_dist.report import RunDirectory
from recmind_dist.report.metrics_log import parse_line
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import (
    check_seal,
    directory_lock,
    read_json,
    read_manifest,
    verify_manifest,
)
from recmind_dist.storage.lock import NAME as LOCK
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.storage.seals import DOCTOR, read_seals
from recmind_dist.storage.seals import NAME as SEALS
from recmind_dist.text import Texts, Whitening, load_adapter, store_path
from recmind_dist.text.store import ITEM_VECTORS
from recmind_dist.training.finished_run import read_run
from recmind_dist.training.moved_paths import relocated_inputs
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor

REMEDIES = {
    "config": "--repair takes it from the newest good checkpoint",
    "inputs": "--repair takes it from the newest good checkpoint",
    "data set": "--repair reads the log and the texts again, if they are where they were",
    "graph": "--repair prepares it again from the log, if that is where it was",
    "edge rows": "--repair makes them again from the graph",
    "text vectors": (
        "--repair makes the damaged shards again, if the language model is there, and learns "
        "item vectors again"
    ),
    "whitening": "--repair fits it again to the text vectors",
    "texts": "--repair renders them again from the graph",
    "adapter": (
        "cannot be rebuilt: evaluation needs only the vectors made with it; to train on, start "
        "over with --resume never"
    ),
    "checkpoint": (
        "--repair removes it if another is good: training goes on from that one, and its later "
        "steps are lost"
    ),
    "results": "--repair evaluates the best checkpoint again (recmind evaluate RUN)",
    "bundle": "--repair exports it again from the best checkpoint",
    "metrics": "cannot be rebuilt: --repair moves it to logs/metrics-damaged.jsonl",
    "hashes": "--repair takes out the damaged lines once all files are sound",
    "file": "cannot be rebuilt by this program: make it again by the command that wrote it",
}
"""Remedy of each part, in the order of repair."""
SEALED = {
    "config.yaml": "config",
    "inputs.json": "inputs",
    "whitening.safetensors": "whitening",
    "texts.arrow": "texts",
    "results.json": "results",
    "per_user.parquet": "results",
}
"""Part of each file that has its hash in the run's ledger of hashes."""


@dataclass(frozen=True)
class Finding:
    """Something damaged. `part` is a key of REMEDIES, `fault` a sentence that names the file."""

    part: str
    path: Path
    fault: str
    detail: tuple[tuple[str, int], ...] = ()
    """Damaged shards (side, shard) of text vectors, none for the whole store; lines of metrics."""
    damaged: bool = True
    """False for a checkpoint that may be whole, though this program cannot read it."""

    @property
    def remedy(self) -> str:
        """What can be done."""
        return REMEDIES[self.part]


@dataclass
class Examination:
    """What `examine` has found."""

    findings: list[Finding] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    """One line for each part that was read and is good."""
    notes: list[str] = field(default_factory=list)
    """Oddities that do no harm."""

    def add(
        self, part: str, path: Path, fault: str, detail: tuple[tuple[str, int], ...] = ()
    ) -> None:
        """Records a finding."""
        self.findings.append(Finding(part, path, fault, detail))

    @contextmanager
    def reading(self, part: str, path: Path) -> Iterator[None]:
        """Turns an error of the block into a finding; without one the part is sound."""
        before = len(self.findings)
        try:
            yield
        except (RecmindError, OSError) as error:
            self.add(part, path, str(error).splitlines()[0])
        if len(self.findings) == before:
            self.sound.append(f"{part}: {path}")


def examine(path: Path) -> Examination:
    """Reads everything that a run's commands would read. Changes nothing; holds the run's lock.

    Raises:
        StoreError: `path` is no run directory.
        LockedError: the run is in use.
    """
    with held(path) as run:
        return examine_held(run)


@contextmanager
def held(path: Path) -> Iterator[RunDirectory]:
    """An existing run, locked unless its disk is read-only. Raises as `examine`."""
    run = RunDirectory(path.absolute())
    signs = (*SEALED, SEALS, run.metrics.name)
    if not any((run.path / name).exists() for name in signs) and not run.checkpoints.is_dir():
        raise StoreError(f"{path}: not a run directory: give one that `recmind run` has made")
    with ExitStack() as stack:
        try:
            stack.enter_context(directory_lock(run.path))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        yield run


def examine_held(run: RunDirectory) -> Examination:
    """As `examine`, for a run that is locked."""
    found = Examination()
    _examine_files(run, found)
    checkpoints = audit_checkpoints(run.checkpoints)
    found.findings += [
        Finding("checkpoint", fault.path, fault.sentence, damaged=fault.damaged)
        for fault in checkpoints.faults
    ]
    found.sound += [f"checkpoint: {good.path}" for good in checkpoints.good]
    for path in checkpoints.unfinished:
        found.notes.append(f"{path}: left by a save that was cut short: goes with the next save")
    inputs = _examine_inputs(run, checkpoints, found)
    if inputs is not None:
        _examine_missing(run, inputs, found)
        _examine_graph(inputs.graph, found)
        if _is_partitioned(run, checkpoints):
            _examine_rows(inputs.graph, found)
        for store in _text_stores(run, checkpoints, inputs, found):
            _examine_text(store, inputs, found)
    _note_unverified(run, found)
    return found


def _examine_files(run: RunDirectory, found: Examination) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "config.yaml": lambda path: read_run(path.parent),
        "whitening.safetensors": Whitening.load,
        "texts.arrow": Texts.load,
        "results.json": lambda path: run.read_results(),
    }
    sums, damaged = read_seals(run.path)
    ledger = run.path / SEALS
    for number in damaged:
        found.add("hashes", ledger, f"{ledger}:{number}: not a hash and a name")
    for name in dict.fromkeys([*SEALED, *sums]):
        path = run.path / name
        if path.exists():
            with found.reading(SEALED.get(name, "file"), path):
                if not sums and not damaged:
                    raise StoreError(f"{path}: {SEALS} is lost, so it cannot be verified")
                check_seal(path, DOCTOR)
                if name in readers:
                    readers[name](path)
        elif name in sums:
            part = SEALED.get(name, "hashes")
            found.add(part, path, f"{path}: missing, though {SEALS} has its hash")
    own = {run.path / "adapter": "adapter", run.bundle: "bundle"}
    for directory in _with_manifest(run):
        with found.reading(own.get(directory, "file"), directory):
            _check_directory(directory)
    if run.metrics.is_file():
        _examine_metrics(run.metrics, found)


def _with_manifest(run: RunDirectory) -> list[Path]:
    """Directories with a manifest, at any depth: an adapter, a bundle, exports."""
    found = [path.parent for path in sorted(run.path.rglob(MANIFEST))]
    return [path for path in found if path != run.path and not _has_own_audit(run, path)]


def _has_own_audit(run: RunDirectory, path: Path) -> bool:
    audited = (run.checkpoints, run.logs, run.path / ITEM_VECTORS)
    return any(path.is_relative_to(directory) for directory in audited)


def _examine_missing(run: RunDirectory, inputs: RunStores, found: Examination) -> None:
    """Files that the inputs name and that are not there."""
    adapter = run.path / "adapter"
    needed = [("whitening", inputs.whitening), ("texts", inputs.texts)]
    if inputs.texts is not None:
        needed.append(("adapter", adapter / MANIFEST))
    known = {(finding.part, finding.path) for finding in found.findings}
    for part, path in needed:
        if path is None or path.exists() or {(part, path), (part, adapter)} & known:
            continue
        found.add(part, path, f"{path}: missing")


def _note_unverified(run: RunDirectory, found: Examination) -> None:
    """Files of the run without a hash anywhere: foreign ones, or ones whose hash was lost."""
    verified = {run.metrics, run.path / SEALS, run.path / LOCK}
    verified |= {run.path / name for name in read_seals(run.path)[0]}
    for directory in _with_manifest(run):
        verified.add(directory / MANIFEST)
        with suppress(RecmindError):
            manifest = read_json(directory / MANIFEST)
            files = manifest.get("files") if isinstance(manifest, dict) else None
            verified |= {directory / name for name in files} if isinstance(files, dict) else set()
    paths = (path for path in sorted(run.path.rglob("*")) if path.is_file())
    paths = (path for path in paths if path not in verified and path.name not in SEALED)
    unverified = [path for path in paths if not _has_own_audit(run, path)]
    if unverified:
        more = f" and {len(unverified) - 1} more" if len(unverified) > 1 else ""
        fault = "not verified: nothing has a hash of it, and no command reads it"
        found.notes.append(f"{unverified[0]}{more}: {fault}")


def _check_directory(directory: Path) -> None:
    raw = read_json(directory / MANIFEST)
    kind, schema = (raw.get("kind"), raw.get("schema")) if isinstance(raw, dict) else (None, None)
    if directory.name == "adapter":
        load_adapter(directory)
    elif not isinstance(kind, str) or not isinstance(schema, int):
        raise StoreError(f"{directory / MANIFEST}: not a manifest: the file is damaged")
    elif kind == CHECKPOINT and isinstance(raw.get("files"), dict):
        verify_manifest(directory, raw)  # a copied checkpoint: the manifest's own hash is in COMMIT
    else:
        verify_manifest(directory, read_manifest(directory, kind, schema))


def _examine_metrics(path: Path, found: Examination) -> None:
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    damaged = [("line", n) for n, line in lines if line.strip() and parse_line(line) is None]
    if damaged:
        more = f", and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        fault = f"{path}:{damaged[0][1]}: cut short or damaged{more}"
        found.add("metrics", path, fault, tuple(damaged))
    else:
        found.sound.append(f"metrics: {path}")


def _examine_inputs(
    run: RunDirectory, checkpoints: CheckpointAudit, found: Examination
) -> RunStores | None:
    """From inputs.json or, where that is damaged, from the newest good checkpoint."""
    path = run.path / "inputs.json"
    newest = checkpoints.good[0] if checkpoints.good else None
    saved = newest.info.get("inputs") if newest else None
    try:
        trained = newest is not None and Cursor.from_info(newest.info).phase != "warmup"
    except CheckpointError as error:
        found.notes.append(str(error))
        trained = False
    known = any(finding.path == path for finding in found.findings)
    if trained and not path.exists() and not known:
        found.add("inputs", path, f"{path}: missing")
    if path.exists() and not known:
        return relocated_inputs(RunStores.from_json(read_json(path)), run)
    return relocated_inputs(RunStores.from_json(saved), run) if isinstance(saved, dict) else None


def _examine_graph(path: Path, found: Examination) -> None:
    with found.reading("graph", path):
        audit_graph(path)
    if any(finding.path == path for finding in found.findings):
        return
    dataset = path.parent / f"dataset-{Graph.open(path).manifest['dataset_key'][:12]}"
    if not dataset.is_dir():
        found.notes.append(f"{dataset}: not there; only preparing another graph would need it")
        return
    with found.reading("data set", dataset):
        verify_manifest(dataset, read_manifest(dataset, DATASET, DATASET_SCHEMA))


def _is_partitioned(run: RunDirectory, checkpoints: CheckpointAudit) -> bool:
    try:
        config = settings_of(run, checkpoints)
    except RecmindError:
        return False  # said of config.yaml and of the checkpoint
    return config is not None and config.graph.placement == "partitioned"


def _examine_rows(graph: Path, found: Examination) -> None:
    """The edge rows, unless the graph that they are of is damaged itself."""
    if not any(finding.path == graph for finding in found.findings):
        with found.reading("edge rows", rows_directory(graph)):
            verify_rows(graph)


def _text_stores(
    run: RunDirectory, checkpoints: CheckpointAudit, inputs: RunStores, found: Examination
) -> list[Path]:
    """The run's text store and item vectors and, where adapters were trained, the untouched
    model's text store.
    """
    if inputs.text is None:
        return []
    base: Path | None = None
    if inputs.texts is not None:
        try:
            config = settings_of(run, checkpoints)
            if config is not None:
                config = with_dtype_of_store(config, inputs.text)
                texts = Texts.load(inputs.texts)
                base = store_path(texts, config.text, config.cache_dir / config.dataset.name)
        except RecmindError as error:  # without the language model they are not needed either
            found.notes.append(f"vectors of the untouched model: not examined: {error}")
    stores = dict.fromkeys((inputs.text, base, inputs.item_vectors))
    return [path for path in stores if path is not None]


def _examine_text(path: Path, inputs: RunStores, found: Examination) -> None:
    with found.reading("text vectors", path):
        if path not in (inputs.text, inputs.item_vectors) and not path.exists():
            return
        store, faults = audit_text_store(path)
        if faults:
            shards = tuple((fault.side, fault.shard) for fault in faults)
            more = f", and {len(faults) - 1} more shards" if len(faults) > 1 else ""
            found.add("text vectors", path, faults[0].fault + more, shards)
        elif path == inputs.text and store.content_key() != inputs.store_key:
            raise StoreError(f"{path}: its ledger has vectors of other texts than this run's")


def settings_of(run: RunDirectory, checkpoints: CheckpointAudit) -> RunConfig | None:
    """The run's settings, from config.yaml or else from the newest good checkpoint."""
    try:
        return read_run(run.path)[1]
    except RecmindError:
        return settings_of_checkpoint(checkpoints)


def settings_of_checkpoint(checkpoints: CheckpointAudit) -> RunConfig | None:
    """The settings of the newest good checkpoint; None without one."""
    if not checkpoints.good:
        return None
    newest = checkpoints.good[0]
    try:
        return RunConfig.model_validate(newest.info.get("config"))
    except ValidationError as error:
        raise CheckpointError(f"{newest.path}: its settings are of another program") from error
