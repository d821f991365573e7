"""Notebooks and commands of the pages run: one small shop, a tiny language model, no Ray."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from huggingface_hub import constants

from recmind_dist.cli import main
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.types import Say
from tests.hub_endpoint import answering_hub
from tests.page_commands import ROOT, Command, commands
from tests.processes import Program
from tests.publishers import amazon2023
from tests.tiny_language_model import make_bert
from tests.training_runs import embed_here

nbformat = pytest.importorskip("nbformat", reason="pip install '.[docs]'")
nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]'")

NOTEBOOKS = ROOT / "docs" / "notebooks"
REAL_NAMES = {  # of the quick start's data and of synopses → of the shop here
    "17": "B-1042",
    "23": "B-1043",
    "1": "B-1042",
    "50,181,172": "lamp-3,lamp-5,chair-9",
    "50,181": "lamp-3,chair-9",
    "50": "lamp-3",
    'genres == "Drama" and degree < 50': 'category == "Garden" and degree < 50',
    "runs/quickstart": "runs/shop",
    "runs/quickstart-lightgcn": "",
    "runs/quickstart-popularity": "",
    "runs/shop-lightgcn": "",
    "orders.csv": "sales.csv",
    "things.jsonl": "catalogue.jsonl",
    "configs/quickstart.yaml": "shop.yaml",
    "configs/ml100k-groups.yaml": "shop.yaml",
    "runs/ml100k-groups": "runs/shop",
    "runs/ml100k-groups-lightgcn": "runs/shop",
    "storage_uri=s3://bucket/runs/shop": "storage_uri=store",
    "cache/shop/text/0f3c…-9a41…": "cache/shop/text/copy",
    "DIR": "runs/shop/bundle",
    "BUNDLE": "runs/shop/bundle",
    "RUN": "runs/shop",
    "RUN2": "runs/shop",
    "gender": "activity",
    "genres": "category",
    "8000": "0",
}
AFTER = {  # first words of a command → words that are added
    # trains nothing: an overridden run of the shop; Ray: tests/dist/test_command_line.py
    "recmind run shop.yaml run_dir": ["variant=popularity"],
    "recmind run data": ["variant=popularity", "fetch=[]", "run_dir=runs/popular"],
    "recmind serve": ["--port", "0"],
}
TRAINS = {  # first words of a command that trains → words that are added
    "recmind tune configs/quickstart.yaml": ["train.epochs=1", "--trials", "1"],
    "recmind update runs/mon": [],
    "recmind update runs/tue": [],
}
NOT_RUN = {  # first words of a command → why
    **dict.fromkeys(TRAINS, "in a process of its own, below"),
    "recmind tune shop.yaml": "as that of docs/experiments.md, which runs",
    "recmind update runs/shop": "as those of docs/update.md, which run",
    "recmind experiment": "trains for minutes: tests/dist/test_experiment_commands.py",
    "recmind run configs/amazon-beauty.yaml": "data that are not in the repository",
    "recmind log runs/quickstart --to mlflow": "mlflow: tests/unit/test_log_sinks.py, where it is",
    "python benchmarks": "minutes, and quiet cores",
    ".venv/bin/python benchmarks": "minutes, and quiet cores",
    "pre-commit": "changes the repository",
    "python launchers": "a cluster: tests/dist/test_cluster_launcher.py",
    "python -c": "says what a GPU's torch is",
    "sh benchmarks": "a GPU",
    "make": "installs, or runs all tests",
    "pip install": "a package index: tests/dist/test_pip_install.py",
    "docker": "Docker: tests/unit/test_docker_files.py",
    "kubectl": "Kubernetes: tests/unit/test_cluster_files.py",
    "ray": "a cluster: tests/dist/test_ray_job.py",
    "RAY_AUTH_MODE=token": "a cluster: tests/dist/test_ray_job.py",
    "mkdir": "a cluster: tests/dist/test_ray_job.py",
    "curl": "a server: tests/unit/test_serving_requests.py",
    "openssl": "not ours",
    "cd launchers && serve run": "Ray Serve",
    "export": "not ours",
    ".": "not ours",
}


def reason(command: Command) -> str | None:
    """Why a command is not run here."""
    return next((why for start, why in NOT_RUN.items() if begins(command, start)), None)


def begins(command: Command, start: str) -> bool:
    return re.match(rf"{re.escape(start)}(?=[\s/=]|$)", command.text) is not None


def code_of(name: str) -> list[str]:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def outputs(name: str, home: Path) -> tuple[list[Any], str]:
    """Runs a notebook in `home`. Returns what its cells show, by kind, and what they print."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(home)}}
    nbclient.NotebookClient(notebook, timeout=200, resources=resources).execute()
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [one["data"] for one in found if "data" in one], "".join(
        one["text"] for one in found if one["output_type"] == "stream"
    )


