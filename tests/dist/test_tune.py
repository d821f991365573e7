"""`recmind tune` on the shop: validation only, one trial diverges, one is killed, and the outcome
is a config that runs.
"""

import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.config.yaml import load_yaml
from recmind_dist.graph.store import KIND, SCHEMA
from recmind_dist.report import read_metrics
from recmind_dist.storage import read_manifest, write_manifest
from tests.processes import CONTEXT
from tests.shop import SIZE, make_shop

pytestmark = pytest.mark.dist_slow

SPACE = """
table.learning_rate: {choices: [0.01, 0.03, 1.0e+30]}
loss.regularization: {low: 1.0e-6, high: 1.0e-2, log: true}
train.batch_size: {low: 256, high: 512}
"""
WORDS = [
    "shop.yaml",
    "variant=lightgcn",
    "train.epochs=3",
    "evaluation.norm_exponent=0.0",
    "--space",
    "space.yaml",
]
TRIALS = 5
TEST_FILES, NONSENSE = ("test_indptr.npy", "test_indices.npy"), b"nobody may read this"


def start(words: list[str], home: Path, said: str = "said.txt") -> BaseProcess:
    """`recmind …` in the directory `home`, in a process that has torch and DeepSpeed already; its
    output goes to a file.
    """
    process = CONTEXT.Process(target=_command, args=(words, home, said))
    process.start()
    return process


def recmind(words: list[str], home: Path) -> tuple[int | None, str]:
    """Exit code and all that was said."""
    process = start(words, home)
    process.join(timeout=250)
    if process.is_alive():
        process.kill()
        raise AssertionError(
            f"recmind {' '.join(words)} did not end: {(home / 'said.txt').read_text()}"
        )
    return process.exitcode, (home / "said.txt").read_text()


def _command(words: list[str], home: Path, said: str) -> None:
    from recmind_dist.cli import main

    os.chdir(home)
    with Path(said).open("w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        main(words)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared shop whose test interactions are nonsense, under a manifest that vouches for them:
    nothing mends them.
    """
    home = tmp_path_factory.mktemp("shop")
    for words in (["synth", "synth", *SIZE], ["prepare", "shop.yaml", "variant=lightgcn"]):
        code, said = recmind(words, home)
        assert code == 0, said
        make_shop(home)
    (home / "space.yaml").write_text(SPACE)
    [graph] = home.glob("cache/shop/graph-*")
    for name in TEST_FILES:
        assert (graph / name).exists()
        (graph / name).write_bytes(NONSENSE)
    manifest = read_manifest(graph, KIND, SCHEMA)
    write_manifest(
        graph,
        KIND,
        SCHEMA,
        {k: v for k, v in manifest.items() if k not in ("kind", "schema", "files")},
    )
    return home


def trials_of(run: Path) -> list[dict[str, Any]]:
    return list(read_metrics(run / "trials.jsonl", "trial"))


def wait_for_trial(run: Path, process: BaseProcess) -> None:
    """Until the second trial trains."""
    deadline = time.monotonic() + 120
    while not (run / "trial-0001" / "metrics.jsonl").exists():
        assert process.is_alive(), "the search ended before its second trial"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(600)
def test_a_search_reads_no_test_data_survives_a_kill_and_gives_a_config_that_runs(
    shop: Path,
) -> None:
    command = ["tune", *WORDS, "--trials", str(TRIALS), "--seed", "1"]
    code, said = recmind([*command, "run_dir=runs/whole"], shop)
    assert code == 0, said

    trials = trials_of(shop / "runs" / "whole")
    failed = [trial for trial in trials if trial["state"] == "failed"]
    good = [trial for trial in trials if trial["state"] == "complete"]
    assert len(trials) == TRIALS
    assert all(trial["values"]["table.learning_rate"] == 1e30 for trial in failed)
    assert failed, "the seed draws a rate that diverges"
    assert all("finite" in trial["reason"] for trial in failed)
    assert {trial["seed"] for trial in trials} == {1}
    best = max(good, key=lambda trial: trial["score"])
    table = (shop / "runs" / "whole" / "trials.md").read_text()
    assert table.index(f"| {best['trial']} | complete |") < table.index("| failed |")
    kept = {
        path.parent.parent.name
        for path in (shop / "runs" / "whole").glob("trial-*/checkpoints/step-*")
    }
    assert kept == {best["directory"]}

    # the same search, killed in its second trial and gone on with, tries the same settings
    process = start([*command, "run_dir=runs/cut"], shop)
    wait_for_trial(shop / "runs" / "cut", process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    code, said = recmind([*command, "run_dir=runs/cut"], shop)
    assert code == 0, said
    assert [
        trial["trial"]
        for trial in read_metrics(shop / "runs" / "cut" / "trials.jsonl", "interrupted")
    ] == [1]
    tried = [trial["values"] for trial in trials_of(shop / "runs" / "cut")]
    assert tried == [trial["values"] for trial in trials]

    # what it found is a config; and evaluation is the first to ask for what nobody could have read
    # so far
    [graph] = shop.glob("cache/shop/graph-*")
    assert {(graph / name).read_bytes() for name in TEST_FILES} == {NONSENSE}
    code, said = recmind(["validate", "runs/whole/best.yaml"], shop)
    assert code == 0, said
    found = load_yaml(shop / "runs" / "whole" / "best.yaml").values
    assert found["table"]["learning_rate"] == best["values"]["table.learning_rate"]
    code, said = recmind(["evaluate", f"runs/whole/{best['directory']}"], shop)
    assert code == 2
    assert "test_indptr.npy" in said


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("table.learning_rat: {low: 1, high: 2}", "unknown key"),
        (
            "loss.temperature: {low: 2, high: 1}",
            "space.yaml:1: loss.temperature: low 2 is not below high 1",
        ),
        ("loss.temperature: 3", "space.yaml:1: loss.temperature: Input should be"),
        ("model.readout: {choices: [graph, text]}", "model.readout: unknown key"),
        ("model.init: {choices: [normal, text]}", "variant lightgcn decides this key"),
        ("train.seed: {low: 0, high: 9}", "not for tuning"),
        ("{}", "names no key to vary"),
    ],
)
def test_a_space_that_is_none_is_refused_before_anything_is_trained(
    shop: Path,
    space: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from recmind_dist.cli import main

    (shop / "bad").mkdir(exist_ok=True)
    (shop / "bad" / "space.yaml").write_text(space)
    monkeypatch.chdir(shop)
    with pytest.raises(SystemExit) as stop:
        main(["tune", *WORDS[:-1], "bad/space.yaml", "run_dir=runs/refused"])
    assert stop.value.code == 2
    assert sentence in capfd.readouterr().err
    assert not (shop / "runs" / "refused").exists()


def test_a_gpu_that_is_not_there_is_refused_before_there_is_a_directory(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from recmind_dist.cli import main
    from recmind_dist.launch.device import gpus_here

    if gpus_here():
        pytest.skip("there is a GPU")
    (shop / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(shop)
    with pytest.raises(SystemExit) as stop:
        main(["tune", *WORDS, "scaling.device=cuda", "run_dir=runs/gpu"])
    assert stop.value.code == 2
    assert "torch finds no GPU" in capfd.readouterr().err
    assert not (shop / "runs" / "gpu").exists()
