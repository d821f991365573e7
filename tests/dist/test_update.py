"""A finished run learns on: rows, weights and vectors by id into a longer log, and more epochs."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmind_dist.checkpoint.reader import Checkpoint, find_checkpoint
from recmind_dist.doctor.examine import examine
from recmind_dist.doctor.repair import repair
from recmind_dist.errors import ConfigError, DataError, RecmindError, StoreError
from recmind_dist.graph import Graph
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.pipeline.update import train_longer, update_run
from recmind_dist.pipeline.update_config import dataset_with
from recmind_dist.recommend.recommender import load
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, Whitening
from recmind_dist.training.finished_run import preferred_checkpoint, read_inputs, read_run
from recmind_dist.types import Say
from tests.processes import run_ranks
from tests.tiny_language_model import WORDS, make_bert
from tests.training_runs import embed_here, train_rank

USERS, ITEMS, EVENTS = 40, 24, 10
TEXTLESS = "i19"
CONFIG = """
run_dir: runs/x
dataset: {name: shop, interactions: log.csv, items: items.jsonl}
text: {model: bert, dtype: fp32}
model: {embedding_dim: 8, projection_hidden_dim: 4}
sampler: {negatives: {num_shared: 8}}
train: {batch_size: 80, epochs: 4}
evaluation: {ks: [5], metric: ndcg@5}
checkpoint: {keep_last: 50}
"""


def words_of(item: int) -> str:
    return f"{WORDS[item % 16]} {WORDS[item * 7 % 16]} {item % 10}"


def write_log(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(path)
    return path


def write_items(path: Path, items: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "title": t}) + "\n" for i, t in items.items()))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a finished run, and tomorrow's log: a user and an item whose ids come first."""
    home = tmp_path_factory.mktemp("update")
    make_bert(home / "bert")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u:02}", f"i{i:02}", 1_700_000_000 + 60 * (USERS * k + u))
        for u in range(USERS)
        for k, i in enumerate(rng.permutation(ITEMS)[:EVENTS])
    ]
    write_log(home / "log.csv", rows)
    texts = {f"i{i:02}": words_of(i) for i in range(ITEMS)}
    del texts[TEXTLESS]
    write_items(home / "items.jsonl", texts)
    seen = {(user, item) for user, item, _ in rows}
    newer = [("a-new", "i03"), ("a-new", "a-new"), ("u05", "a-new")]
    newer += [("u07", next(i for i in ("i00", "i01", "i02", "i03") if ("u07", i) not in seen))]
    new = [(user, item, 1_800_000_000 + t) for t, (user, item) in enumerate(newer)]
    write_log(home / "new.csv", new)
    write_items(home / "new-items.jsonl", {"a-new": "a new king"})
    (home / "cfg.yaml").write_text(CONFIG)
    run_ranks(first_run, 1, home)
    return home


def config_of(home: Path, *overrides: str) -> RunConfig:
    config = load_run_config(home / "cfg.yaml", list(overrides))
    plain = config.model_dump(mode="json")
    plain["dataset"]["interactions"]["path"] = str(home / "log.csv")
    plain["dataset"]["items"]["path"] = str(home / "items.jsonl")
    plain["text"]["model"] = str(home / "bert")
    plain |= {"run_dir": str(home / plain["run_dir"]), "cache_dir": str(home / "cache")}
    return RunConfig.model_validate(plain)


def train_here(config: RunConfig, say: Say) -> None:
    from recmind_dist.pipeline.in_process import train_in_process

    embed_here(config)
    train_in_process(config, say)


def first_run(home: Path) -> None:
    train_here(config_of(home), silent)


def updated(home: Path, to: str, **more: Any) -> dict[str, Any]:
    """For `run_ranks`: the report of an update."""
    overrides = ["train.epochs=2"]
    files = [home / "new.csv"], [home / "new-items.jsonl"]
    report = update_run(
        home / "runs/x", home / to, *files, overrides, say=silent, train=train_here, **more
    )
    return asdict(report)


