"""Extraction by a real Ray actor pool: done once, done again only where needed, and whole whatever
dies.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from safetensors.torch import load_file, save_file

from recmind_dist.errors import TextError
from recmind_dist.text import (
    LoraSettings,
    TextEncoder,
    Texts,
    TextSettings,
    TextStore,
    embed_texts,
    make_store,
    plan_shards,
    save_adapter,
    store_path,
)
from recmind_dist.text.pool import SHARDS_AT_ONCE
from tests.tiny_language_model import WIDTH, make_bert

pytestmark = pytest.mark.dist_slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=directory,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmind_dist.text.store.MIN_SHARD_ROWS", 16)


def settings_for(model: Path, **changes: object) -> TextSettings:
    values = {"model": str(model), "dtype": "fp32", "num_actors": 2, **changes}
    return TextSettings.model_validate(values)


def make_texts(items: int, users: int) -> Texts:
    return Texts(
        [f"space war {i}" if i % 7 else None for i in range(items)],
        [f"a person who liked: love story {i}; king {i}" for i in range(users)],
    )


def assert_whole(
    path: Path, texts: Texts, settings: TextSettings, adapter: Path | None = None
) -> None:
    """Every row equals the model's own answer for that row's text, so none is lost, doubled or
    shifted.
    """
    store = TextStore.open(path)
    store.verify()
    encoder = TextEncoder.load(settings, adapter=adapter)
    for side, rows in (("items", texts.items), ("users", texts.users)):
        stored = store.read_all(side)
        assert stored.shape == (len(rows), WIDTH)
        present = [row for row, text in enumerate(rows) if text is not None]
        expected = encoder.encode([str(rows[row]) for row in present], 96)
        np.testing.assert_allclose(stored[present].astype(np.float32), expected, atol=4e-3)
        assert np.isnan(np.delete(stored, present, axis=0)).all()


def test_embeds_once_then_only_what_changed_or_was_damaged(model: Path, tmp_path: Path) -> None:
    settings, texts = settings_for(model), make_texts(60, 40)
    progress: list[tuple[int, int]] = []
    first = embed_texts(
        texts, settings, tmp_path, on_progress=lambda done, total: progress.append((done, total))
    )
    assert (first.embedded, first.total, first.skipped_shards) == (texts.count, texts.count, 0)
    assert len(progress) == 7
    assert progress[-1] == (texts.count, texts.count)
    assert_whole(first.path, texts, settings)
    assert first.path.parent == tmp_path / "text"

    second = embed_texts(texts, settings, tmp_path)
    assert (second.embedded, second.total, second.skipped_shards) == (0, texts.count, 7)

    store = TextStore.open(first.path)
    data = bytearray(store.shard_file("items", 2).read_bytes())
    data[100] ^= 1
    store.shard_file("items", 2).write_bytes(data)
    store.shard_file("users", 1).unlink()
    third = embed_texts(texts, settings_for(model, num_actors=1), tmp_path)
    assert (third.path, third.skipped_shards) == (first.path, 5)
    assert_whole(third.path, texts, settings)

    changed = Texts([*texts.items[:3], "thriller night", *texts.items[4:]], texts.users)
    fourth = embed_texts(changed, settings_for(model, num_actors=1), tmp_path)
    assert (fourth.embedded, fourth.skipped_shards) == (
        sum(t is not None for t in changed.items[:16]),
        6,
    )
    assert fourth.path != first.path
    assert_whole(fourth.path, changed, settings)
    assert_whole(first.path, texts, settings)  # whoever trains on the old texts still can


def kill_actors(limit: int, title: str = "ray::EmbedActor") -> int:
    """SIGKILLs at most `limit` processes of this test's cluster by the title that Ray gives them.

    A worker's title is "ray::EmbedActor", and "ray::EmbedActor.embed" while it has a shard.
    Returns their number.
    """
    killed = 0
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or killed == limit:
            continue
        try:
            name = (directory / "cmdline").read_bytes()
            if name.startswith(title.encode()) and os.getpid() in ancestors(int(directory.name)):
                os.kill(int(directory.name), signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError):
            continue
    return killed


def ancestors(pid: int) -> list[int]:
    out = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        out.append(pid)
    return out


@pytest.mark.parametrize("shards_at_once", [1, 2])
def test_sigkill_of_a_worker_loses_no_row_and_doubles_none(
    shards_at_once: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards at once are what a worker on a GPU has."""
    monkeypatch.setitem(SHARDS_AT_ONCE, "cpu", shards_at_once)
    settings, texts = settings_for(model), make_texts(160, 80)
    killed: list[int] = []
    done: list[int] = []

    def on_progress(embedded: int, total: int) -> None:
        done.append(embedded)
        if len(killed) < 2 and len(done) in (2, 8):
            killed.append(kill_actors(limit=1))

    report = embed_texts(texts, settings, tmp_path, on_progress=on_progress)
    assert killed == [1, 1]
    assert len(done) == 15
    assert done[-1] == report.embedded == texts.count
    assert_whole(report.path, texts, settings)
    assert embed_texts(texts, settings, tmp_path).embedded == 0


