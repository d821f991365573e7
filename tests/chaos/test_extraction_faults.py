"""Extraction's faults: full disks, dead actors, little memory, bad vectors, damaged shards."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from recmind_dist.errors import StoreError, TextError
from recmind_dist.text import (
    TextEncoder,
    Texts,
    TextSettings,
    TextStore,
    embed_texts,
    make_store,
    plan_shards,
    store_path,
)
from recmind_dist.text.embed_actor import embed_shard
from recmind_dist.text.plan import ShardJob
from recmind_dist.training.run_stores import RunStores
from tests.chaos.conftest import chaos_config
from tests.chaos.group import Group
from tests.tiny_language_model import WIDTH, make_bert
from tests.training_runs import make_inputs

FAULTS = "RECMIND_FAULTS"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file whose faults every actor of this module's cluster arms when it starts."""
    path = tmp_path_factory.mktemp("faults") / "faults.json"
    path.write_text("[]")
    return path


@pytest.fixture(scope="module")
def cluster(fault_file: Path) -> Iterator[None]:
    os.environ[FAULTS] = str(fault_file)  # workers inherit it; this process has read it already
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        ray.init(
            address="local",
            num_cpus=1,  # Ray keeps a started process ready for each
            include_dashboard=False,
            _temp_dir=directory,
            log_to_driver=False,
        )
        yield
        ray.shutdown()
    del os.environ[FAULTS]


@pytest.fixture
def faults(fault_file: Path) -> Iterator[Path]:
    yield fault_file
    fault_file.write_text("[]")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmind_dist.text.store.MIN_SHARD_ROWS", 16)


def settings_for(model: Path, **changes: object) -> TextSettings:
    values = {
        "model": str(model),
        "dtype": "fp32",
        "num_actors": 1,
        **changes,
    }
    return TextSettings.model_validate(values)


def make_texts(items: int = 80, users: int = 40) -> Texts:
    return Texts(
        [f"space war {i}" if i % 7 else None for i in range(items)],
        [f"a person who liked: love story {i}; king {i}" for i in range(users)],
    )


def assert_whole(path: Path, texts: Texts, settings: TextSettings) -> None:
    """Every row equals the model's own answer for that row's text, so none is lost, doubled or
    shifted.
    """
    store = TextStore.open(path)
    store.verify()
    encoder = TextEncoder.load(settings)
    for side, rows in (("items", texts.items), ("users", texts.users)):
        stored = store.read_all(side)
        assert stored.shape == (len(rows), WIDTH)
        present = [row for row, text in enumerate(rows) if text is not None]
        expected = encoder.encode([str(rows[row]) for row in present], 96)
        np.testing.assert_allclose(stored[present].astype(np.float32), expected, atol=4e-3)
        assert np.isnan(np.delete(stored, present, axis=0)).all()


