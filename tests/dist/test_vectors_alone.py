"""A log without any text: item vectors learn alone, from training to a bundle, an update, a repair.

No language model is anywhere near: the config leaves `text.model` at a directory that is not there.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmind_dist.doctor.examine import examine
from recmind_dist.doctor.repair import repair
from recmind_dist.errors import ConfigError, DataError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.update import update_run
from recmind_dist.recommend.recommender import load
from recmind_dist.recommend.text_query import TextQuery
from recmind_dist.recommend.upsert import upsert
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.finished_run import read_inputs, read_run
from tests.processes import run_ranks

USERS, ITEMS, EVENTS = 60, 30, 8
CONFIG = """
run_dir: runs/x
dataset: {name: shop, interactions: log.csv}
text: {model: nowhere}
model: {embedding_dim: 8, projection_hidden_dim: 4}
sampler: {negatives: {num_shared: 8}}
train: {epochs: 4}
evaluation: {ks: [5]}
checkpoint: {keep_last: 1}
"""


def silent(line: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of users who like a half of the items each, and a run on their log."""
    home = tmp_path_factory.mktemp("alone")
    rng, half = np.random.default_rng(0), ITEMS // 2
    rows = [
        (f"u{u:02}", f"i{u % 2 * half + i:02}", 1_700_000_000 + USERS * k + u)
        for u in range(USERS)
        for k, i in enumerate(rng.permutation(half)[:EVENTS])
    ]
    write_log(home / "log.csv", rows)
    write_log(home / "new.csv", [(f"u{u:02}", "i-new", 1_800_000_000 + u) for u in (1, 3, 5)])
    (home / "cfg.yaml").write_text(CONFIG)
    run_ranks(first_run, 1, home)
    return home


def write_log(path: Path, rows: list[tuple[str, str, int]]) -> None:
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(path)


def config_of(home: Path) -> RunConfig:
    config = load_run_config(home / "cfg.yaml").model_dump(mode="json")
    config["dataset"]["interactions"]["path"] = str(home / "log.csv")
    config |= {"run_dir": str(home / "runs/x"), "cache_dir": str(home / "cache")}
    return RunConfig.model_validate(config)


def first_run(home: Path) -> None:
    said: list[str] = []
    run = train_in_process(config_of(home), said.append)
    Pipeline.of_run(run.path, silent).evaluate()
    (run.path / "said.txt").write_text("\n".join(said))


def vectors_of(run: Path) -> dict[str, np.ndarray]:
    inputs = read_inputs(RunDirectory(run))
    assert inputs.text == run / "item_vectors"
    ids = Graph.open(inputs.graph).item_ids
    return dict(zip(ids, TextStore.open(inputs.text).read_all("items"), strict=True))