class Shop(NamedTuple):
    """A directory with the first notebook's files and run, and what that showed and said."""

    home: Path
    shown: list[Any]
    said: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home, names, here = tmp_path_factory.mktemp("shop"), dict[str, Any](), Path.cwd()
    os.chdir(home)
    try:
        make_bert(Path("models/minilm"))
        for cell in code_of("first_model")[:2]:
            exec(cell, names)
        embed_here(load_run_config(Path("shop.yaml")).absolute())
    finally:
        os.chdir(here)
    (home / "stock.txt").write_text("lamp-3\nlamp-4\nchair-9\n")
    pq.write_table(pa.table({"item": ["lamp-4"]}), home / "sold.parquet")
    return Shop(home, *outputs("first_model", home))


def test_the_first_notebook_trains_evaluates_and_ranks(shop: Shop) -> None:
    assert "embedded 0 of 80 texts" in shop.said  # so Ray was not needed
    found = (eval(data["text/plain"]) for data in shop.shown[1:])
    metrics, strata, known, new, similar = found
    assert 0 < metrics["ndcg@20"] <= metrics["recall@20"] <= 1
    assert {"cold", "4-7"} <= strata.keys()
    assert len(known) == len(new) == len(similar) == 5
    assert {item for item, _ in new}.isdisjoint({"guitar-3", "guitar-1"})


def test_the_second_notebook_shows_gates_and_shares(shop: Shop) -> None:
    (figure, by_history, shares), _ = outputs("gates", shop.home)
    assert "image/png" in figure
    gates = eval(by_history["text/plain"])
    assert all(sum(gate.values()) == pytest.approx(1, abs=0.01) for gate in gates)
    assert len({gate["graph"] for gate in gates}) > 1
    assert {view for view, _ in eval(shares["text/plain"])} == gates[0].keys()


def test_notebooks_are_kept_without_outputs() -> None:
    paths = list(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) == 2
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs")]


def prepare(page: str, home: Path) -> dict[str, str]:
    """Makes what the commands of a page expect to be there. Returns names of this page alone."""
    shutil.rmtree(home / "data", ignore_errors=True)  # of another page
    if page == "docs/data.md":
        amazon2023(home)
    if page == "docs/faults.md":
        [store, *_] = home.glob("cache/shop/text/*")
        shutil.copytree(store, store.with_name("copy"))
    if page == "docs/serve.md":
        (home / "token").write_text("a token of the page".replace(" ", "-"))
    if page != "docs/bundle.md":
        return {}
    main(["export", "runs/shop", "--to", "text-bundle", "--text-model"])
    new = {"sku": "bench-1", "title": "bench number 1", "category": "Garden", "price": 9}
    (home / "items.jsonl").write_text(f"{json.dumps(new)}\n")
    (home / "log.tsv").write_text("buyer_ref\tsku\tbought_at\nB-1042\tbench-1\t1800000000\n")
    return {"DIR": "text-bundle"}


def added(command: Command, words: dict[str, list[str]]) -> list[str]:
    return next((more for start, more in words.items() if begins(command, start)), [])


@pytest.mark.parametrize("page", sorted({command.page for command in commands()}))
def test_commands_of_a_page_run_in_their_order(
    page: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.home)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)  # it would serve for ever
    names = REAL_NAMES | prepare(page, shop.home)
    for command in commands():
        if command.page != page or reason(command) is not None:
            continue
        program, *words = (names.get(word, word) for word in command.words())
        if program == "ln":
            subprocess.run([program, *words], check=True)
            continue
        assert program == "recmind", f"run it here, or say in NOT_RUN why not: {command.text}"
        words += added(command, AFTER)
        main([word for word in words if word])  # raises SystemExit where it refuses


def train_here(config: RunConfig, say: Say) -> None:
    """In place of Ray's workers, as the first notebook does."""
    from recmind_dist.pipeline.in_process import train_in_process

    embed_here(config)
    train_in_process(config, say)


def run_here(home: Path, commands: list[list[str]]) -> None:
    """For a process of its own: it trains."""
    from recmind_dist.pipeline import update

    os.chdir(home)
    update._train_on_ray = train_here
    for words in commands:
        main([*words, "--json"])


