"""One flipped bit in every file of a run and of the stores it was made from, one at a time.

Each is found by `recmind doctor`, or harms nothing; and none is read in silence: what reads the
file refuses it, says that it is damaged, or comes to the very same result. Then everything is
damaged at once, and mended.
"""

import json
import logging
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from recmind_dist.checkpoint import find_checkpoint
from recmind_dist.cli import main
from recmind_dist.distributed.context import DistContext
from recmind_dist.doctor.examine import examine
from recmind_dist.errors import RecmindError
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.train import fit, prepare_texts
from recmind_dist.recommend.recommender import load
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import atomic_directory, write_manifest
from recmind_dist.text import (
    TextEncoder,
    Texts,
    TextStore,
    load_adapter,
    make_store,
    plan_shards,
    store_path,
)
from recmind_dist.text.embed_actor import embed_shard
from recmind_dist.training.finished_run import read_inputs, read_run
from recmind_dist.training.run_stores import RunStores
from tests.processes import run_ranks
from tests.shop import make_shop, recmind
from tests.tiny_language_model import make_bert

CHANGES = [
    "scaling.num_workers=1",
    "train.epochs=2",
    "evaluation.ks=[5, 20]",
]
# of 32, so that whitening that is fitted again must know of it
CHANGES += ["model.text_components=24"]
HARMLESS = (".lock", "logs/*", "*.done.json", "ledger/*.json")
"""What no command reads again: who holds a lock, logs for people, a rank's word to others that
COMMIT has made void.
Of a ledger, the content key of a shard of the untouched model: it only decides whether the shard is
embedded again."""

pytestmark = pytest.mark.timeout(1800)


def all_make_run(home: Path) -> None:
    """A whole run on one rank, without Ray: real data, real language model, warm-up with adapters,
    joint, evaluation.
    """
    os.chdir(home)
    config = load_run_config(home / "shop.yaml", CHANGES).absolute()
    trainer = Pipeline(config, lambda line: None)
    prepared = prepare_texts(config, trainer.prepare())
    assert prepared.texts is not None
    texts = prepared.texts
    embed_here(config, texts, None)

    def train(
        config: RunConfig, inputs: RunStores, phases: tuple[str, ...], resume: str, mismatch: bool
    ) -> None:
        from recmind_dist.training.trainer import Trainer

        context, run = DistContext.join_group(torch.device("cpu")), RunDirectory(config.run_dir)
        run.create()
        Trainer(
            config, inputs, context, run, uuid.uuid4().hex, lambda _: None, resume, mismatch
        ).train(phases)
        if "joint" not in phases:
            embed_here(config, texts, config.run_dir / "adapter")

    with trainer.directory.lock():
        fit(config, prepared, lambda line: None, train=train)
        trainer.evaluate()
    # as any writer of such a directory does
    with atomic_directory(config.run_dir / "exports" / "vectors") as export:
        shutil.copy(config.run_dir / "whitening.safetensors", export / "vectors.safetensors")
        write_manifest(export, "export", 1, {"made_of": "a test"})


def embed_here(config: RunConfig, texts: Texts, adapter: Path | None) -> None:
    """What the pool's actors do, in this process."""
    path = store_path(texts, config.text, config.cache_dir / config.dataset.name, adapter)
    make_store(texts, config.text, path, adapter)
    encoder = TextEncoder.load(config.text, "cpu", adapter)
    for job in plan_shards(texts, config.text, path, adapter)[0]:
        embed_shard(encoder, TextStore.open(path), job)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a finished run: both phases, adapters, user texts, the newest checkpoints and the
    best.
    """
    home = tmp_path_factory.mktemp("shop")
    make_shop(home)
    make_bert(home / "bert")
    run_ranks(all_make_run, 1, home, timeout_s=600)
    return home


def run_of(home: Path) -> Path:
    return home / "runs" / "shop"


def files_of(home: Path) -> list[Path]:
    """Every file of the run directory and of the data set, the graph and the text stores in the
    cache.
    """
    places = (run_of(home), home / "cache")
    return sorted(
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and path.stat().st_size
    )


def flip(path: Path, bit: int) -> None:
    """In place, as a disk does it: a hard link of the file is damaged too."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