def test_a_shard_that_kills_every_worker_ends_in_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmind_dist.text.pool.MAX_RETRIES", 1)
    settings = settings_for(model, num_actors=1)
    stop = threading.Event()

    def hunt() -> None:
        while not stop.is_set():
            kill_actors(limit=2, title="ray::EmbedActor.embed")  # not while it starts
            time.sleep(0.05)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        with pytest.raises(
            TextError, match=r"shard 0 of items: 2 workers died on it: lower text\.max_tokens"
        ):
            embed_texts(make_texts(10, 0), settings, tmp_path)
    finally:
        stop.set()
        hunter.join()


def test_nan_vectors_reject_the_shard_and_resume_keeps_the_good_ones(
    model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    tokenizer = TextEncoder.load(settings_for(model)).tokenizer
    weights["embeddings.word_embeddings.weight"][tokenizer.convert_tokens_to_ids("queen")] = float(
        "nan"
    )
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    settings = settings_for(broken, num_actors=1)
    texts = Texts(["king"] * 16 + ["day"] * 4 + ["a queen"] + ["day"] * 11, [])
    with pytest.raises(
        TextError, match=r"the vector of row 20 of items is not finite \(text 'a queen'\)"
    ):
        embed_texts(texts, settings, tmp_path)
    mended = Texts([text if text != "a queen" else "day" for text in texts.items], [])
    path = store_path(mended, settings, tmp_path)
    make_store(mended, settings, path)
    jobs, num_shards = plan_shards(mended, settings, path)
    assert ([(job.side, job.shard) for job in jobs], num_shards) == ([("items", 1)], 2)


@contextmanager
def in_use_by_others(cpus: int) -> Iterator[None]:
    """Reserves CPUs of the cluster inside the block."""
    taken = placement_group([{"CPU": 1}] * cpus)
    try:
        assert taken.wait(100)
        yield
    finally:
        remove_placement_group(taken)


def test_more_workers_than_the_cluster_has_room_for_wait_for_nothing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process holds one of two CPUs; eight workers are wanted and one does all."""
    texts = make_texts(60, 0)
    with in_use_by_others(cpus=1):
        assert (
            embed_texts(texts, settings_for(model, num_actors=8), tmp_path).embedded == texts.count
        )
    assert "text.num_actors: 8 lowered to 2: the cluster has no room for more" in caplog.messages


def test_an_extraction_that_finds_no_room_ends_in_a_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmind_dist.text.pool.START_S", 0.5)
    sentence = r"no worker has started within 0\.5 s: the cluster has no free CPU"
    with in_use_by_others(cpus=2), pytest.raises(TextError, match=sentence):
        embed_texts(make_texts(4, 0), settings_for(model), tmp_path)


def test_an_error_of_another_program_is_reported_by_its_first_cause(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            """Needs nothing."""

        def node(self) -> str:
            """Is up."""
            return ""

        def embed(self, job: object) -> None:
            raise RuntimeError(
                "CUDA error: invalid device ordinal\nCompile with `TORCH_USE_CUDA_DSA`."
            )

    monkeypatch.setattr("recmind_dist.text.pool.EmbedActor", Failing)
    sentence = (
        r"^shard 0 of items failed: RuntimeError: CUDA error: invalid device ordinal: mend that"
    )
    with pytest.raises(TextError, match=sentence):
        embed_texts(make_texts(4, 0), settings_for(model, num_actors=1), tmp_path)


def test_a_model_that_cannot_be_loaded_reaches_the_caller_as_its_sentence(
    model: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in model.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(TextError, match=r"torn cannot be loaded .*fetch the model again"):
        embed_texts(make_texts(4, 0), settings_for(torn, num_actors=1), tmp_path)


def test_an_adapter_has_a_store_of_its_own_with_its_own_vectors(
    model: Path, tmp_path: Path
) -> None:
    settings, texts = settings_for(model, num_actors=1), make_texts(16, 0)
    lora = LoraSettings(r=4)
    encoder = TextEncoder.load(settings)
    encoder.add_lora(lora)
    state = {
        name: torch.ones_like(t) * 0.05 if "lora_B" in name else t
        for name, t in encoder.lora_state().items()
    }
    save_adapter(tmp_path / "adapter", state, lora)
    tuned = embed_texts(texts, settings, tmp_path, adapter=tmp_path / "adapter")
    assert tuned.path != store_path(texts, settings, tmp_path)
    assert tuned.embedded == texts.count
    assert_whole(tuned.path, texts, settings, adapter=tmp_path / "adapter")
    plain = TextEncoder.load(settings).encode([str(text) for text in texts.items[1:7]], 64)
    assert np.abs(TextStore.open(tuned.path).read_all("items")[1:7] - plain).max() > 1e-2