def evaluated_by_its_file(home: Path) -> dict[str, Any]:
    """For `run_ranks`."""
    from recmind_dist.pipeline.run import Pipeline

    return Pipeline(config_of(home), silent).evaluate()


def test_a_config_with_open_keys_evaluates_its_run(home: Path) -> None:
    [found] = run_ranks(evaluated_by_its_file, 1, home)
    assert 0 < found["metrics"]["recall@5"] <= 1


def silent(line: Any) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = run_ranks(updated, 1, home, "runs/y")[0]
    return found


def by_id(checkpoint: Checkpoint, graph: Graph) -> dict[str, np.ndarray]:
    """Row and optimizer state of every node, by external id."""
    rows = checkpoint.rows(0, checkpoint.num_rows)
    flat = np.concatenate(
        [rows[name].numpy().reshape(len(rows[name]), -1) for name in sorted(rows)], 1
    )
    ids = [*(f"user {i}" for i in graph.user_ids), *(f"item {i}" for i in graph.item_ids)]
    return {name: flat[graph.row_of_node[node]] for node, name in enumerate(ids)}


def graph_of(run: Path) -> Graph:
    return Graph.open(read_inputs(RunDirectory(run)).graph)


def checkpoint_of(run: Path, which: str) -> Checkpoint:
    found = find_checkpoint(run / "checkpoints", which)
    assert found is not None
    return found


def start_of(run: Path) -> Checkpoint:
    """The checkpoint before the first step."""
    [name] = [path.name for path in (run / "checkpoints").iterdir() if "00000000." in path.name]
    return checkpoint_of(run, name)


def test_an_update_says_what_it_carried_over(report: dict[str, Any], home: Path) -> None:
    assert report["rows_carried"] == USERS + ITEMS
    assert (report["new_users"], report["new_items"]) == (1, 1)
    assert (report["new_interactions"], report["users_with_new_interactions"]) == (4, 3)
    assert report["edges"] == USERS * EVENTS + 4, "what the run held out for tests is learnt too"
    assert json.loads((home / "runs/y/update.json").read_text()) == report


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_row_begins_as_it_was_whatever_its_number(home: Path, world_size: int) -> None:
    run = home / "runs/y"
    if world_size == 2:
        config = read_run(run)[1].model_copy(update={"run_dir": home / "runs/y2"})
        run = config.run_dir
        run_ranks(train_rank, 2, config, read_inputs(RunDirectory(home / "runs/y")), "attempt2")
    old, new = graph_of(home / "runs/x"), graph_of(home / "runs/y")
    before = by_id(checkpoint_of(home / "runs/x", "best"), old)
    now = by_id(start_of(run), new)
    assert set(now) - set(before) == {"user a-new", "item a-new"}
    for name, row in before.items():
        np.testing.assert_array_equal(now[name], row, err_msg=name)
    alone = by_id(start_of(home / "runs/y"), new)
    for name in ("user a-new", "item a-new"):
        np.testing.assert_allclose(now[name], alone[name], rtol=1e-6)


@pytest.mark.usefixtures("report")
def test_vectors_learn_on_and_gates_stay(home: Path) -> None:
    before = checkpoint_of(home / "runs/x", "best").dense()
    after = checkpoint_of(home / "runs/y", "last").dense()
    changed = {name for name in before if not before[name].equal(after[name])}
    gates = {name for name in before if name.startswith("param.model.mix")}
    assert gates
    assert not gates & changed
    assert {name for name in changed if name.startswith("param.model.text_view")}
    whitening = [(home / f"runs/{run}/whitening.safetensors").read_bytes() for run in "xy"]
    assert whitening[0] == whitening[1]


def item_vectors_of(run: Path) -> dict[str, np.ndarray]:
    path = read_inputs(RunDirectory(run)).item_vectors
    assert path == run / "item_vectors"
    return dict(zip(graph_of(run).item_ids, TextStore.open(path).read_all("items"), strict=True))