def loaded(home: Path) -> dict[str, Any]:
    """What commands read of a run, as plain data. Whatever cannot be read stands as the error that
    says so.
    """
    run = RunDirectory(run_of(home))
    readers = {
        "config": lambda: read_run(run.path)[1].model_dump(mode="json"),
        "inputs": lambda: read_inputs(run).to_json(),
        "results": run.read_results,
        "adapter": lambda: [
            (name, value.tolist())
            for name, value in sorted(load_adapter(run.path / "adapter")[1].items())
        ],
        "last": lambda: _checkpoint(run),
        "recommendations": lambda: _recommended(run),
        "metrics": lambda: list(read_metrics(run.metrics)),
    }
    found: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except RecmindError as error:
            found[name] = error
    return found


def _checkpoint(run: RunDirectory) -> Any:
    found = find_checkpoint(run.checkpoints)
    assert found is not None
    tensors = [*found.rows(0, found.num_rows).items(), *found.dense().items()]
    return found.name, found.info, [(name, zlib.crc32(t.numpy().tobytes())) for name, t in tensors]


def _recommended(run: RunDirectory) -> Any:
    recommender = load(run.path)
    vectors = recommender.bundle.item_vectors
    return zlib.crc32(vectors.tobytes()), recommender.recommend("u0", 5)


