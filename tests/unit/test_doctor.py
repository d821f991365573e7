"""What the doctor looks at, part by part: hashes of single files, manifests, ranges of a graph,
text stores.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, find_checkpoint
from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST, attempt_directories
from recmind_dist.checkpoint.manifest import SCHEMA
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.doctor.checkpoints import audit_checkpoints
from recmind_dist.doctor.examine import examine
from recmind_dist.doctor.graphs import audit_graph
from recmind_dist.doctor.repair import repair
from recmind_dist.doctor.text_stores import audit_text_store
from recmind_dist.errors import LockedError, StoreError
from recmind_dist.pipeline import train as fit
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.storage import (
    check_seal,
    directory_lock,
    read_manifest,
    seals,
    write_manifest,
    write_sealed,
)
from recmind_dist.storage import manifest as manifests
from recmind_dist.text import Texts, TextStore
from recmind_dist.training.run_stores import RunStores
from tests.graphs import make_graph, random_pairs


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Killed(BaseException):
    """The process is gone."""


def test_a_sealed_file_that_was_changed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_sealed(path, b"seed: 1\n")
    check_seal(path, "mend it")
    path.write_bytes(b"seed: 3\n")
    with pytest.raises(
        StoreError, match=r"config\.yaml: sha256 differs from SHA256SUMS: .*: mend it"
    ):
        check_seal(path, "mend it")


def test_a_sealed_file_that_is_lost_or_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_sealed(path, b"seed: 1\n")
    path.unlink()
    with pytest.raises(
        StoreError, match=r"config\.yaml: cannot be read \(No such file or directory\): mend it"
    ):
        check_seal(path, "mend it")
    path.mkdir()
    with pytest.raises(
        StoreError, match=r"config\.yaml: cannot be read \(Is a directory\): mend it"
    ):
        check_seal(path, "mend it")


def test_the_hashes_are_what_sha256sum_reads(tmp_path: Path) -> None:
    for name in ("config.yaml", "results.json", "config.yaml"):
        write_sealed(tmp_path / name, name.encode())
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["config.yaml: OK", "results.json: OK"]


def die_at(
    write: Callable[[Path, bytes], None],
    count: "itertools.count[int]",
    change: int,
    after: bool,
    to: Path,
    data: bytes,
) -> None:
    """A write that is the last thing the process does (`after`), or that it does not live to do."""
    last = next(count) == change
    if not last or after:
        write(to, data)
    if last:
        raise Killed


def test_a_kill_at_any_write_leaves_the_old_or_the_new_and_both_verify(tmp_path: Path) -> None:
    for change, after in itertools.product(range(3), (False, True)):
        directory = tmp_path / f"{change}{after}"
        directory.mkdir()
        path = directory / "config.yaml"
        write_sealed(path, b"old")
        dying = partial(die_at, seals.write_bytes, itertools.count(), change, after)
        with mock.patch.object(seals, "write_bytes", dying), contextlib.suppress(Killed):
            write_sealed(path, b"new")
        assert path.read_bytes() in (b"old", b"new")
        check_seal(path, "")
        write_sealed(path, b"next")  # the same program started again
        check_seal(path, "")


def verifies(path: Path) -> bool:
    try:
        check_seal(path, "")
    except StoreError:
        return False
    return True


def test_any_flipped_bit_of_the_hashes_makes_a_file_unverifiable(tmp_path: Path) -> None:
    for name in ("config.yaml", "inputs.json"):
        write_sealed(tmp_path / name, name.encode())
    sums = tmp_path / seals.NAME
    whole = sums.read_bytes()
    # the last byte ends the last line, and is not missed
    for bit in range(0, 8 * len(whole) - 8, 3):
        sums.write_bytes(flipped(whole, bit))
        assert not (verifies(tmp_path / "config.yaml") and verifies(tmp_path / "inputs.json")), bit


def test_a_copy_without_hashes_is_taken_as_it_is_and_one_beside_hashes_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.yaml").write_bytes(b"seed: 1\n")
    assert verifies(tmp_path / "config.yaml")
    write_sealed(tmp_path / "results.json", b"{}")
    assert not verifies(tmp_path / "config.yaml")


def test_a_manifest_is_damaged_by_any_change_of_its_values(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"abc")
    write_manifest(tmp_path, "thing", 1, {"count": 7, "name": "x"})
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    content = read_manifest(tmp_path, "thing", 1)
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        try:
            found = read_manifest(tmp_path, "thing", 1)
        except StoreError:
            continue
        assert found == content, "only white space may have changed"


def test_a_graph_is_read_in_full(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, random_pairs(20, 15, 90), 20, 15, valid=[(19, 14)], num_parts=2)
    assert audit_graph(graph.path).num_edges == graph.num_edges
    damage = {
        "indices.npy": (graph.indices, 3, graph.num_nodes, "not in \\[20, 35\\)"),
        "indptr.npy": (graph.indptr, 4, 10_000, "offsets do not rise"),
        "row_of_node.npy": (
            graph.row_of_node,
            0,
            int(graph.row_of_node[1]),
            "not one row for each",
        ),
        "part_rows.npy": (graph.part_rows, 1, 99, "offsets do not rise"),
        "valid_indices.npy": (graph.held_out("valid").indices, 0, 2, "not in \\[20, 35\\)"),
    }
    for name, (array, place, value, fault) in damage.items():
        file = graph.path / name
        whole, manifest = file.read_bytes(), (graph.path / "manifest.json").read_bytes()
        changed = np.array(array)
        changed[place] = value
        np.save(file, changed)
        content = {
            k: v for k, v in json.loads(manifest).items() if k not in ("kind", "schema", "files")
        }
        content.pop("manifest_sha256")
        # a defect of the writer: hashes fit, the graph is none
        write_manifest(graph.path, "graph", 1, content)
        with pytest.raises(StoreError, match=fault):
            audit_graph(graph.path)
        file.write_bytes(whole)
        (graph.path / "manifest.json").write_bytes(manifest)
    assert audit_graph(graph.path).num_edges == graph.num_edges


def test_a_text_store_names_its_damaged_shards_and_forgets_only_them(tmp_path: Path) -> None:
    store = TextStore.create(
        tmp_path / "text", {"made": "for a test"}, 6, {"users": 40, "items": 20}, 16, 8
    )
    rng = np.random.default_rng(0)
    for side in ("items", "users"):
        for shard in range(store.num_shards(side)):
            start, stop = store.shard_range(side, shard)
            store.write_shard(
                side, shard, rng.normal(size=(stop - start, 6)).astype(np.float16), f"{side}{shard}"
            )
    assert audit_text_store(store.path)[1] == []
    file = store.shard_file("users", 1)
    file.write_bytes(flipped(file.read_bytes(), 100))
    ledger = store.path / "ledger" / "items-00000.json"
    ledger.write_bytes(ledger.read_bytes().replace(b'"rows"', b'"rowr"'))
    found, faults = audit_text_store(store.path)
    assert [(fault.side, fault.shard) for fault in faults] == [("items", 0), ("users", 1)]
    for fault in faults:
        found.forget(fault.side, fault.shard)
    assert [found.entry("users", shard) is None for shard in range(3)] == [False, True, False]
    meta = store.path / "store.json"
    meta.write_bytes(meta.read_bytes().replace(b'"items": 8', b'"items": 9'))
    with pytest.raises(StoreError, match="rows, shards and chunks are"):
        audit_text_store(store.path)


def test_what_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "photos", tmp_path / "nowhere"):
        with pytest.raises(StoreError, match="not a run directory"):
            examine(path)
    assert list((tmp_path / "photos").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory of checkpoints of steps 1, 2 and 3."""
    settings = CheckpointSettings(keep_last=9)
    with Checkpointer(tmp_path / "run" / "checkpoints", 0, 1, (0, 3), 3, settings) as one:
        for step in (1, 2, 3):
            one.save(
                attempt_name(step, "abcdefgh"),
                {"weight": torch.full((3, 2), float(step))},
                {},
                {"step": step},
            )
    return tmp_path / "run"