def test_items_of_the_same_users_learn_vectors_that_are_alike(home: Path) -> None:
    run = home / "runs/x"
    said, config = (run / "said.txt").read_text(), read_run(run)[1]
    assert "graph alone: no item has a text; item vectors learn from the log instead" in said
    assert f"item vectors: {ITEMS} learnt from the log" in said
    assert isinstance(config.model, RecMindSettings)
    assert (config.model.item_offsets, config.model.views) == ("alone", "all")
    vectors = vectors_of(run)
    x = np.array([vectors[f"i{i:02}"] for i in range(ITEMS)], np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    group = np.arange(ITEMS) >= ITEMS // 2
    same = (group[:, None] == group) & ~np.eye(ITEMS, dtype=bool)
    assert (x @ x.T)[same].mean() > (x @ x.T)[group[:, None] != group].mean() + 0.05
    raw = TextStore.open(run / "item_vectors")
    assert raw.num_rows("users") == USERS
    assert np.isnan(raw.read_all("users")[:, 0]).all(), "users have no text"


def test_a_bundle_ranks_as_the_run_does_and_takes_items_in(home: Path, tmp_path: Path) -> None:
    run = home / "runs/x"
    Pipeline.of_run(run, silent).export(tmp_path / "bundle")
    bundle, of_run = load(tmp_path / "bundle"), load(run)
    for user in ("u00", "u01"):
        ours, theirs = bundle.recommend(user, 10), of_run.recommend(user, 10)
        assert [one.item_id for one in ours] == [one.item_id for one in theirs]
        np.testing.assert_allclose([r.score for r in ours], [r.score for r in theirs], atol=1e-5)
        assert set(ours[0].shares) == {"graph", "learnt_propagated", "learnt", "bias"}
        assert set(ours.gates) == {"graph", "learnt_propagated", "learnt"}
    history = bundle.recommend(history=["i00", "i01", "i02"], k=5)
    assert all(one.item_id < f"i{ITEMS // 2:02}" for one in history), history
    (tmp_path / "new.jsonl").write_text('{"id": "late", "title": "a space king"}\n')
    write_log(tmp_path / "theirs.csv", [(f"u{u:02}", "late", 1_900_000_000) for u in (0, 2, 4, 6)])
    upsert(bundle.bundle, tmp_path / "new.jsonl", tmp_path / "theirs.csv")
    found = load(tmp_path / "bundle").recommend("u08", ITEMS + 1)
    assert "late" in {one.item_id for one in found}
    assert all(np.isfinite(one.score) for one in found)
    with pytest.raises(DataError, match="reads no texts"):
        TextQuery(bundle.bundle)


def test_an_item_of_which_nothing_is_known_is_no_favourite(home: Path, tmp_path: Path) -> None:
    Pipeline.of_run(home / "runs/x", silent).export(tmp_path / "bundle")
    bundle = load(tmp_path / "bundle").bundle
    (tmp_path / "new.jsonl").write_text('{"id": "unknown", "title": "a space king"}\n')
    done = upsert(bundle, tmp_path / "new.jsonl", to=tmp_path / "more")
    assert not done.unknown_fields
    assert load(tmp_path / "more").bundle.titles[-1] == "a space king"
    more, degree = load(tmp_path / "more").bundle, bundle.states["degree"]
    assert degree.min() > 0
    bias = more.item_vectors[more.item_position["unknown"], -1]
    assert bias <= bundle.item_vectors[degree == degree.min(), -1].mean() + 1e-6


def updated(home: Path) -> tuple[dict[str, Any], list[str]]:
    """For `run_ranks`: the report of an update with a text, and what it said."""
    said: list[str] = []
    x, y, items = home / "runs/x", home / "runs/y", home / "new.jsonl"
    items.write_text('{"id": "i-new", "title": "a space king"}\n')
    made = update_run(x, y, [home / "new.csv"], [items], say=said.append, train=train_in_process)
    return asdict(made), said


def test_an_update_keeps_what_items_have_learnt(home: Path) -> None:
    [(report, said)] = run_ranks(updated, 1, home)
    assert any("no text of it is read" in line for line in said), said
    assert (report["new_users"], report["new_items"]) == (0, 1)
    before, now = vectors_of(home / "runs/x"), vectors_of(home / "runs/y")
    for name, vector in before.items():
        np.testing.assert_array_equal(now[name], vector, err_msg=name)
    assert "i-new" in {one.item_id for one in load(home / "runs/y").recommend("u07", ITEMS + 1)}


def mended(run: Path) -> tuple[list[str], list[str]]:
    """For `run_ranks`: what is found before and after a repair."""
    before = [finding.fault for finding in examine(run).findings]
    return before, [finding.fault for finding in repair(run, silent).findings]


def trained_over_another(home: Path) -> np.ndarray:
    """For `run_ranks`: the map of a run in a directory where one with texts has been."""
    config = config_of(home).model_copy(update={"run_dir": home / "runs/z"})
    config.run_dir.mkdir()
    mean, matrix = np.ones(384, np.float32), 2 * np.eye(384, dtype=np.float32)
    sides = ("items", "users")
    Whitening(dict.fromkeys(sides, mean), dict.fromkeys(sides, matrix)).save(
        config.run_dir / "whitening.safetensors"
    )
    run = train_in_process(config, silent, resume="never")
    return Whitening.load(run.path / "whitening.safetensors").matrix["items"]


def test_the_map_of_a_run_with_texts_is_not_kept(home: Path) -> None:
    [matrix] = run_ranks(trained_over_another, 1, home)
    np.testing.assert_array_equal(matrix, np.eye(384))


def test_a_run_by_texts_alone_is_refused(home: Path) -> None:
    config = load_run_config(home / "cfg.yaml", ["run_dir=runs/t"], "text_only")
    plain = config.model_dump(mode="json") | {"cache_dir": str(home / "cache")}
    plain["dataset"]["interactions"]["path"] = str(home / "log.csv")
    with pytest.raises(ConfigError, match="text_only ranks by item texts"):
        Pipeline(RunConfig.model_validate(plain), silent).evaluate()


def test_damaged_vectors_are_refused_with_what_mends_them(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "x"
    shutil.copytree(home / "runs/x", run)
    [told] = run_ranks(refusal_of_damaged, 1, run)
    assert f"run `recmind doctor {run} --repair`" in told


def refusal_of_damaged(run: Path) -> str:
    """For `run_ranks`."""
    file = TextStore.open(run / "item_vectors").shard_file("items", 0)
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    config = read_run(run)[1].model_copy(update={"run_dir": run})
    try:
        train_in_process(config, silent)
        Pipeline(config, silent).evaluate()
    except StoreError as error:
        return str(error)
    return "nothing refused"


@pytest.mark.parametrize("damaged", ["vectors", "whitening"])
def test_damage_is_found_and_mended(home: Path, tmp_path: Path, damaged: str) -> None:
    run = tmp_path / "x"
    shutil.copytree(home / "runs/x", run)
    file = TextStore.open(run / "item_vectors").shard_file("items", 0)
    if damaged == "whitening":
        file = run / "whitening.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    [(before, after)] = run_ranks(mended, 1, run)
    assert len(before) == 1
    assert not after
    assert file.read_bytes() == whole
    np.testing.assert_array_equal(
        Whitening.load(run / "whitening.safetensors").apply("items", np.eye(384, dtype=np.float32)),
        np.eye(384, dtype=np.float32),
    )
