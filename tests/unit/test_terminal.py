"""On a terminal too a command says nothing that is not its own, and its bar ends full."""

import os
import re
import sys
from pathlib import Path

from tests.publishers import amazon2023
from tests.terminal import on_a_terminal

RECMIND = Path(sys.executable).parent / "recmind"
BAR = r"import .* MB [01]/1 .*━+"
OURS = (
    BAR,
    r"\S+\.jsonl\.gz \(.+\): \d+ rows in = \d+ kept \+ 0 set aside",
    r"(interactions|items)\.parquet: .+",
    r"data/config\.yaml: written; next: recmind run data/config\.yaml",
)


def imported(home: Path, output: Path | None = None) -> list[str]:
    """Lines that an import shows on a terminal."""
    # relative: a long path would be broken over two lines
    files = [str(path.relative_to(home)) for path in amazon2023(home)]
    command = [str(RECMIND), "import", "amazon2023", *files, "--to", "data"]
    code, lines = on_a_terminal(command, home, os.environ, output)
    assert code == 0, "\n".join(lines)
    return lines


def test_every_line_is_ours_and_the_bar_ends_full(tmp_path: Path) -> None:
    lines = imported(tmp_path)
    assert [line for line in lines if not any(re.fullmatch(one, line) for one in OURS)] == []
    bars = [line for line in lines if re.fullmatch(BAR, line)]
    assert " MB 1/1 " in bars[-1]
    assert lines[-1].startswith("data/config.yaml: written"), "nothing is drawn after the end"


def test_what_goes_to_a_file_is_not_drawn_beside_the_bar(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    lines = imported(tmp_path, said)
    assert {line.split()[0] for line in lines} == {"import"}
    assert said.read_text().splitlines()[-1].endswith("next: recmind run data/config.yaml")
