"""Mends what `examine` has found, each part from its sources, and leaves what cannot be mended."""

from collections.abc import Callable
from pathlib import Path

from recmind_dist.checkpoint.retention import remove
from recmind_dist.doctor.checkpoints import CheckpointAudit, audit_checkpoints
from recmind_dist.doctor.examine import (
    REMEDIES,
    SEALED,
    Examination,
    Finding,
    examine_held,
    held,
    settings_of,
    settings_of_checkpoint,
)
from recmind_dist.doctor.text_stores import audit_text_store
from recmind_dist.errors import CheckpointError, RecmindError, StoreError
from recmind_dist.graph import Graph, prepare_rows
from recmind_dist.pipeline.carry_over import copy_whitening
from recmind_dist.pipeline.embed import embed
from recmind_dist.pipeline.item_vectors import remake
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.text_dtype import key_of_texts, with_dtype_of_store
from recmind_dist.pipeline.train import fit_whitening, prepare_texts
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import (
    directory_lock,
    empty_directory,
    read_json,
    write_bytes,
    write_sealed_json,
)
from recmind_dist.storage.seals import drop_lost_lines, read_seals
from recmind_dist.text import Texts, TextStore, Whitening, store_path
from recmind_dist.text.store import META
from recmind_dist.training.moved_paths import relocated_inputs
from recmind_dist.training.run_stores import RunStores
from recmind_dist.types import Say


def repair(path: Path, say: Say = print) -> Examination:
    """Mends a run, part by part, and examines it again. Holds the run's lock.

    Args:
        say: called with one line for each thing that was done or could not be done
    Raises:
        LockedError: the run is in use.
        StoreError: `path` is no run directory.
    """
    with held(path) as run:
        found = examine_held(run)
        run.create()
        for part in REMEDIES:
            damaged = [finding for finding in found.findings if finding.part == part]
            if part == "results":
                damaged = damaged[:1]  # one evaluation writes all of them
            for finding in damaged:
                try:
                    say(f"{finding.path}: {_Repair(run, say).mend(finding)}")
                except (RecmindError, OSError) as error:
                    say(f"{finding.path}: not mended: {error}")
        _drop_lost_lines(run)
        return examine_held(run)


def _drop_lost_lines(run: RunDirectory) -> None:
    """Unless a file lacks its hash, which a person may still read in a damaged line."""
    sums, damaged = read_seals(run.path)
    lost = damaged or any(not (run.path / name).exists() for name in sums)
    unsealed = any((run.path / name).exists() and name not in sums for name in SEALED)
    if lost and not unsealed:
        drop_lost_lines(run.path)


