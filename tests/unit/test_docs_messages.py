"""docs/troubleshooting.md: each message stands in the code, word by word."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| (`+)(.+?) ?\1 \| \S", PAGE, re.MULTILINE)


def sentences() -> list[str]:
    """Texts of the package, … for what is filled in."""
    found = []
    for path in (ROOT / "recmind_dist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_of_the_page_stand_in_the_code() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(MESSAGES) == len(rows) >= 20
    known = sentences()
    gone = [one for _, one in MESSAGES if not any(one in sentence for sentence in known)]
    assert gone == []
