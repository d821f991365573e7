"""The notebooks of docs/notebooks run from top to bottom, on a tiny language model, without Ray."""

import os
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.run_config.load import load_run_config
from tests.tiny_language_model import make_bert
from tests.training_runs import embed_here

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
nbformat = pytest.importorskip("nbformat", reason="pip install '.[docs]'")
nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]'")


def code_of(name: str) -> list[str]:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first notebook's files, a language model, and the vectors of the texts."""
    home, names = tmp_path_factory.mktemp("notebooks"), dict[str, Any]()
    here = Path.cwd()
    os.chdir(home)
    try:
        make_bert(Path("models/minilm"))
        for cell in code_of("first_model")[:2]:
            exec(cell, names)
        embed_here(load_run_config(Path("shop.yaml")).absolute())
    finally:
        os.chdir(here)
    return home


def outputs(name: str, home: Path) -> tuple[list[Any], str]:
    """Runs a notebook in `home`. Returns what its cells show, by kind, and what they print."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(home)}}
    nbclient.NotebookClient(notebook, timeout=200, resources=resources).execute()
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [one["data"] for one in found if "data" in one], "".join(
        one["text"] for one in found if one["output_type"] == "stream"
    )


@pytest.mark.timeout(300)
def test_the_notebooks_run_and_show_what_they_say(home: Path) -> None:
    shown, said = outputs("first_model", home)
    assert "embedded 0 of 80 texts" in said  # so Ray was not needed
    metrics, strata, known, new, similar = (eval(data["text/plain"]) for data in shown[1:])
    assert 0 < metrics["ndcg@20"] <= metrics["recall@20"] <= 1
    assert {"cold", "4-7"} <= strata.keys()
    assert len(known) == len(new) == len(similar) == 5
    assert {item for item, _ in new}.isdisjoint({"guitar-3", "guitar-1"})

    (figure, by_history, shares), _ = outputs("gates", home)
    assert "image/png" in figure
    gates = eval(by_history["text/plain"])
    assert all(sum(gate.values()) == pytest.approx(1, abs=0.01) for gate in gates)
    assert len({gate["graph"] for gate in gates}) > 1
    assert {view for view, _ in eval(shares["text/plain"])} == gates[0].keys()


def test_notebooks_are_kept_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs")]
