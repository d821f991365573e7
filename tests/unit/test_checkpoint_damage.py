"""What a reader does with damaged, foreign and hostile checkpoints: names them, falls back,
executes nothing.
"""

import hashlib
import json
import logging
import pickle  # noqa: TID251 (to build what must be refused)
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name
from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST, rows_file
from recmind_dist.checkpoint.manifest import SCHEMA
from recmind_dist.checkpoint.reader import find_checkpoint, open_checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError

OLD, NEW = attempt_name(1, "abcdefgh"), attempt_name(2, "abcdefgh")
SHARD = rows_file(0)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with two good checkpoints."""
    with Checkpointer(tmp_path, 0, 1, (0, 4), 4, CheckpointSettings()) as saver:
        for name in (OLD, NEW):
            saver.save(name, {"embedding": torch.ones(4, 3)}, {"gate": torch.ones(2)}, {"step": 1})
    return tmp_path


def recommit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest and commits to it, as someone with bad intentions would."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    change(manifest)
    recommit_bytes(path, json.dumps(manifest).encode())


def recommit_bytes(path: Path, manifest: bytes) -> None:
    (path / MANIFEST).write_bytes(manifest)
    (path / COMMIT).write_text(hashlib.sha256(manifest).hexdigest())


def replace_shard(path: Path, data: bytes) -> None:
    (path / SHARD).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    recommit(path, lambda manifest: manifest["files"].update({SHARD: entry}))


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (lambda p: (p / SHARD).write_bytes((p / SHARD).read_bytes()[:-5]), SHARD),
    "empty shard": (lambda p: (p / SHARD).write_bytes(b""), SHARD),
    "missing shard": (lambda p: (p / SHARD).unlink(), SHARD),
    "flipped bit in rows": (lambda p: flip_a_bit(p / SHARD), SHARD),
    "flipped bit in dense": (lambda p: flip_a_bit(p / DENSE), DENSE),
    "garbage manifest": (lambda p: (p / MANIFEST).write_bytes(b"\x00garbage"), MANIFEST),
    "missing manifest": (lambda p: (p / MANIFEST).unlink(), MANIFEST),
    "changed manifest": (lambda p: flip_a_bit(p / MANIFEST), COMMIT),
    "deeply nested manifest": (lambda p: recommit_bytes(p, b"[" * 100_000), "not JSON"),
    "binary manifest": (lambda p: recommit_bytes(p, b"\x80\x02}"), "not JSON"),
    "empty COMMIT": (lambda p: (p / COMMIT).write_bytes(b""), COMMIT),
    "manifest that is a list": (lambda p: recommit_bytes(p, b"[]"), "schema version None"),
    "schema that never was": (
        lambda p: recommit(p, lambda m: m.update(schema=0)),
        "schema version 0",
    ),
    "other kind": (lambda p: recommit(p, lambda m: m.update(kind="graph")), "kind"),
    "no files": (lambda p: recommit(p, lambda m: m.pop("files")), "files"),
    "path outside": (
        lambda p: recommit(
            p, lambda m: m["files"].update({f"../{OLD}/{SHARD}": m["files"].pop(SHARD)})
        ),
        "files are",
    ),
    "rows that do not tile": (
        lambda p: recommit(p, lambda m: m.update(row_ranges=[[0, 3]])),
        "rows end at 3",
    ),
    "more rows than the file": (
        lambda p: recommit(p, lambda m: m.update(row_ranges=[[0, 9]], num_rows=9)),
        "not 9 rows",
    ),
    "negative size": (lambda p: recommit(p, lambda m: m["files"][SHARD].update(bytes=-1)), "bytes"),
    "pickle as shard": (
        lambda p: replace_shard(p, pickle.dumps({"a": 1})),
        "not a safetensors file",
    ),
    "torch.save as shard": (lambda p: replace_shard(p, _torch_file(p)), "not a safetensors file"),
    "shard is a link": (
        lambda p: [(p / SHARD).unlink(), (p / SHARD).symlink_to(p.parent / OLD / SHARD)],
        SHARD,
    ),
}


def _torch_file(path: Path) -> bytes:
    torch.save({"embedding": torch.ones(4, 3)}, path.parent.parent / "model.pt")
    return (path.parent.parent / "model.pt").read_bytes()


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_previous_good_one_used(
    two: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    damage, named = DAMAGE[name]
    damage(two / NEW)
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(two)
    assert found is not None
    assert found.name == OLD
    assert NEW in caplog.text
    assert named in caplog.text
    with pytest.raises(CheckpointError) as refusal:  # asked for by name there is no falling back
        find_checkpoint(two, NEW)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_without_a_good_one_left_is_an_error(two: Path, name: str) -> None:
    damage, named = DAMAGE[name]
    damage(two / NEW)
    (two / OLD / COMMIT).unlink()
    with pytest.raises(CheckpointError, match=r"1 checkpoint\(s\), none is good") as refusal:
        find_checkpoint(two)
    assert named in str(refusal.value)


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA + 1])
def test_another_schema_is_refused_not_stepped_over(two: Path, schema: int) -> None:
    recommit(two / NEW, lambda manifest: manifest.update(schema=schema))
    remedy = "use the version that wrote it, or start over"
    sentence = rf"schema version {schema}, this program reads {SCHEMA}: {remedy}"
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        find_checkpoint(two)
    assert "\n" not in str(refusal.value)


def test_a_hostile_pickle_is_not_executed(two: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (Path.touch, (mark,))

    replace_shard(two / NEW, pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(two / NEW)
    assert not mark.exists()


def test_a_file_offered_as_checkpoint_directory_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="not a directory of checkpoints"):
        find_checkpoint(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint directory"):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["../x", "/etc", "step-1.abcdefgh", "latest", ""])
def test_only_names_of_checkpoints_are_taken(two: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="give last, best, or a name"):
        find_checkpoint(two, name)


def test_linked_checkpoints_and_directories_are_not_followed(
    two: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / NEW).symlink_to(two / NEW)
    with pytest.raises(CheckpointError, match="symbolic link"):
        find_checkpoint(elsewhere)
    (elsewhere / "checkpoints").symlink_to(two)
    with pytest.raises(CheckpointError, match="not a directory of checkpoints"):
        find_checkpoint(elsewhere / "checkpoints")


def test_nothing_committed_is_nothing(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "never") is None
    (tmp_path / NEW).mkdir()
    (tmp_path / NEW / SHARD).write_bytes(b"half")
    assert find_checkpoint(tmp_path) is None
    with pytest.raises(CheckpointError, match="never committed"):
        find_checkpoint(tmp_path, NEW)


def test_without_scores_the_newest_stands_for_the_best_and_says_so(
    two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = find_checkpoint(two, "best")
    assert found is not None
    assert found.name == NEW
    assert "no checkpoint has a score" in caplog.text


def test_unverified_reading_still_follows_no_link(two: Path) -> None:
    DAMAGE["shard is a link"][0](two / NEW)
    with pytest.raises(CheckpointError, match="not a plain file"):
        open_checkpoint(two / NEW, verify=False)


def test_unverified_reading_still_checks_shapes(two: Path) -> None:
    flip_a_bit(two / NEW / SHARD)
    assert open_checkpoint(two / NEW, verify=False).num_rows == 4
    with pytest.raises(CheckpointError, match="sha256 differs"):
        open_checkpoint(two / NEW)
