"""The `recmind` command on files it has not seen: one run of all stages, the same again, stopped
and gone on with.
"""

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.cli import main
from recmind_dist.report import read_metrics
from recmind_dist.storage import directory_lock
from tests.shop import (
    RECMIND,
    SIZE,
    environment,
    make_shop,
    recmind,
    wait_until_none,
)
from tests.terminal import on_a_terminal
from tests.tiny_language_model import make_bert

pytestmark = pytest.mark.dist_slow

INTERRUPTED_EPOCHS = 40
LIGHTGCN = [
    "shop.yaml",
    "variant=lightgcn",
    f"train.epochs={INTERRUPTED_EPOCHS}",
    "evaluation.every_epochs=40",
]


@dataclass(frozen=True)
class Shop:
    """A directory with a shop in it, what the first `recmind run` said there, and where its Ray
    lived.
    """

    home: Path
    ray_home: Path
    first: subprocess.CompletedProcess[str]

    @property
    def run(self) -> Path:
        return self.home / "runs" / "shop"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ray_home: Path) -> Shop:
    home = tmp_path_factory.mktemp("shop")
    made = recmind(["synth", "synth", *SIZE], home, ray_home)
    assert made.returncode == 0, made.stderr
    make_shop(home)
    make_bert(home / "bert")
    first = recmind(["run", "shop.yaml"], home, ray_home)
    assert first.returncode == 0, first.stderr
    return Shop(home, ray_home, first)


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command ends that a person must mend."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capfd.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert "Traceback" not in "".join(said)
    return said[-1]


