"""Notebooks and commands of the pages run: one small shop, a tiny language model, no Ray."""

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from recmind_dist.cli import main
from recmind_dist.cli.app import app
from recmind_dist.run_config.load import load_run_config
from tests.tiny_language_model import make_bert
from tests.training_runs import embed_here
from tests.unit.test_dependencies import ROOT, pyproject

nbformat = pytest.importorskip("nbformat", reason="pip install '.[docs]'")
nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]'")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    "DIR": "runs/shop/bundle",
    "RUN": "runs/shop",
}
NOT_RUN = {  # first words of a command → why
    "recmind audit": "needs groups of users: tests/unit/test_fairness_audit.py",
    "recmind experiment": "trains for minutes: tests/dist/test_experiment_commands.py",
    "recmind import": "publishers' files: tests/unit/test_importers.py",
    "recmind run": "starts Ray: tests/dist/test_command_line.py; without Ray the first notebook",
    "recmind serve": "does not end: tests/dist/test_serving_page.py",
    "recmind tune": "trains for minutes: tests/dist/test_tune.py",
    "recmind update": "trains: tests/dist/test_update.py",
    "recmind upsert": "changes a bundle: tests/unit/test_recommend_upsert.py",
    "recmind cache clean": "its store is a made-up name: tests/unit/test_text_cache.py",
    "recmind log runs/quickstart --to mlflow": "mlflow: tests/unit/test_log_sinks.py, where it is",
    "python benchmarks": "minutes, and quiet cores",
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
    "ln": "not ours",
    "cd launchers && serve run": "Ray Serve",
    "export": "not ours",
    ".": "not ours",
}


class Command(NamedTuple):
    """A command of a page."""

    page: str
    text: str

    def words(self) -> list[str]:
        """Without what stands behind it, brackets of a synopsis and comments."""
        return shlex.split(self.text.replace("[", "").replace("]", ""), comments=True)


def commands() -> list[Command]:
    """Of all blocks of the pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        shown = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        shown += re.findall(r"^    ((?:recmind|python|sh|cd) .+)", text, re.MULTILINE)
        found += [Command(page.name, line) for line in shown if line.strip()]
    return found


def reason(command: Command) -> str | None:
    """Why a command is not run here."""
    return next((why for start, why in NOT_RUN.items() if begins(command, start)), None)


def begins(command: Command, start: str) -> bool:
    return re.match(rf"{re.escape(start)}(?=[\s/]|$)", command.text) is not None


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


@pytest.mark.parametrize("page", sorted({command.page for command in commands()}))
def test_commands_of_a_page_run_in_their_order(
    page: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.home)
    shutil.rmtree("data", ignore_errors=True)  # of another page
    for command in commands():
        if command.page != page or reason(command) is not None:
            continue
        program, *words = (REAL_NAMES.get(word, word) for word in command.words())
        assert program == "recmind", f"run it here, or say in NOT_RUN why not: {command.text}"
        main([word for word in words if word])  # raises SystemExit where it refuses


def python_of(page: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(block)


def test_python_of_the_recommend_page_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.home)
    block = python_of("recommend.md").replace("user_id=1,", 'user_id="1",')
    ids = {"50": "lamp-3", "181": "chair-9", "172": "lamp-4", "runs/quickstart": "runs/shop"}
    ids |= {"1": "B-1042", "2": "B-1043", "3": "B-1044"}
    names: dict[str, Any] = {}
    exec(re.sub(r'"([^"]+)"', lambda found: f'"{ids.get(found[1], found[1])}"', block), names)
    assert names["rankings"].positions.shape == (3, 20)
    assert not names["rankings"].left_out


def test_python_of_the_experiments_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(python_of("experiments.md"), names)
    assert "beauty" in names["runs"]["bench"].to_list()


def check_arguments(words: list[str]) -> list[str]:
    """Raises as `recmind` would for wrong options. Returns the words key=value."""
    here: Any = typer.main.get_command(app)
    context = here.make_context("recmind", list(words))
    while hasattr(here, "commands"):
        name, here, rest = here.resolve_command(context, context._protected_args + context.args)
        context = here.make_context(name, rest, parent=context)
    return context.params.get("overrides") or []


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.text.split("  ")[0])
def test_what_a_command_names_is_there(command: Command) -> None:
    """Options, settings, scripts, extras and targets, of commands too that are not run."""
    words = command.words()
    if words[:1] == ["recmind"]:
        named = ["gate" if word == "NAME" else word for word in words[1:]]
        overrides = [word for word in check_arguments(named) if "…" not in word]
        load_run_config(ROOT / "configs" / "quickstart.yaml", overrides)
    files = [
        word for word in words if re.match(r"(benchmarks|launchers|configs|docker)/.+\.", word)
    ]
    assert [file for file in files if not (ROOT / file).exists()] == []
    if words[:1] == ["make"]:
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = [name for word in words for name in re.findall(r"\[(.+)\]", word)]
    for extra in ",".join(extras).split(",") if "pip" in words else ():
        assert not extra or extra in pyproject()["optional-dependencies"]


def test_reasons_name_tests_that_are_there() -> None:
    for start, why in NOT_RUN.items():
        assert any(begins(command, start) for command in commands()), f"no page has: {start}"
        assert all((ROOT / file).is_file() for file in re.findall(r"tests/[\w/]+\.py", why)), why