class _Repair:
    """Mends one finding from parts that are sound by then."""

    def __init__(self, run: RunDirectory, say: Say) -> None:
        self.run = run
        self.say = say
        self.checkpoints: CheckpointAudit = audit_checkpoints(run.checkpoints)

    def mend(self, finding: Finding) -> str:
        """Returns what was done. Raises RecmindError if it cannot be done."""
        repairs: dict[str, Callable[[Finding], str]] = {
            "config": self._config,
            "inputs": self._inputs_file,
            "data set": self._graph,
            "graph": self._graph,
            "edge rows": self._edge_rows,
            "text vectors": self._vectors,
            "whitening": self._whitening,
            "texts": self._texts,
            "checkpoint": self._checkpoint,
            "results": self._results,
            "bundle": self._bundle,
            "metrics": self._metrics,
            "hashes": lambda _: "its damaged lines go when all files are sound",
        }
        if finding.part not in repairs:
            raise StoreError(finding.remedy)
        return repairs[finding.part](finding)

    def _config(self, _: Finding) -> str:
        config = settings_of_checkpoint(self.checkpoints)
        if config is None:
            raise CheckpointError(
                "no good checkpoint has the settings: give `recmind run` its config again"
            )
        self.run.write_config(config.model_dump(mode="json"))
        return f"taken from {self.checkpoints.good[0].name}"

    def _inputs_file(self, finding: Finding) -> str:
        saved = self.checkpoints.good[0].info.get("inputs") if self.checkpoints.good else None
        if not isinstance(saved, dict):
            raise CheckpointError("no good checkpoint has them: `recmind train` writes them again")
        write_sealed_json(finding.path, saved)
        return f"taken from {self.checkpoints.good[0].name}"

    def _graph(self, finding: Finding) -> str:
        inputs = self._inputs()
        made = Pipeline(self._settings(), self.say).prepare()
        if made.resolve() != inputs.graph.resolve():
            raise StoreError(
                f"log, texts or program have changed: they now give {made}: restore them"
            )
        return "made again, the same by its hashes"

    def _edge_rows(self, _: Finding) -> str:
        graph = self._inputs().graph
        Graph.open(graph, verify=True)
        prepare_rows(graph)
        return "made again from the graph"

    def _vectors(self, finding: Finding) -> str:
        inputs = self._inputs()
        config = with_dtype_of_store(self._settings(), inputs.text)
        alone = inputs.vectors_without_texts
        if finding.path == (inputs.text if alone else inputs.item_vectors):
            texts = None if alone else self._rendered(config, inputs)
            remake(config, self.run, inputs, texts, self.say)
            return "learnt again: not to the bit what training read, if device or threads differ"
        texts = self._rendered(config, inputs)
        adapted = finding.path == inputs.text and inputs.texts is not None
        adapter = self.run.path / "adapter" if adapted else None
        path = store_path(texts, config.text, config.cache_dir / config.dataset.name, adapter)
        if path.resolve() != finding.path.resolve():
            raise StoreError(
                f"language model, adapter or program have changed: they now give {path}: restore "
                "them, or let `recmind train` go on, which makes the vectors there"
            )
        with directory_lock(finding.path):
            if finding.detail:
                for side, shard in finding.detail:
                    TextStore.open(finding.path).forget(side, shard)
            elif not _has_sound_meta(finding.path):
                empty_directory(finding.path)
        report = embed(config, texts, adapter, self.say)
        embedded = f"{report.embedded} of {report.total} texts embedded again"
        return f"{embedded}, {report.skipped_shards} sound shards kept"

    def _whitening(self, finding: Finding) -> str:
        inputs = self._inputs()
        config = with_dtype_of_store(self._settings(), inputs.text)
        if inputs.vectors_without_texts:
            assert inputs.text is not None, "the vectors are there"
            Whitening.identity(TextStore.open(inputs.text).dim).save(finding.path)
            return "made again"
        if config.update.of is not None:
            copy_whitening(PreviousRun.open(config.update.of), finding.path)
            return f"taken from {config.update.of}"
        base = inputs.text
        if inputs.texts is not None:  # adapters: it was fitted to the untouched model's vectors
            texts = self._rendered(config, inputs)
            base = store_path(texts, config.text, config.cache_dir / config.dataset.name)
        if base is None or not base.is_dir():
            raise StoreError(f"{base}: the vectors for the fit are missing: run `recmind embed`")
        before = read_seals(self.run.path)[0].get(finding.path.name, [])
        fit_whitening(config, base).save(finding.path)
        same = read_seals(self.run.path)[0][finding.path.name][0] in before
        return f"fitted again, {'the same bytes' if same else 'with other bytes than before'}"

    def _texts(self, finding: Finding) -> str:
        inputs = self._inputs()
        config = with_dtype_of_store(self._settings(), inputs.text)
        self._rendered(config, inputs).save(finding.path)
        return "rendered again"

    def _checkpoint(self, finding: Finding) -> str:
        if not self.checkpoints.good:
            raise CheckpointError("no other is good, so it stays: start over with --resume never")
        if finding.path.is_symlink():
            raise CheckpointError("a symbolic link: remove it yourself")
        if not finding.damaged:
            raise CheckpointError("perhaps whole, though this program cannot read it: left alone")
        remove(finding.path)
        newest = self.checkpoints.good[0]
        return f"removed: the newest good one is {newest.name}, step {newest.step}"

    def _results(self, finding: Finding) -> str:
        Pipeline(self._settings(), self.say).evaluate()
        return "evaluated again"

    def _bundle(self, _: Finding) -> str:
        Pipeline(self._settings(), self.say).export(self.run.bundle)
        return "exported again"

    def _metrics(self, finding: Finding) -> str:
        damaged = {number for _, number in finding.detail}
        lines = list(enumerate(finding.path.read_bytes().split(b"\n"), 1))
        moved = self.run.logs / "metrics-damaged.jsonl"
        with moved.open("ab") as file:
            file.writelines(line + b"\n" for number, line in lines if number in damaged)
        sound = (line for number, line in lines if number not in damaged)
        write_bytes(finding.path, b"\n".join(sound))
        return f"{len(damaged)} damaged lines moved to {moved}"

    def _settings(self) -> RunConfig:
        config = settings_of(self.run, self.checkpoints)
        if config is None:
            fault = "not readable, and no good checkpoint has the settings"
            raise StoreError(f"{self.run.config}: {fault}")
        return config.model_copy(update={"run_dir": self.run.path})

    def _inputs(self) -> RunStores:
        path = self.run.path / "inputs.json"
        if not path.is_file():
            raise StoreError(f"{path}: not there: `recmind train` with the run's config writes it")
        return relocated_inputs(RunStores.from_json(read_json(path)), self.run)

    def _rendered(self, config: RunConfig, inputs: RunStores) -> Texts:
        Graph.open(inputs.graph, verify=True)
        prepared = prepare_texts(config, inputs.graph)
        if prepared.texts is None or key_of_texts(config, prepared.texts) != inputs.texts_key:
            raise StoreError("texts or language model are not those of the run: restore them")
        return prepared.texts


def _has_sound_meta(path: Path) -> bool:
    """Whether store.json is sound, so that an extraction can mend the shards."""
    try:
        audit_text_store(path)
    except StoreError:
        return False
    return (path / META).is_file()