@pytest.mark.usefixtures("cluster")
def test_row_08_a_full_disk_ends_extraction_in_a_sentence_and_resume_goes_by_the_ledger(
    model: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(words, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a file system is not allowed here: run as root to see a full disk")
    try:
        settings, texts = settings_for(model), make_texts(240, 80)
        with pytest.raises(
            StoreError, match=r"cannot be written \(No space left on device\): free space, then run"
        ):
            embed_texts(texts, settings, disk)
        path = store_path(texts, settings, disk)
        entries = sorted(file.name for file in (path / "ledger").glob("*.json"))
        assert 0 < len(entries) < 20
        subprocess.run(["mount", "-o", "remount,size=4096k", str(disk)], check=True)
        stamps = {name: (path / "ledger" / name).stat().st_mtime_ns for name in entries}
        report = embed_texts(texts, settings, disk)
        assert report.skipped_shards == len(entries)
        assert {name: (path / "ledger" / name).stat().st_mtime_ns for name in entries} == stamps
        assert_whole(path, texts, settings)
        assert not list(path.rglob("*.partial*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def whole_store(cluster: None, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory with the whole store of `make_texts()`; tests damage copies of it."""
    cache = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recmind_dist.text.store.MIN_SHARD_ROWS", 16)
        embed_texts(make_texts(), settings_for(model), cache)
    return cache


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_row_11_a_damaged_shard_is_an_error_before_training_and_alone_made_again(
    model: Path, tmp_path: Path, whole_store: Path, damage: str
) -> None:
    inputs: RunStores = make_inputs(tmp_path)
    assert inputs.text is not None
    hurt(TextStore.open(inputs.text).shard_file("users", 1), damage)
    config = chaos_config(tmp_path, "run")
    group = Group(config, inputs)
    assert not group.wait()
    sentence = "is missing" if damage == "lost" else "is damaged"
    assert "StoreError: " in group.error(0), group.error(0)
    assert "shard 1 of users " + sentence in group.error(0)
    assert "recmind embed" in group.error(0)
    assert not list((config.run_dir / "checkpoints").glob("*"))  # nothing was begun

    settings, texts = settings_for(model), make_texts()
    cache = tmp_path / "embedded"
    shutil.copytree(whole_store, cache)
    store = TextStore.open(store_path(texts, settings, cache))
    hurt(store.shard_file("items", 2), damage)
    jobs, num_shards = plan_shards(texts, settings, store.path)
    assert ([(job.side, job.shard) for job in jobs], num_shards) == ([("items", 2)], 8)
    assert embed_texts(texts, settings, cache).skipped_shards == 7
    assert_whole(store.path, texts, settings)


def hurt(file: Path, damage: str) -> None:
    if damage == "lost":
        file.unlink()
        return
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 8
    file.write_bytes(data)


@pytest.mark.usefixtures("cluster")
def test_row_12_an_actor_killed_with_a_shard_in_hand_loses_no_row_and_doubles_none(
    model: Path, tmp_path: Path, faults: Path
) -> None:
    mark = tmp_path / "killed"
    faults.write_text(f'[{{"point": "embedded", "step": 2, "action": "kill", "once": "{mark}"}}]')
    settings, texts = settings_for(model), make_texts()
    done: list[int] = []
    report = embed_texts(texts, settings, tmp_path, on_progress=lambda count, _: done.append(count))
    assert mark.exists()
    assert done[-1] == report.embedded == texts.count
    assert len(done) == 8, "each shard was to be told of once"
    assert_whole(report.path, texts, settings)


@pytest.mark.usefixtures("cluster")
def test_row_12_an_actor_that_dies_on_every_try_ends_in_an_error(
    model: Path, tmp_path: Path, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmind_dist.text.pool.MAX_RETRIES", 1)
    faults.write_text('[{"point": "encode", "action": "crash"}]')
    with pytest.raises(
        TextError, match=r"shard 0 of items: 2 workers died on it: lower text\.max_tokens"
    ):
        embed_texts(make_texts(10, 0), settings_for(model), tmp_path)


# a process whose address space ends a little above what the model takes: a batch of all texts does
# not fit
SMALL_MEMORY = """
import resource, sys
import numpy as np
from recmind_dist.text import TextEncoder, TextSettings

model, room = sys.argv[1], int(sys.argv[2]) << 20
texts = [f"space war {i} " + "love story " * 30 for i in range(2000)]
encoder = TextEncoder.load(TextSettings(model=model, dtype="fp32"))
encoder.batch_tokens = 400_000
encoder.encode(texts[:4], 64)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
found = encoder.encode(texts, 64)
halved = encoder.batch_tokens
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
encoder.batch_tokens = 512
np.testing.assert_allclose(found, encoder.encode(texts, 64), atol=1e-4)
print("tokens", halved)
"""


def small_memory(model: Path, room_mib: int) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", FAULTS: ""}
    command = [sys.executable, "-c", SMALL_MEMORY, str(model), str(room_mib)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=environment
    )


def test_row_12_a_batch_that_memory_does_not_hold_is_halved_until_it_does(model: Path) -> None:
    done = small_memory(model, 90)
    assert done.returncode == 0, done.stderr
    assert 512 <= int(done.stdout.split()[-1]) <= 200_000


@pytest.mark.usefixtures("cluster")
def test_row_12_one_text_that_memory_does_not_hold_is_a_clear_error(
    model: Path, tmp_path: Path, faults: Path
) -> None:
    faults.write_text('[{"point": "encode", "action": "memory"}]')
    with pytest.raises(
        TextError,
        match=r"text\.max_tokens: one text of \d+ tokens does not fit in memory: lower it",
    ):
        embed_texts(make_texts(10, 0), settings_for(model), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("nan", "row 18 of items is not finite"),
        ("narrow", r"gives vectors of shape \(16, 31\), the store holds width"),
    ],
)
def test_row_13_vectors_that_are_not_finite_or_of_a_wrong_width_reject_their_shard(
    model: Path, tmp_path: Path, spoil: str, sentence: str
) -> None:
    settings = settings_for(model)
    texts = Texts([f"space war {i}" for i in range(32)], [])
    path = store_path(texts, settings, tmp_path)
    make_store(texts, settings, path)
    jobs, _ = plan_shards(texts, settings, path)
    store, encoder = TextStore.open(path), Spoilt(TextEncoder.load(settings))
    embed_shard(encoder, store, jobs[0])
    encoder.spoil = spoil
    with pytest.raises(TextError, match=sentence):
        embed_shard(encoder, store, jobs[1])
    left, _ = plan_shards(texts, settings, path)
    assert [(job.side, job.shard) for job in left] == [("items", 1)]
    with pytest.raises(StoreError, match="shard 1 of items has no entry in the ledger"):
        TextStore.open(path).verify()


class Spoilt:
    """A real encoder whose answers are damaged on the way."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder, self.spoil = encoder, ""

    def encode(self, texts: list[str], max_tokens: int) -> np.ndarray:
        vectors = self.encoder.encode(texts, max_tokens)
        if self.spoil == "nan":
            vectors[2, 5] = np.nan
        return vectors[:, :-1] if self.spoil == "narrow" else vectors


def test_row_13_an_infinity_that_half_precision_makes_is_rejected_too(
    model: Path, tmp_path: Path
) -> None:
    settings = settings_for(model)
    texts = Texts(["space"] * 4, [])
    path = store_path(texts, settings, tmp_path)
    make_store(texts, settings, path)
    [job], _ = plan_shards(texts, settings, path)
    assert isinstance(job, ShardJob)

    class Huge(Spoilt):
        def encode(self, texts: list[str], max_tokens: int) -> np.ndarray:
            return np.full((len(texts), WIDTH), 1e6, np.float32)

    with pytest.raises(TextError, match="row 0 of items is not finite"):
        embed_shard(Huge(TextEncoder.load(settings)), TextStore.open(path), job)
