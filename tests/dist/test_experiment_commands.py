"""`recmind experiment` on the shop: real runs in processes, a table, a figure, and nothing done
twice.
"""

import json
from pathlib import Path

import pytest

from recmind_dist.cli import main
from tests.shop import SIZE, make_shop, recmind
from tests.tiny_language_model import make_bert

pytestmark = pytest.mark.dist_slow

COMMAND = ["experiment", "gating", "shop.yaml", "train.epochs=1", "--seeds", "2"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ray_home: Path) -> Path:
    home = tmp_path_factory.mktemp("shop")
    made = recmind(["synth", "synth", *SIZE], home, ray_home)
    assert made.returncode == 0, made.stderr
    make_shop(home)
    make_bert(home / "bert")
    return home


@pytest.mark.timeout(600)
def test_an_experiment_writes_its_table_and_figure_and_a_second_call_trains_nothing(
    shop: Path, ray_home: Path
) -> None:
    first = recmind(COMMAND, shop, ray_home, timeout_s=500)
    assert first.returncode == 0, first.stderr
    home = shop / "runs" / "shop" / "experiment-gating"
    told = json.loads((home / "table.json").read_text())
    for table in told["tables"]:
        models = [row["model"] for row in table["rows"]]
        assert models[0] == "gates"
        assert "fixed α" in models
        assert {row["runs"] for row in table["rows"]} == {2}
        assert {row["seen"] for row in table["rows"][1:]} <= {
            "not significant (2 of 3 seeds)",
            "not measured",
        }
    assert any("1 epochs" in note for note in told["notes"])
    assert (home / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "## recall@40, all items" in (home / "table.md").read_text()

    # titles of held-out edges are kept from user texts, where gates learn: both sets of texts stay,
    # none overwrites the other
    arms = [
        json.loads((home / "runs" / name / "inputs.json").read_text())
        for name in ("gates-seed0", "fixed-alpha-seed0")
    ]
    assert arms[0]["text"] != arms[1]["text"]
    kept = recmind(["evaluate", str(home / "runs" / "gates-seed0")], shop, ray_home)
    assert kept.returncode == 0, kept.stderr

    again = recmind(COMMAND, shop, ray_home, timeout_s=500)
    assert again.returncode == 0, again.stderr
    assert "done in" in first.stdout
    assert "done in" not in again.stdout
    assert json.loads((home / "table.json").read_text()) == told


def test_a_missing_file_is_named_before_anything_is_trained(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, "dataset.interactions.path=gone/log.csv", "run_dir=runs/refused"])
    assert stop.value.code == 2
    assert "gone/log.csv" in capfd.readouterr().err
    assert not (shop / "runs" / "refused").exists()
