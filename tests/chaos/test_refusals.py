"""Damage, foreign files and contradictions that a run meets at its start: named, stepped over, or
refused; never in silence.
"""

import hashlib
import json
import pickle  # noqa: TID251 (to build what must be refused)
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST, attempt_directories, rows_file
from recmind_dist.checkpoint.manifest import SCHEMA
from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.cli import main
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.load import load_run_config
from recmind_dist.storage import write_sealed_json
from recmind_dist.storage.remote import Remote
from recmind_dist.training.run_stores import RunStores
from tests.chaos.conftest import chaos_config
from tests.chaos.group import Group, assert_same, run_to_end
from tests.processes import run_ranks
from tests.shop import make_shop
from tests.training_runs import train_rank

OVERRIDES = [
    "variant=lightgcn",
    "scaling.num_workers=1",
    "train.epochs=1",
    "evaluation.norm_exponent=0",
]


@dataclass(frozen=True)
class Shop:
    """A directory with data, shop.yaml, and in runs/shop a trained run that commands find."""

    home: Path
    fails: Callable[..., str]

    @property
    def checkpoints(self) -> Path:
        return self.home / "runs" / "shop" / "checkpoints"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose run was trained by the real worker, in a process without Ray."""
    home = tmp_path_factory.mktemp("trained")
    config = chosen(make_shop(home))
    inputs = RunStores(Pipeline(config).prepare().absolute())
    run_to_end(config.absolute(), inputs, starts=1, world_size=1)
    # as the driver leaves them
    RunDirectory(config.run_dir).write_config(config.absolute().model_dump(mode="json"))
    write_sealed_json(config.run_dir / "inputs.json", inputs.to_json())
    return home


def chosen(path: Path) -> Any:
    """shop.yaml with the overrides of these tests and paths that hold anywhere."""
    here = [f"run_dir={path.parent}/runs/shop", f"cache_dir={path.parent}/cache"]
    files = [
        f"dataset.interactions.path={path.parent}/log.csv",
        f"dataset.items.path={path.parent}/things.jsonl",
    ]
    return load_run_config(
        path, [*OVERRIDES, *here, *files, f"dataset.users.path={path.parent}/people.parquet"]
    )


@pytest.fixture
def shop(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Shop:
    """A copy of the trained shop as current directory, in a process whose Ray cannot start."""
    home = tmp_path / "shop"
    shutil.copytree(trained, home)
    monkeypatch.chdir(home)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))

    def fails(*words: str, code: int = 2) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        said = capfd.readouterr().err
        assert stop.value.code == code, said
        assert "Traceback" not in said
        [sentence] = [line for line in said.splitlines() if line.startswith("error: ")]
        return sentence.removeprefix("error: ")

    return Shop(home, fails)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 16
    file.write_bytes(data)


SHARD_DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_row_09_a_damaged_shard_is_named_and_the_run_goes_on_from_the_checkpoint_before(
    home: Path, inputs: RunStores, calm: Path, damage: str
) -> None:
    config = chaos_config(home, f"row-09-{damage}")
    fault = {
        "point": "step",
        "rank": 0,
        "step": 14,
        "action": "kill",
        "once": f"{config.run_dir}.killed",
    }
    assert not Group(config, inputs, faults=[fault]).wait()
    newest = find_checkpoint(config.run_dir / "checkpoints")
    assert newest is not None
    file = newest.path / (DENSE if damage == "flipped" else rows_file(1))
    SHARD_DAMAGE[damage](file)
    run_to_end(config, inputs, [fault], starts=1)
    starts = [
        entry["steps_done"] for entry in read_metrics(config.run_dir / "metrics.jsonl", "start")
    ]
    assert starts == [0, newest.step - 4]
    warnings = [
        entry["message"] for entry in read_metrics(config.run_dir / "metrics.jsonl", "warning")
    ]
    assert any(str(file) in message for message in warnings), warnings
    assert_same(config.run_dir, calm)


@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_row_09_where_nothing_good_is_left_the_command_fails_and_names_the_file(
    shop: Shop, damage: str
) -> None:
    for path in attempt_directories(shop.checkpoints):
        SHARD_DAMAGE[damage](path / rows_file(0))
    said = shop.fails("train", "shop.yaml", *OVERRIDES)
    assert "checkpoint(s), none is good: " in said
    assert rows_file(0) in said


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (b"\0garbage", "not JSON: the file is damaged"),
        (
            b'{"kind": "checkpoint", "schema": 99}',
            f"schema version 99, this program reads {SCHEMA}: use the version that wrote",
        ),
        (
            b'{"kind": "checkpoint", "schema": "x"}',
            f"schema version 'x', this program reads {SCHEMA}",
        ),
    ],
    ids=["garbage", "newer", "no number"],
)
def test_row_10_a_garbage_or_newer_manifest_is_refused_by_its_schema_version(
    shop: Shop, manifest: bytes, sentence: str
) -> None:
    for path in attempt_directories(shop.checkpoints):
        (path / MANIFEST).write_bytes(manifest)
        (path / COMMIT).write_text(hashlib.sha256(manifest).hexdigest())
    before = sorted(shop.checkpoints.rglob("*"))
    assert sentence in shop.fails("train", "shop.yaml", *OVERRIDES)
    assert sorted(shop.checkpoints.rglob("*")) == before, "what cannot be read was to be left alone"


def test_row_16_changed_settings_are_refused_with_the_difference(shop: Shop) -> None:
    said = shop.fails(
        "train", "shop.yaml", *OVERRIDES, "model.embedding_dim=8", "table.learning_rate=0.5"
    )
    assert "made under other settings: settings.model.embedding_dim: checkpoint 16, now 8" in said
    assert "settings.table.learning_rate: checkpoint 0.01, now 0.5" in said
    assert "--allow-mismatch" in said


@pytest.mark.parametrize(
    "change", ["model.embedding_dim=8", "table.learning_rate=0.5", "loss.regularization=0.1"]
)
def test_row_16_settings_that_an_ended_run_would_not_train_with_are_refused(
    shop: Shop, change: str
) -> None:
    before = contents(shop.checkpoints.parent)
    said = shop.fails("train", "shop.yaml", *OVERRIDES, change, "--allow-mismatch")
    assert f"other settings would train nothing: settings.{change.partition('=')[0]}: " in said
    assert "raise train.epochs" in said
    assert contents(shop.checkpoints.parent) == before


def test_row_16_a_changed_graph_is_refused_with_the_difference(shop: Shop) -> None:
    log = shop.home / "log.csv"
    log.write_text(log.read_text() + "u1,i77,2021-01-01T00:00:00,1,x\n")
    said = shop.fails("train", "shop.yaml", *OVERRIDES)
    assert "made under other settings: graph: checkpoint '" in said


def contents(folder: Path) -> dict[Path, bytes]:
    """Of every file but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("more", [[], ["--allow-mismatch"]])
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("u1,brand-new,2021-01-01T00:00:00,1,x\n", "1 new and 0 gone"),
        ("nobody-yet,i77,2021-01-01T00:00:00,1,x\n", "1 new and 0 gone"),
        ("nobody-yet,brand-new,2021-01-01T00:00:00,1,x\n", "2 new and 0 gone"),
    ],
)
def test_row_16_rows_never_go_to_other_ids_and_the_run_stays_as_it_was(
    shop: Shop, line: str, what: str, more: list[str]
) -> None:
    before = contents(shop.checkpoints.parent)
    log = shop.home / "log.csv"
    log.write_text(log.read_text() + line)
    said = shop.fails("train", "shop.yaml", *OVERRIDES, *more)
    assert f"users and items are not those that it was trained for ({what})" in said
    assert "`recmind update " in said
    assert contents(shop.checkpoints.parent) == before


