"""On a terminal too a command says nothing that is not its own, and a bar ends once."""

import os
import random
import re
import sys
from pathlib import Path

from tests.publishers import amazon2023
from tests.terminal import on_a_terminal

RECMIND = Path(sys.executable).parent / "recmind"
OURS = (
    r"variant popularity: in run",
    r"(log|columns|users|items|graph|held out): .+",
    r"warning: .+",
    r"shop, test split, .+|The same, with the validation item .+|What the lists are like",
    r" .*",  # of tables
    r"±: half a 95 % interval .+",
)


def command(home: Path, *words: str, output: Path | None = None) -> list[str]:
    """Lines of `recmind …` in `home`."""
    code, lines = on_a_terminal([str(RECMIND), *words], home, os.environ, output)
    assert code == 0, "\n".join(lines)
    return lines


def test_every_line_of_a_run_is_ours(tmp_path: Path) -> None:
    drawn = random.Random(3)
    rows = [f"u{u},i{i},{k}" for u in range(40) for k, i in enumerate(drawn.sample(range(90), 6))]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    (tmp_path / "shop.yaml").write_text(
        "run_dir: run\nvariant: popularity\ndataset: {name: shop, interactions: log.csv}\n"
    )
    lines = command(tmp_path, "run", "shop.yaml")
    assert [line for line in lines if not any(re.fullmatch(one, line) for one in OURS)] == []
    assert lines[0] == "variant popularity: in run"
    assert any(line.split()[:1] == ["popularity"] for line in lines)


def test_a_bar_ends_with_one_full_line(tmp_path: Path) -> None:
    files = [str(path) for path in amazon2023(tmp_path)]
    lines = command(tmp_path, "import", "amazon2023", *files, "--to", "data")
    bars = [line for line in lines if line.startswith("import ")]
    assert bars
    assert [line for line in bars if "0 MBs/s" in line.replace(".0", "")] == []
    after = lines[lines.index(bars[-1]) + 1 :]
    assert after
    assert not [line for line in after if "━" in line]


def test_what_goes_to_a_file_is_not_drawn_beside_the_bar(tmp_path: Path) -> None:
    files = [str(path) for path in amazon2023(tmp_path)]
    said = tmp_path / "said.txt"
    lines = command(tmp_path, "import", "amazon2023", *files, "--to", "data", output=said)
    assert {line.split()[0] for line in lines} == {"import"}
    assert said.read_text().splitlines()[-1].endswith("next: recmind run data/config.yaml")
