"""docs/architecture.md and the tree agree, and no two files of the package import each other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "recmind_dist"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def rooms_of_the_page() -> list[str]:
    return re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)


def test_the_page_lists_the_rooms_of_the_tree() -> None:
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(rooms_of_the_page()) == sorted(found)


def test_the_page_lists_rooms_in_the_order_of_the_layers() -> None:
    settings = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    layers, rooms = re.findall(r'"recmind_dist\.(\w+)"', settings), rooms_of_the_page()
    assert [layer for layer in layers if layer in rooms] == rooms


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def imports(path: Path) -> set[str]:
    """Modules of the package that a module imports when it is imported itself."""
    tree, found = ast.parse(path.read_text()), set()
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in later:
            continue
        if (node.module or "").startswith("recmind_dist"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports(path)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: found & modules.keys() for name, found in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())