@pytest.mark.usefixtures("report")
def test_items_keep_what_they_have_learnt_and_a_new_one_has_what_its_text_says(home: Path) -> None:
    before, now = (item_vectors_of(home / f"runs/{run}") for run in "xy")
    for name, vector in before.items():
        np.testing.assert_array_equal(now[name], vector, err_msg=name)
    inputs = read_inputs(RunDirectory(home / "runs/y"))
    assert inputs.text is not None
    assert inputs.whitening is not None
    raw = TextStore.open(inputs.text).read_all("items")
    whitened = Whitening.load(inputs.whitening).apply("items", raw)
    whitened = dict(zip(graph_of(home / "runs/y").item_ids, whitened, strict=True))
    np.testing.assert_allclose(now["a-new"], whitened["a-new"], atol=1e-3)
    assert not whitened[TEXTLESS].any(), "it has no text"
    assert np.isfinite(before[TEXTLESS]).all(), "its users' other items say where it begins"
    with_text = before.keys() - {TEXTLESS}
    changed = [np.abs(now[name] - whitened[name]).max() > 1e-2 for name in with_text]
    assert sum(changed) > ITEMS // 2, "nothing was learnt"


@pytest.mark.usefixtures("report")
def test_a_new_user_and_a_new_item_are_ranked(home: Path) -> None:
    recommender = load(home / "runs/y")
    found = {one.item_id for one in recommender.recommend("a-new", ITEMS + 1)}
    assert found == {f"i{i:02}" for i in range(ITEMS)} - {"i03"}
    assert "a-new" in {one.item_id for one in recommender.recommend("u09", ITEMS + 1)}


def asked(home: Path) -> dict[str, Any]:
    """What the finished run and the update of it answer, and the paths that they read."""
    from recmind_dist.pipeline.run import Pipeline

    runs = {name: home / "runs" / name for name in "xy"}
    pipeline = Pipeline.of_run(runs["x"], silent)
    of = read_run(runs["y"])[1].update.of
    stores = [read_inputs(RunDirectory(run)).to_json() for run in runs.values()]
    paths = {value for store in stores for value in store.values() if value and "/" in value}
    return {
        "metrics": pipeline.evaluate()["metrics"],
        "best": [[item.item_id for item in load(run).recommend("u05", 5)] for run in runs.values()],
        "faults": [finding.fault for run in runs.values() for finding in examine(run).findings],
        "paths": sorted({*paths, str(pipeline.prepare()), pipeline.config.text.model, str(of)}),
    }