@pytest.mark.timeout(290)
def test_commands_that_train_run_and_say_what_they_found(shop: Shop) -> None:
    newer = [f"B-{1000 + n},sledge-{n},{1_800_000_000 + 60 * n}" for n in range(20)]
    head = "buyer_ref,sku,bought_at"
    (shop.home / "tuesday.csv").write_text("\n".join([head, *newer, "B-1001,bench-1,1800009999"]))
    later = [row.replace("sledge", "lamp").replace(",18", ",19") for row in newer]
    (shop.home / "wednesday.csv").write_text("\n".join([head, *later]))
    new = {"sku": "bench-1", "title": "bench number 1", "category": "Garden", "price": 9}
    (shop.home / "new-things.jsonl").write_text(f"{json.dumps(new)}\n")
    names = REAL_NAMES | {"runs/mon": "runs/shop", "train.epochs=40": "train.epochs=5"}
    names["--compare"] = "--json"  # it trains from nothing: tests/dist/test_update.py
    chosen = [one for one in commands() if any(begins(one, start) for start in TRAINS)]
    lines = [
        [*(names.get(word, word) for word in one.words()[1:]), *added(one, TRAINS)]
        for one in chosen
    ]
    assert {words[0] for words in lines} == {"tune", "update"}
    program = Program(run_here, shop.home, lines)
    assert program.wait(240) == 0, program.stderr
    answers = [json.loads(line) for line in program.stdout.splitlines()]
    assert len(answers) == len(lines)
    for words, answer in zip(lines, answers, strict=True):
        if words[0] == "tune":
            assert (shop.home / answer["path"]).is_file()
            [trial] = answer["trials"]
            assert (trial["trial"], trial["score"]) == (answer["trial"], answer["score"])
        elif "--to" in words:
            to = shop.home / words[words.index("--to") + 1]
            assert answer == json.loads((to / "update.json").read_text())
        else:
            assert answer["recmind"] == json.loads(
                (shop.home / "runs/tue/results.json").read_text()
            )


def python_of(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(block)


def test_python_of_the_recommend_page_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.home)
    block = python_of("docs/recommend.md").replace("user_id=1,", 'user_id="1",')
    ids = {"50": "lamp-3", "181": "chair-9", "172": "lamp-4", "runs/quickstart": "runs/shop"}
    ids |= {"1": "B-1042", "2": "B-1043", "3": "B-1044"}
    names: dict[str, Any] = {}
    exec(re.sub(r'"([^"]+)"', lambda found: f'"{ids.get(found[1], found[1])}"', block), names)
    assert names["rankings"].positions.shape == (3, 20)
    assert not names["rankings"].left_out


def test_python_of_the_experiments_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(python_of("docs/experiments.md"), names)
    assert "beauty" in names["runs"]["bench"].to_list()


def of_the_shop(block: str) -> str:
    """A block of the quick start's data, of the shop's."""
    names = {"configs/quickstart.yaml": "shop.yaml", "runs/quickstart": "runs/shop", "50": "lamp-3"}
    names |= {"DIR": "runs/shop/bundle", "RUN": "runs/shop"}
    block = block.replace("user_id=1,", 'user_id="B-1042",')
    block = block.replace("users=[1, 2, 3]", 'users=["B-1042", "B-1043", "B-1044"]')
    return re.sub(r'"([^"]+)"', lambda found: f'"{names.get(found[1], found[1])}"', block)


@pytest.mark.parametrize("page", ["README.md", "docs/quick_start.md"])
def test_python_of_the_first_pages_runs(
    page: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.home)
    before = (shop.home / "runs/shop/results.json").stat().st_mtime_ns
    names: dict[str, Any] = {}
    *lines, last = of_the_shop(python_of(page)).strip().splitlines()
    exec("\n".join(lines), names)
    assert (shop.home / "runs/shop/results.json").stat().st_mtime_ns > before
    found = eval(last, names)
    assert (found.num_rows if page == "README.md" else len(found)) == {"README.md": 30}.get(
        page, 10
    )


def test_python_of_the_bundle_page_goes_to_a_hub_and_back(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.home)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with answering_hub(monkeypatch) as hub:
        *lines, last = of_the_shop(python_of("docs/bundle.md")).strip().splitlines()
        names: dict[str, Any] = {}
        exec("\n".join(lines), names)
        assert "items.parquet" in hub.files
        assert len(eval(last, names)) == 10


def test_the_penalty_of_the_audit_page_is_python_s_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recmind_dist import load

    monkeypatch.chdir(shop.home)
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    [call] = re.findall(r"^    (load\(.+\))$", text, re.MULTILINE)
    penalised = eval(of_the_shop(call), {"load": load}).recommend("B-1042", k=20)
    plain = load("runs/shop").recommend("B-1042", k=20)
    assert [one.score for one in penalised] != [one.score for one in plain]


def test_reasons_name_tests_that_are_there_and_run_such_a_command() -> None:
    for start, why in NOT_RUN.items():
        assert any(begins(command, start) for command in commands()), f"no page has: {start}"
        for file in re.findall(r"tests/[\w/]+\.py", why):
            text = (ROOT / file).read_text(encoding="utf-8")
            program, *words = start.split()
            assert program != "recmind" or f'"{words[0]}"' in text, f"{file} runs no {start}"
    for start in AFTER:
        assert any(begins(command, start) for command in commands()), f"no page has: {start}"