def kinds(run: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in read_metrics(run / "metrics.jsonl"):
        found.setdefault(record["kind"], []).append(record)
    return found


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def embedded(stdout: str) -> list[tuple[int, int]]:
    return [(int(a), int(n)) for a, n in re.findall(r"embedded (\d+) of (\d+) texts", stdout)]


@pytest.mark.timeout(400)
def test_a_log_in_unseen_layouts_trains_by_config_alone(shop: Shop) -> None:
    # 79 of 80 items have a line, and 200 users and one without an interaction
    assert embedded(shop.first.stdout) == [(280, 280), (280, 280)]
    assert "Recall@20" in shop.first.stdout
    assert "Traceback" not in shop.first.stderr

    results = results_of(shop.run)
    assert (results["dataset"], results["variant"], results["split"]) == ("shop", "recmind", "test")
    assert set(results["metrics"]) == {
        f"{m}@{k}"
        for m in ("recall", "ndcg", "hitrate", "mrr", "map", "precision")
        for k in (20, 40)
    }
    assert 0 < results["metrics"]["ndcg@20"] < results["metrics"]["recall@40"] <= 1
    assert (
        results["strata"]["cold"]["users"]
        == results["strata"]["0"]["users"] + results["strata"]["1-3"]["users"]
    )
    assert {row["layer"] for row in results["gate"]} == {0, 1, 2}

    logged = kinds(shop.run)
    told = {"start", "loaded", "step", "traffic", "epoch", "validation", "checkpoint"}
    assert set(logged) - {"heartbeat"} == told  # a heartbeat where it takes long
    assert [start["phase"] for start in logged["start"]] == ["warmup", "joint"]
    assert {start["world_size"] for start in logged["start"]} == {2}
    assert [epoch["phase"] for epoch in logged["epoch"]] == ["warmup", "joint", "joint"]
    assert {"loss", "align_user", "align_item", "rank", "gate"} <= set(logged["step"][-1])
    assert (shop.run / "adapter").is_dir()  # the warm-up's, merged before the second embedding
    [manifest] = shop.home.glob("cache/shop/dataset-*/manifest.json")
    counts = json.loads(manifest.read_text())["counts"]
    assert (counts["items_without_text"], counts["users_unseen"]) == (1, 1)
    assert not list(shop.home.rglob(".partial-*"))


OURS = (
    r"variant recmind: in runs/shop",
    r"(log|columns|users|items|graph|/dev/shm): .+",
    r"gates learn from .+",
    r"embedded 280 of 280 texts( with the adapter)?",
    r"scaling\.device: auto takes .+",
    r"going on at step 2 \(joint\), 2 workers",
    r"(embed|warmup|joint)  (epoch \d+/\d+  )?(text|step) \d+/[1-9]\d*  [\d.]*[1-9][\d.]* .+",
    r"held out: 170 interactions for validation, 170 for testing, which 30 of 201 users have .+",
    r"shop, test split, .+",
    r"The same, with the validation item .+",
    r"What the lists are like *",
    r"±: half a 95 % interval over users; .+",
    r"( +\S+@\d\d.*| +model .+| +0 +1-3 .+| ─+| +recmind .+| +cold .+| +±.+| +Long .+)? *",
)
"""Every line of a first run, on both streams."""


def test_a_run_starts_quietly_each_line_is_ours_and_none_stands_twice(shop: Shop) -> None:
    said = (shop.first.stdout + shop.first.stderr).splitlines()
    foreign = [line for line in said if not any(re.fullmatch(one, line) for one in OURS)]
    assert foreign == []
    steps = [line.split("  ")[:3] for line in said if "  step " in line]
    assert len(steps) == len({tuple(step) for step in steps})


@pytest.mark.timeout(300)
def test_a_terminal_shows_bars_and_no_line_of_others(shop: Shop) -> None:
    words = ["run", "shop.yaml", "variant=lightgcn", "run_dir=runs/terminal"]
    command = [str(RECMIND), *words]
    code, said = on_a_terminal(command, shop.home, environment(shop.ray_home))
    assert code == 0, "\n".join(said)
    ours = (*OURS, r"variant lightgcn: in runs/terminal", r" +lightgcn .+", r"joint .+━.*")
    foreign = [line for line in said if not any(re.fullmatch(one, line) for one in ours)]
    assert foreign == []
    assert any("━" in line for line in said)


def test_recommend_prints_titles_and_serves_a_user_who_has_only_a_text(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.home)
    things = (json.loads(line) for line in (shop.home / "things.jsonl").open())
    labels = {thing["code"]: thing["label"] for thing in things}
    bought = {
        line.split(",")[1] for line in (shop.home / "log.csv").open() if line.startswith("u150,")
    }
    for user, had in (("u150", bought), ("u-new", set())):
        main(["recommend", "runs/shop", "--user", user, "--k", "8"])
        rows = [
            line.split(maxsplit=3)
            for line in capfd.readouterr().out.splitlines()
            if re.match(r" +\d", line)
        ]
        assert [int(row[0]) for row in rows] == list(range(1, 9))
        scores = [float(row[1]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert not had & {row[2] for row in rows}
        titled = [row for row in rows if row[2] not in ("i0", "i1")]
        assert titled
        assert all(row[3] == labels[row[2]] for row in titled)
    sentence = refusal(["recommend", "runs/shop", "--user", "nobody"], capfd)
    assert sentence == (
        "error: user 'nobody' is not in shop, whose users have ids like 'u-new': give a history"
    )


@pytest.mark.timeout(300)
def test_a_second_run_embeds_and_trains_nothing_and_two_evaluators_agree_with_one(
    shop: Shop,
) -> None:
    before, steps = results_of(shop.run), len(kinds(shop.run)["step"])
    again = recmind(["run", "shop.yaml", "evaluation.num_workers=2"], shop.home, shop.ray_home)
    assert again.returncode == 0, again.stderr
    assert embedded(again.stdout) == [(0, 280), (0, 280)]
    assert len(kinds(shop.run)["step"]) == steps
    after = results_of(shop.run)
    assert after["metrics"] == pytest.approx(before["metrics"], abs=1e-9)
    assert after["strata"]["cold"] == pytest.approx(before["strata"]["cold"], abs=1e-9, nan_ok=True)
    assert len(after["gate"]) == len(before["gate"])


def test_a_run_directory_in_use_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.home)
    with directory_lock(shop.run):
        sentence = refusal(["run", "shop.yaml"], capfd)
    assert f"runs/shop: in use by process {os.getpid()} on " in sentence


def test_changed_settings_are_refused_with_the_difference_and_leave_the_run_as_it_was(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.home)
    names = ("config.yaml", "inputs.json", "results.json", "metrics.jsonl")
    before = [(shop.run / name).read_bytes() for name in names]
    sentence = refusal(["run", "shop.yaml", "loss.temperature=0.3", "model.embedding_dim=8"], capfd)
    assert "settings.loss.temperature: checkpoint 0.1, now 0.3" in sentence
    assert "settings.model.embedding_dim: checkpoint 16, now 8" in sentence
    assert "--allow-mismatch" in sentence
    assert [(shop.run / name).read_bytes() for name in names] == before


def test_resume_must_on_an_empty_directory_is_refused_before_ray_starts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.home)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    sentence = refusal(["train", "shop.yaml", "run_dir=runs/empty", "--resume", "must"], capfd)
    assert "runs/empty/checkpoints: nothing to resume" in sentence


@pytest.mark.timeout(400)
def test_ctrl_c_and_the_same_command_on_fewer_workers_ends_the_run(shop: Shop) -> None:
    words = ["run", *LIGHTGCN, "run_dir=runs/stopped"]
    run = shop.home / "runs" / "stopped"
    with (shop.home / "stopped.err").open("w") as errors:
        process = subprocess.Popen(
            [str(RECMIND), *words],
            cwd=shop.home,
            env=environment(shop.ray_home),
            start_new_session=True,
            stderr=errors,
        )
        try:
            wait_for_epochs(run, 2, process)
            # as a terminal does: to the command and all that it started
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    said = (shop.home / "stopped.err").read_text()
    assert (
        said.strip().splitlines()[-1]
        == "interrupted: the same command goes on from the last checkpoint"
    )
    assert "Traceback" not in said
    assert not (run / "results.json").exists()
    assert wait_until_none(shop.ray_home) == []

    second = recmind([*words, "scaling.num_workers=1"], shop.home, shop.ray_home)
    assert second.returncode == 0, second.stderr
    first_start, next_start = kinds(run)["start"]
    assert (first_start["world_size"], first_start["epoch"]) == (2, 0)
    assert next_start["world_size"] == 1
    assert 2 <= next_start["epoch"] < INTERRUPTED_EPOCHS
    done = [epoch["epoch"] for epoch in kinds(run)["epoch"]]
    assert done[-1] == INTERRUPTED_EPOCHS - 1
    assert set(done) == set(range(INTERRUPTED_EPOCHS))
    assert results_of(run)["variant"] == "lightgcn"
    assert results_of(run)["metrics"]["recall@20"] > 0.3


@pytest.mark.timeout(400)
def test_a_long_folder_of_temporary_files_is_no_obstacle(shop: Shop) -> None:
    long = shop.home / "net" / "research-group-recommenders" / ("job-" + 60 * "7")
    long.mkdir(parents=True)
    assert len(str(long)) > 107, "a socket there would have been short enough"
    words = ["train", "shop.yaml", "variant=lightgcn", "train.epochs=1", "run_dir=runs/long"]
    done = subprocess.run(
        [str(RECMIND), *words],
        cwd=shop.home,
        env=environment(long, TMPDIR=str(long)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert wait_until_none(long) == []
    assert {start["world_size"] for start in kinds(shop.home / "runs" / "long")["start"]} == {2}


def wait_for_epochs(
    run: Path, count: int, process: subprocess.Popen[bytes], timeout_s: float = 200
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(kinds(run).get("checkpoint", [])) > count:
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.1)
    pytest.fail(f"no {count} checkpoints within {timeout_s} s")