def recommended(capfd: pytest.CaptureFixture[str]) -> str:
    main(["recommend", "runs/shop", "--user", "u1", "--k", "3"])
    return capfd.readouterr().out


def test_row_16_ids_that_are_gone_or_in_other_rows_are_refused_and_recommend_answers_as_before(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    before = recommended(capfd)
    assert before.count("\n") == 4
    log, people = shop.home / "log.csv", shop.home / "people.parquet"
    whole, everybody = log.read_text(), people.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = "".join(line for line in lines if ",i0," not in line)  # no item file has it either
    assert kept != whole
    users = pl.read_parquet(people)
    for text, trade, words, what in (
        (kept, users, [], "0 new and 1 gone"),
        (whole.replace(",i0,", ",j0,"), users, [], "1 new and 1 gone"),
        (whole, users.filter(pl.col("ref") != "u-new"), [], "0 new and 1 gone"),
        (whole, users, ["graph.partition=range"], "the same, in other rows"),
    ):
        log.write_text(text)
        trade.write_parquet(people)
        run = contents(shop.checkpoints.parent)
        said = shop.fails("train", "shop.yaml", *OVERRIDES, *words, "--allow-mismatch")
        assert f"users and items are not those that it was trained for ({what})" in said
        assert contents(shop.checkpoints.parent) == run
    log.write_text(whole)
    people.write_bytes(everybody)
    assert recommended(capfd) == before


def test_row_16_a_run_that_lives_in_storage_alone_keeps_its_rows(
    shop: Shop, tmp_path: Path
) -> None:
    run, uri = shop.checkpoints.parent, str(tmp_path / "storage")
    Mirror(Remote(uri), run).sync()
    shutil.rmtree(run)
    log = shop.home / "log.csv"
    log.write_text(log.read_text() + "nobody-yet,brand-new,2021-01-01T00:00:00,1,x\n")
    before = contents(Path(uri))
    said = shop.fails("train", "shop.yaml", *OVERRIDES, f"storage_uri={uri}", "--allow-mismatch")
    assert "users and items are not those that it was trained for (2 new and 0 gone)" in said
    assert contents(Path(uri)) == before


def test_row_16_changed_texts_are_refused_and_allow_mismatch_goes_on(
    home: Path, inputs: RunStores
) -> None:
    config = chaos_config(home, "row-16", train={"epochs": 1})
    run_ranks(train_rank, 1, config, inputs, "attempt0", ("warmup",))
    other = replace(inputs, texts_key="changed")
    refused = Group(config, other, world_size=1)
    assert not refused.wait()
    assert "CheckpointError: " in refused.error(0)
    assert "texts: checkpoint 'test', now 'changed'" in refused.error(0)
    assert Group(config, other, world_size=1, allow_mismatch=True).wait()
    starts = [
        entry["steps_done"] for entry in read_metrics(config.run_dir / "metrics.jsonl", "start")
    ]
    assert starts == [0, 6], "it was to go on, not to start over"


def test_row_17_a_second_run_on_one_directory_is_refused(shop: Shop) -> None:
    with RunDirectory(shop.home / "runs" / "shop").lock():
        for command in ("train", "run"):
            assert "runs/shop: in use by process " in shop.fails(command, "shop.yaml", *OVERRIDES)


def test_row_19_ten_thousand_malformed_rows_are_quarantined_by_line_or_an_error_past_the_threshold(
    shop: Shop,
) -> None:
    rng = np.random.default_rng(0)
    bad = {int(row) for row in rng.choice(100_000, 10_000, replace=False)}
    kinds = [
        ",i1,2021-01-01T00:00:00,1,x",
        "u1,i2,not a time,1,x",
        "u1,i2",
        'u1,"i2,2021-01-01T00:00:00,1,x',
    ]
    rows = [
        kinds[row % 4]
        if row in bad
        else f"u{row % 997},i{row % 89},{2000 + row % 20}-01-01T00:00:00,1,x"
        for row in range(100_000)
    ]
    (shop.home / "log.csv").write_text(
        "\n".join(["buyer_ref,sku,bought_at,qty,shop", *rows]) + "\n"
    )
    said = shop.fails("prepare", "shop.yaml", "cache_dir=other")
    assert said.startswith(f"log.csv:{min(bad) + 2}: "), said
    assert "more than dataset.max_bad_rows = 0 bad rows" in said
    assert "more than dataset.max_bad_rows = 9999 bad rows" in shop.fails(
        "prepare", "shop.yaml", "cache_dir=other", "dataset.max_bad_rows=9999"
    )
    main(["prepare", "shop.yaml", "cache_dir=other", "dataset.max_bad_rows=10000"])
    [quarantine] = shop.home.glob("other/shop/dataset-*/quarantine.jsonl")
    lines = [json.loads(line)["line"] for line in quarantine.read_text().splitlines()]
    assert sorted(lines) == [row + 2 for row in sorted(bad)]


@pytest.mark.parametrize(
    "text",
    ["model: !!python/object/apply:os.system ['touch owned']", "a: &x [*x]", "a: !x 1"],
    ids=["code", "anchor", "tag"],
)
def test_row_20_hostile_yaml_is_refused_and_runs_nothing(shop: Shop, text: str) -> None:
    (shop.home / "hostile.yaml").write_text((shop.home / "shop.yaml").read_text() + text + "\n")
    said = shop.fails("validate", "hostile.yaml")
    assert "hostile.yaml:" in said
    assert not (shop.home / "owned").exists()


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize("attack", ["path", "pickle", "pt"])
def test_row_20_a_hostile_checkpoint_is_refused_and_runs_nothing(shop: Shop, attack: str) -> None:
    for path in attempt_directories(shop.checkpoints):
        manifest = json.loads((path / MANIFEST).read_bytes())
        if attack == "path":
            manifest["files"]["../../../log.csv"] = manifest["files"].pop(rows_file(0))
        else:
            shard = path / rows_file(0)
            shard.write_bytes(pickle.dumps(Hostile()))
            if attack == "pt":
                torch.save({"weight": Hostile()}, shard)
            entry = {
                "bytes": shard.stat().st_size,
                "sha256": hashlib.sha256(shard.read_bytes()).hexdigest(),
            }
            manifest["files"][rows_file(0)] = entry
        data = json.dumps(manifest).encode()
        (path / MANIFEST).write_bytes(data)
        (path / COMMIT).write_text(hashlib.sha256(data).hexdigest())
    said = shop.fails("train", "shop.yaml", *OVERRIDES)
    assert "none is good: " in said
    assert ("files are" if attack == "path" else "not a safetensors file") in said
    assert not (shop.home / "owned").exists()


def test_row_21_resume_must_with_nothing_to_resume_is_an_error(shop: Shop) -> None:
    said = shop.fails("train", "shop.yaml", *OVERRIDES, "run_dir=runs/none", "--resume", "must")
    assert said.endswith(
        "runs/none/checkpoints: nothing to resume: start with --resume auto or never"
    )
    for path in attempt_directories(shop.checkpoints):
        (path / COMMIT).unlink()  # attempts that never came to be are nothing either
    said = shop.fails("train", "shop.yaml", *OVERRIDES, "--resume", "must")
    assert "nothing to resume" in said
