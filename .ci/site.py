"""The docs site: pages of docs/ and benchmarks/, and docs/notebooks as pages, built by zensical.

python .ci/site.py TARGET        TARGET/site/index.html; TARGET is emptied first
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def main() -> None:
    """The command."""
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    for source in sources():
        write_page(source, target / "pages" / place(source))
    shutil.copy(ROOT / "zensical.toml", target)
    zensical = [sys.executable, "-m", "zensical", "build", "--strict"]
    config = target.absolute() / "zensical.toml"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # docstrings of this checkout
    done = subprocess.run([*zensical, "--config-file", str(config)], env=env, check=False)
    sys.exit(done.returncode)


def sources() -> list[Path]:
    """Files that the site holds, by their place in the repository."""
    patterns = (
        "docs/**/*.md",
        "docs/notebooks/*.ipynb",
        "docs/*.svg",
        "benchmarks/*.md",
        "benchmarks/*.png",
    )
    found = [path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)]
    return [*sorted(found), Path("CHANGELOG.md"), Path("SECURITY.md")]


def place(source: Path) -> Path:
    """Where the site has a file of the repository: docs/ is its top, notebooks are pages."""
    inside = source.relative_to("docs") if source.is_relative_to("docs") else source
    return inside.with_suffix(".md") if source.suffix == ".ipynb" else inside


def write_page(source: Path, page: Path) -> None:
    """Copies a file; links between files of the repository become links between pages."""
    page.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in (".png", ".svg"):
        shutil.copy(ROOT / source, page)
        return
    text = (ROOT / source).read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        text = notebook_page(json.loads(text))

    def moved(link: re.Match[str]) -> str:
        linked = Path(os.path.normpath(source.parent / link[2]))
        return link[1] + os.path.relpath(place(linked), place(source).parent)

    page.write_text(LINK.sub(moved, text), encoding="utf-8")


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