def steps_of(run: Path) -> list[int]:
    return [
        int(path.name[5:13])
        for path in attempt_directories(run / "checkpoints")
        if (path / COMMIT).exists()
    ]


def test_a_run_in_use_is_left_alone(run: Path) -> None:
    with directory_lock(run):
        for look in (examine, repair):
            with pytest.raises(LockedError, match="in use by process"):
                look(run)


def test_what_a_newer_program_wrote_is_named_and_never_removed(run: Path) -> None:
    newest = attempt_directories(run / "checkpoints")[-1]
    data = (newest / MANIFEST).read_bytes().replace(f'"schema": {SCHEMA}'.encode(), b'"schema": 9')
    (newest / MANIFEST).write_bytes(data)
    (newest / COMMIT).write_text(hashlib.sha256(data).hexdigest())
    said: list[str] = []
    found = repair(run, said.append)
    assert [finding.part for finding in found.findings] == ["checkpoint"]
    assert "schema version 9" in found.findings[0].fault
    assert any("left alone" in line for line in said), said
    assert steps_of(run) == [1, 2, 3]


def test_what_the_disk_will_not_give_is_passed_over_and_not_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = attempt_directories(run / "checkpoints")[-1] / DENSE

    def hashed(path: Path) -> str:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(manifests, "sha256_file", hashed)
    found = find_checkpoint(run / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert f"{bad}: cannot be read (Input/output error)" in caplog.text
    [fault] = audit_checkpoints(run / "checkpoints").faults
    assert not fault.damaged
    repair(run, lambda line: None)
    assert steps_of(run) == [1, 2, 3]
    monkeypatch.undo()
    assert examine(run).findings == []


def test_a_damaged_checkpoint_is_removed_and_the_files_of_nobody_are_named(run: Path) -> None:
    shard = attempt_directories(run / "checkpoints")[0] / DENSE
    shard.write_bytes(shard.read_bytes() + b" ")
    (run / "notes.txt").write_text("mine")
    found = repair(run, lambda line: None)
    assert found.findings == []
    assert steps_of(run) == [2, 3]
    assert any("notes.txt: not verified" in note for note in found.notes), found.notes
    assert (run / "notes.txt").exists()


def test_what_the_inputs_name_and_is_lost_is_found(run: Path) -> None:
    inputs = RunStores(
        run / "graph", run / "store", run / "whitening.safetensors", run / "texts.arrow"
    )
    seals.write_sealed_json(run / "inputs.json", inputs.to_json())
    parts = {finding.part for finding in examine(run).findings}
    assert parts == {"whitening", "texts", "adapter", "graph", "text vectors"}


def test_exports_are_verified_at_any_depth(run: Path) -> None:
    export = run / "exports" / "best"
    export.mkdir(parents=True)
    (export / "vectors.bin").write_bytes(b"abc")
    write_manifest(export, "export", 1, {})
    assert examine(run).findings == []
    (export / "vectors.bin").write_bytes(b"abd")
    [finding] = examine(run).findings
    assert "vectors.bin: sha256 differs" in finding.fault


def test_texts_of_any_length_are_verified(tmp_path: Path) -> None:
    texts = Texts(["x" * 100] * 200_000, [None, "y"])  # more than a manifest may have
    texts.save(tmp_path / "texts.arrow")
    assert (tmp_path / "texts.arrow").stat().st_size > manifests.MAX_BYTES
    assert Texts.load(tmp_path / "texts.arrow") == texts
    assert examine(tmp_path).findings == []
    (tmp_path / "texts.arrow").write_bytes(b"{}")
    assert [finding.part for finding in examine(tmp_path).findings] == ["texts"]


def test_starting_over_and_being_killed_in_it_leaves_no_half_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path) -> None:
        raise Killed

    from recmind_dist.checkpoint import retention

    monkeypatch.setattr(retention.shutil, "rmtree", dies)
    with pytest.raises(Killed):
        fit._start_over(RunDirectory(run), None, lambda line: None)
    monkeypatch.undo()
    assert steps_of(run) == [2, 3]
    found = find_checkpoint(run / "checkpoints")
    assert found is not None, "and what is left is whole"
    fit._start_over(RunDirectory(run), None, lambda line: None)
    assert find_checkpoint(run / "checkpoints") is None


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"graph": None}, {"graph": 3}, {"graph": "a\0"}, {"graph": "a", "text": []}],
)
def test_inputs_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(StoreError, match="not the inputs of a run"):
        RunStores.from_json(value)


def test_a_line_of_the_log_without_its_crc_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log("step", loss=1.0)
        log.log("step", loss=0.5)
    assert examine(tmp_path).findings == []
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "step", "loss": 0.1}\n')
    [finding] = examine(tmp_path).findings
    assert finding.detail == (("line", 3),)
    repair(tmp_path, lambda line: None)
    assert path.read_bytes() == whole


def test_a_lost_hash_is_damage(tmp_path: Path) -> None:
    for name in ("texts.arrow", "more.json"):
        Texts(["a"], []).save(tmp_path / name)
    assert examine(tmp_path).findings == []
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:1]))
    [finding] = examine(tmp_path).findings
    assert finding.part == "texts"
    assert "its hash is lost from SHA256SUMS" in finding.fault
    sums.unlink()
    [finding] = examine(tmp_path).findings
    assert finding.part == "texts"
    assert "SHA256SUMS is lost" in finding.fault