def silent_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Parts that were read without an error, and give something else than before."""
    return [
        name
        for name, value in now.items()
        if not isinstance(value, RecmindError)
        and value != before[name]
        # of the log, damaged lines are skipped and named
        and not (name == "metrics" and all(line in before[name] for line in value))
    ]


@pytest.mark.chaos_slow
def test_every_flipped_bit_is_found_or_harmless_and_none_is_read_in_silence(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert examine(run_of(home)).findings == []
    before = loaded(home)
    assert not [value for value in before.values() if isinstance(value, RecmindError)]
    harmless, missed = [], []
    files = files_of(home)
    names = {path.name for path in files}
    expected = {
        "config.yaml",
        "inputs.json",
        "results.json",
        "per_user.parquet",
        "metrics.jsonl",
        "texts.arrow",
        "SHA256SUMS",
    }
    expected |= {
        "whitening.safetensors",
        "adapter.safetensors",
        "vectors.safetensors",
        "COMMIT",
        "dense.safetensors",
    }
    expected |= {
        "rows-00000.safetensors",
        "indptr.npy",
        "interactions.parquet",
        "store.json",
        "zarr.json",
        "0",
    }
    assert expected <= names, expected - names
    assert any(path.parent.name == "ledger" for path in files)
    for path in files:
        size = path.stat().st_size
        # the middle, and a place drawn from the name
        for where in (0.5, zlib.crc32(path.name.encode()) / 2**32):
            bit = int(8 * size * where)
            name = str(path.relative_to(home))
            caplog.clear()
            flip(path, bit)
            try:
                found = examine(run_of(home))
                with caplog.at_level(logging.WARNING):
                    now = loaded(home)
            finally:
                flip(path, bit)
            silent = silent_differences(before, now)
            # a damaged checkpoint is passed over, with a warning that names it
            assert not silent or path.parent.name in caplog.text, (
                f"bit {bit} of {name}: {silent} read in silence"
            )
            if not found.findings:
                assert not silent
                harmless.append(name)
                if not any(Path(name).match(pattern) or "/logs/" in name for pattern in HARMLESS):
                    missed.append(f"{name}, bit {bit} of {8 * size}")
    print(
        f"{len(files)} files, two bits of each: {2 * len(files) - len(harmless)} found, "
        f"{len(harmless)} harmless"
    )
    assert len(harmless) < len(files)
    assert missed == []
    assert examine(run_of(home)).findings == []


def doctor(home: Path, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and output of `recmind doctor RUN …`."""
    code = 0
    try:
        main(["doctor", str(run_of(home)), *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capfd.readouterr().out


def test_everything_damaged_at_once_is_named_and_mended(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ray_home: Path
) -> None:
    monkeypatch.chdir(home)
    assert doctor(home, capfd)[0] == 0
    before, run = loaded(home), run_of(home)
    graph = read_inputs(RunDirectory(run)).graph
    [dataset] = (home / "cache" / "shop").glob("dataset-*")
    names = (
        "config.yaml",
        "inputs.json",
        "whitening.safetensors",
        "texts.arrow",
        "results.json",
        "SHA256SUMS",
    )
    damaged = [run / name for name in names] + [
        graph / "indices.npy",
        dataset / "interactions.parquet",
    ]
    for path in damaged:
        flip(path, 4 * path.stat().st_size)
    code, said = doctor(home, capfd)
    assert code == 2
    for path in damaged[:-1]:
        assert path.name in said
    # in a process of its own: in this one, after other tests, sums may round otherwise
    mended = recmind(["doctor", str(run), "--repair"], home, ray_home, timeout_s=600)
    assert mended.returncode == 0, mended.stdout
    assert "fitted again, the same bytes" in mended.stdout
    assert doctor(home, capfd)[0] == 0
    assert silent_differences(before, loaded(home)) == []


def test_a_damaged_checkpoint_is_removed_only_if_another_is_good(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    checkpoints = run_of(home) / "checkpoints"
    kept = checkpoints.with_name("kept")
    shutil.copytree(checkpoints, kept)
    names = sorted(path.name for path in checkpoints.iterdir())
    assert len(names) >= 2
    for name in names:
        flip(checkpoints / name / "dense.safetensors", 8 * 2000)
    code, said = doctor(home, capfd, "--repair")
    assert code == 2
    assert "no other is good" in said
    assert sorted(path.name for path in checkpoints.iterdir()) == names
    flip(checkpoints / names[0] / "dense.safetensors", 8 * 2000)
    code, said = doctor(home, capfd, "--repair")
    assert code == 0, said
    assert [path.name for path in checkpoints.iterdir()] == names[:1]
    shutil.rmtree(checkpoints)
    kept.rename(checkpoints)


def test_what_cannot_be_rebuilt_is_said_so(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = run_of(home) / "adapter" / "adapter.safetensors"
    flip(tensors, 4 * tensors.stat().st_size)
    code, said = doctor(home, capfd, "--repair")
    flip(tensors, 4 * tensors.stat().st_size)
    assert code == 2
    assert "cannot be rebuilt" in said


def test_damaged_lines_of_the_log_are_moved_out(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = run_of(home) / "metrics.jsonl"
    count = len(metrics.read_bytes().splitlines())
    flip(metrics, 8 * 30)
    assert doctor(home, capfd, "--repair")[0] == 0
    lines = metrics.read_bytes().splitlines()
    assert len(lines) == count - 1
    assert all(json.loads(line)["crc32"] for line in lines)
    assert len((run_of(home) / "logs" / "metrics-damaged.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.chaos_slow
def test_of_the_text_vectors_only_damaged_shards_are_made_again(home: Path, ray_home: Path) -> None:
    before, text = loaded(home), read_inputs(RunDirectory(run_of(home))).text
    assert text is not None
    shards = sorted(text.glob("*/c/*/0"))
    flip(shards[-1], 4 * shards[-1].stat().st_size)
    times = [path.stat().st_mtime_ns for path in shards]
    assert recmind(["doctor", "runs/shop"], home, ray_home).returncode == 2
    mended = recmind(["doctor", "runs/shop", "--repair"], home, ray_home, timeout_s=600)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert [path.stat().st_mtime_ns > then for path, then in zip(shards, times, strict=True)] == [
        path == shards[-1] for path in shards
    ]
    assert silent_differences(before, loaded(home)) == []