def moved_and_asked(home: Path, to: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """For `run_ranks`: answers of the runs, and of a copy elsewhere while they are gone."""
    before = asked(home)
    shutil.copytree(home, to)
    hidden = home.rename(home.with_name("hidden"))
    try:
        return before, asked(to)
    finally:
        hidden.rename(home)


@pytest.mark.usefixtures("report")
def test_runs_that_were_moved_answer_as_before_from_their_own_files(
    home: Path, tmp_path: Path
) -> None:
    to = tmp_path / "elsewhere" / "b"
    [(before, after)] = run_ranks(moved_and_asked, 1, home, to)
    for name in ("metrics", "best", "faults"):
        assert after[name] == before[name]
    assert before["faults"] == []
    inputs = read_inputs(RunDirectory(home / "runs/y"))
    assert None not in (inputs.text, inputs.whitening, inputs.start, inputs.item_vectors)
    assert after["paths"] == [path.replace(str(home), str(to)) for path in before["paths"]]
    assert all(path.startswith(str(to)) for path in after["paths"])


def updated_again(home: Path) -> dict[str, Any]:
    """For `run_ranks`: an update of an update."""
    log = write_log(home / "third.csv", [("a-new", "b-new", 1_900_000_000)])
    items = write_items(home / "third.jsonl", {"b-new": "a war story", "i03": "a space king"})
    report = update_run(
        home / "runs/y", home / "runs/w", [log], [items], say=silent, train=train_here
    )
    return asdict(report)


def test_updates_follow_each_other(home: Path, report: dict[str, Any]) -> None:
    [second] = run_ranks(updated_again, 1, home)
    assert second["rows_carried"] == report["rows_carried"] + 2
    assert (second["new_users"], second["new_items"], second["edges"]) == (0, 1, 405)
    assert second["epochs"] == report["epochs"], "not a share of a share"
    titles = dict(graph_of(home / "runs/w").items_frame().select("id", "title").iter_rows())
    assert titles["b-new"] == "a war story"
    assert titles["i03"] == "a space king", "a newer line was to stand in place of an older one"
    assert titles["i04"] == words_of(4)
    old, new = (item_vectors_of(home / f"runs/{run}") for run in "yw")
    assert not np.isclose(old["i03"], new["i03"], atol=1e-2).all(), "of the text that is gone"
    np.testing.assert_array_equal(old["i04"], new["i04"])
    before = by_id(checkpoint_of(home / "runs/y", "last"), graph_of(home / "runs/y"))
    now = by_id(start_of(home / "runs/w"), graph_of(home / "runs/w"))
    np.testing.assert_array_equal(now["item a-new"], before["item a-new"])


def test_without_validation_the_last_checkpoint_serves(report: dict[str, Any], home: Path) -> None:
    found = {run: preferred_checkpoint(graph_of(home / f"runs/{run}")) for run in "xy"}
    assert found == {"x": "best", "y": "last"}
    last = checkpoint_of(home / "runs/y", "last")
    assert PreviousRun.open(home / "runs/y").checkpoint.name == last.name


def cut_short(home: Path) -> str:
    """For `run_ranks`: an update that dies at its first report."""

    def train(config: RunConfig, say: Say) -> None:
        from recmind_dist.pipeline.in_process import train_in_process

        embed_here(config)
        train_in_process(config, say, on_commit=die)

    files = [home / "new.csv"], [home / "new-items.jsonl"]
    try:
        update_run(
            home / "runs/x", home / "runs/z", *files, ["train.epochs=2"], say=silent, train=train
        )
    except InterruptedError:
        return "died"
    return "ended"


def die(told: dict[str, Any]) -> None:
    if told["checkpoint"] and "-00000000." not in told["checkpoint"]:
        raise InterruptedError


def test_an_update_that_was_killed_goes_on_by_the_same_call(home: Path, report: Any) -> None:
    assert run_ranks(cut_short, 1, home) == ["died"]
    with pytest.raises(StoreError, match="begun with other logs or settings"):
        update_run(home / "runs/x", home / "runs/z", [home / "new.csv"], [home / "items.jsonl"])
    run_ranks(updated, 1, home, "runs/z")
    starts = list(read_metrics(RunDirectory(home / "runs/z").metrics, "start"))
    assert len(starts) == 2
    assert starts[1]["steps_done"] > 0
    old, new = graph_of(home / "runs/y"), graph_of(home / "runs/z")
    whole, cut = (
        by_id(checkpoint_of(home / f"runs/{run}", "last"), graph)
        for run, graph in (("y", old), ("z", new))
    )
    for name, row in whole.items():
        np.testing.assert_array_equal(cut[name], row, err_msg=name)


def test_a_file_that_is_given_again_is_read_once_in_its_newer_place(home: Path) -> None:
    more, items, log = (str(home / name) for name in ("more.jsonl", "items.jsonl", "log.csv"))
    found = dataset_with(config_of(home), [Path(log)], [Path(more), Path(items)])
    assert found["items"]["path"] == [more, items]
    assert found["interactions"]["path"] == [log]


def test_the_test_is_the_newest_of_the_new_log(home: Path) -> None:
    [tested] = run_ranks(updated_and_tested, 1, home)
    assert 0 <= tested["metrics"]["ndcg@5"] <= 1
    graph = graph_of(home / "runs/tested")
    held = graph.held_out("test")
    users = [graph.user_ids[int(u)] for u in np.flatnonzero(np.diff(held.indptr))]
    items = [graph.item_ids[int(i) - graph.num_users] for i in held.indices]
    assert (users, items[0]) == (["u05", "u07"], "a-new")
    assert graph.num_edges == USERS * EVENTS + 2
    retrained = tested["retrained"]
    assert retrained["run"] == str(home / "runs/tested-retrained")
    assert retrained["metrics"].keys() == tested["metrics"].keys()
    again = read_run(home / "runs/tested-retrained")[1]
    assert (again.update.of, again.train.epochs) == (None, 4)
    assert graph_of(again.run_dir).path == graph.path, "not the same split"


def updated_and_tested(home: Path) -> dict[str, Any]:
    """For `run_ranks`."""
    return updated(home, "runs/tested", test_share=0.5, compare=True)


def longer(home: Path) -> tuple[int, ...]:
    """For `run_ranks`: two ways to train a finished run on. Returns the epochs of each start."""
    from recmind_dist.pipeline.in_process import train_in_process

    first_run(home)
    train_in_process(config_of(home, "train.epochs=5"), silent)
    train_longer(home / "runs/x", ["train.epochs=6"], silent, train_here)
    return tuple(r["epoch"] for r in read_metrics(RunDirectory(home / "runs/x").metrics, "epoch"))


def test_a_finished_run_trains_longer(home: Path, tmp_path: Path) -> None:
    for name in ("bert", "log.csv", "items.jsonl", "cfg.yaml", "cache"):
        (tmp_path / name).symlink_to(home / name)
    assert run_ranks(longer, 1, tmp_path) == [(0, 1, 2, 3, 4, 5)]
    assert read_run(tmp_path / "runs/x")[1].train.epochs == 6
    with pytest.raises(ConfigError, match=r"trained for 6 epochs: give a higher train\.epochs"):
        train_longer(tmp_path / "runs/x", ["train.epochs=6"])


def by_commands(home: Path) -> dict[str, Any]:
    """For `run_ranks`: a run is trained, goes on to more epochs by the same command, is killed, and
    goes on by it again. Workers train in this process.
    """
    from recmind_dist.cli import main
    from recmind_dist.launch import ray_train
    from recmind_dist.pipeline import in_process

    # of eight epochs: what is told at a save is what was saved before it
    run, longer = Path("runs/x"), ["run", "cfg.yaml", "train.epochs=8", "--allow-mismatch"]
    reports = [silent, die, silent]

    def train(config: RunConfig, *order: Any) -> None:
        inputs, phases, resume, allow_mismatch, _ = order
        in_process._train_here(
            "cpu", reports.pop(0), config, inputs, phases, resume, allow_mismatch
        )

    ray_train.train = train
    os.chdir(home)
    main(["run", "cfg.yaml"])
    with pytest.raises(InterruptedError):
        main(longer)
    found: dict[str, Any] = {"killed": read_run(run)[1].train.epochs}
    with pytest.raises(RecmindError) as refused:
        PreviousRun.open(run)
    main(longer)
    records = read_metrics(RunDirectory(run).metrics, "epoch")
    found |= {"remedy": str(refused.value), "trained": {record["epoch"] for record in records}}
    return found | {"ended": read_run(run)[1].train.epochs}


def test_the_same_command_trains_longer_and_config_says_no_epochs_that_were_not_trained(
    home: Path, tmp_path: Path
) -> None:
    for name in ("bert", "log.csv", "items.jsonl", "cfg.yaml", "cache"):
        (tmp_path / name).symlink_to(home / name)
    [found] = run_ranks(by_commands, 1, tmp_path)
    assert found["trained"] == set(range(8))
    assert (found["killed"], found["ended"]) == (4, 8)
    assert found["remedy"].endswith("recmind train runs/x/config.yaml train.epochs=8`, then update")


def refused(home: Path, name: str) -> None:
    """Calls `update_run` in one of the ways that are refused."""
    run, to, logs = home / "runs/x", home / "runs/refused", [home / "new.csv"]
    overrides: list[str] = []
    if name == "columns":
        logs = [home / "other.csv"]
        logs[0].write_text("buyer,item,time\nu1,i1,1900000000\n")
    elif name == "nothing new":
        logs = [home / "again.csv"]
        logs[0].write_text("user,item,time\n" + (home / "log.csv").read_text().split("\n")[1])
    elif name == "width":
        overrides = ["model.embedding_dim=16"]
    elif name == "no run":
        run = home / "runs"
    elif name == "itself":
        to = run
    elif name == "taken":
        to = home / "cache"
    elif name == "ended":
        to = home / "runs/y"
    elif name == "nothing to compare on":
        update_run(run, to, logs, [], compare=True)
    elif name == "old log":
        write_log(
            home / "old.csv", [("u05", "a-new", 1_600_000_000), ("u06", "a-new", 1_600_000_060)]
        )
        update_run(run, to, [home / "old.csv"], [], test_share=0.5)
    update_run(run, to, logs, [], overrides)


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("columns", DataError, r"other\.csv: no column 'user or user_id'"),
        ("nothing new", DataError, r"no interaction that .* has not learnt .* give newer logs"),
        ("width", ConfigError, r"'model\.embedding_dim=16': an update keeps the model"),
        ("no run", ConfigError, r"runs/config\.yaml"),
        ("itself", StoreError, r"the run itself, which stays as it is"),
        ("taken", StoreError, r"exists, and is no update of this run: give another --to"),
        ("ended", StoreError, r"an update that has ended: give --to another directory"),
        ("nothing to compare on", ConfigError, r"--compare: needs something to compare on"),
        ("old log", DataError, r"learnt from interactions up to 17\d+: give a log that is newer"),
    ],
)
@pytest.mark.usefixtures("report")
def test_what_cannot_be_learnt_is_refused_in_a_sentence(
    home: Path, name: str, error: type[RecmindError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        refused(home, name)
    assert not (home / "runs/refused").exists()


def test_a_run_whose_items_are_gone_is_refused(home: Path, tmp_path: Path) -> None:
    config, run = read_run(home / "runs/x")[1], tmp_path / "x"
    run.symlink_to(home / "runs/x")
    lines = (home / "items.jsonl").read_text().splitlines(keepends=True)
    kept = home / "items.jsonl"
    log = (home / "log.csv").read_text()
    try:
        kept.write_text("".join(lines[1:]))
        (home / "log.csv").write_text("\n".join(x for x in log.split("\n") if ",i00," not in x))
        with pytest.raises(DataError, match=r"1 items of .* are not in its files any more, 'i00'"):
            update_run(run, tmp_path / "y", [home / "new.csv"], [])
    finally:
        kept.write_text("".join(lines))
        (home / "log.csv").write_text(log)
    assert config.dataset.name == "shop"


def test_a_run_that_has_not_ended_is_refused(home: Path) -> None:
    config = config_of(home, "run_dir=runs/half")
    assert run_ranks(half, 1, config) == ["died"]
    with pytest.raises(RecmindError, match=r"has not ended \(in epoch 1 of joint\)"):
        update_run(home / "runs/half", home / "runs/refused", [home / "new.csv"], [])


def half(config: RunConfig) -> str:
    """For `run_ranks`: a run that dies after its first epoch."""
    from recmind_dist.pipeline.in_process import train_in_process

    try:
        train_in_process(config, silent, on_commit=die)
    except InterruptedError:
        return "died"
    return "ended"


def mended(run: Path) -> tuple[list[str], list[str], list[str]]:
    """For `run_ranks`: what is found, what is said of the repair, and what is found after it."""
    said: list[str] = []
    before = [finding.fault for finding in examine(run).findings]
    after = [finding.fault for finding in repair(run, said.append).findings]
    return before, said, after


@pytest.mark.usefixtures("report")
def test_damaged_item_vectors_are_found_and_learnt_again(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "x"
    shutil.copytree(home / "runs/x", run)
    file = TextStore.open(run / "item_vectors").shard_file("items", 0)
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    [(before, said, after)] = run_ranks(mended, 1, run)
    assert len(before) == 1
    assert "item_vectors: shard 0 of items" in before[0]
    assert any("item_vectors: learnt again" in line for line in said), said
    assert not after
    assert file.read_bytes() == whole
