"""What the package and the launchers never do: read a pickle, run a text as code, let a model bring
its own code, or seed
generators that all threads share.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "recmind_dist").rglob("*.py"), *(ROOT / "launchers").rglob("*.py")])
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "jsonpickle",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load": "reads pickles",
    "torch.save": "writes pickles",
    "torch.hub.load": "runs code from elsewhere",
    "torch.jit.load": "runs code from the file",
    "torch.package.PackageImporter": "runs code from the file",
    "torch.distributed.checkpoint.load": "its metadata is a pickle",
    "torch.utils.data.DataLoader": "its workers pass pickles",
    "numpy.fromfile": "reads without a check of size",
    "pandas.read_pickle": "reads pickles",
    "polars.DataFrame.deserialize": "may read pickles",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "shutil.unpack_archive": "unpacks by the archive's own paths",
    "torch.manual_seed": "reseeds the whole process under another thread's feet: see randomness.py",
    "torch.seed": "as torch.manual_seed",
    "numpy.random.seed": "as torch.manual_seed",
    "random.seed": "as torch.manual_seed",
    "tempfile.mktemp": "names a file that another may make first",
}
METHODS = {  # of any object
    "extractall": "unpacks by the archive's own paths",
    "extract": "unpacks by the archive's own path",
    "load_checkpoint": "DeepSpeed's checkpoints are pickles",
}
OBJECT_COLLECTIVES = {  # of torch.distributed: what peers send is unpickled
    "all_gather_object",
    "gather_object",
    "broadcast_object_list",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
}
KEYWORDS = {"trust_remote_code", "allow_pickle", "shell", "weights_only"}


class Visitor(ast.NodeVisitor):
    """Collects what is forbidden, with its line."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # name here → full name
        self.faults: list[tuple[int, str]] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)
            self.names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            self._check_module(node, full)
            self.names[alias.asname or alias.name] = full
            if alias.name in OBJECT_COLLECTIVES:
                self.faults.append((node.lineno, f"{alias.name}: unpickles what a peer sends"))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in BUILTINS and node.id not in self.names:
            self.faults.append((node.lineno, node.id))
        self._check_name(node, self.names.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._check_name(node, self._full(node))
        if node.attr in OBJECT_COLLECTIVES:
            self.faults.append((node.lineno, f"{node.attr}: unpickles what a peer sends"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            safe = (
                any(word.arg == "filter" for word in node.keywords)
                and node.func.attr != "load_checkpoint"
            )
            if not safe and not _of_polars(node.func):
                self.faults.append((node.lineno, f"{node.func.attr}: {METHODS[node.func.attr]}"))
        for word in node.keywords:
            if word.arg in KEYWORDS and not (
                isinstance(word.value, ast.Constant) and word.value.value is False
            ):
                self.faults.append((node.lineno, f"{word.arg} other than False"))
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "load"
            and self._full(node.func) == "numpy.load"
        ):
            words = {word.arg for word in node.keywords}
            if "allow_pickle" not in words:
                self.faults.append((node.lineno, "numpy.load without allow_pickle=False"))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            named = isinstance(key, ast.Constant) and key.value in KEYWORDS
            if named and not (isinstance(value, ast.Constant) and value.value is False):
                self.faults.append(
                    (
                        node.lineno,
                        "a dictionary's trust_remote_code or allow_pickle other than False",
                    )
                )
        self.generic_visit(node)

    def _check_module(self, node: ast.AST, name: str) -> None:
        if name.partition(".")[0] in MODULES:
            self.faults.append((getattr(node, "lineno", 0), f"import {name}"))
        self._check_name(node, name)

    def _check_name(self, node: ast.AST, name: str) -> None:
        if name in CALLS:
            self.faults.append((getattr(node, "lineno", 0), f"{name}: {CALLS[name]}"))

    def _full(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{self._full(node.value)}.{node.attr}"
        return self.names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _of_polars(function: ast.Attribute) -> bool:
    """`column.str.extract(…)` takes a pattern out of texts."""
    return isinstance(function.value, ast.Attribute) and function.value.attr == "str"


def faults(source: str) -> list[tuple[int, str]]:
    visitor = Visitor()
    visitor.visit(ast.parse(source))
    return sorted(visitor.faults)


def test_the_whole_package_is_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in SOURCES}
    assert {
        "recmind_dist/text/encoder.py",
        "recmind_dist/cli/app.py",
        "launchers/train.py",
    } <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_could_run_what_it_reads(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def examples() -> Iterator[str]:
    yield "import pickle"
    yield "from pickle import loads"
    yield "import yaml"
    yield "def f():\n    import torch\n    torch.load('x')"
    yield "from torch import load\nload('x')"
    yield "import torch as t\nread = t.load"
    yield "import torch.distributed.checkpoint as dcp\ndcp.load({})"
    yield "eval('1')"
    yield "run = exec"
    yield "f(trust_remote_code=True)"
    yield "safe = {'trust_remote_code': flag}"
    yield "import numpy as np\nnp.load('x', allow_pickle=True)"
    yield "import numpy as np\nnp.load('x')"
    yield "archive.extractall('.')"
    yield "archive.extract(member)"
    yield "import shutil\nshutil.unpack_archive('a')"
    yield "import subprocess\nsubprocess.run('ls', shell=True)"
    yield "engine.load_checkpoint('d')"
    yield "import torch.distributed as dist\ndist.all_gather_object(told, mine)"
    yield "import torch\ntorch.distributed.broadcast_object_list(told)"
    yield "import torch.distributed as dist\ngather = dist.gather_object"
    yield "from torch.distributed import scatter_object_list"
    yield "import torch\ntorch.manual_seed(1)"
    yield "import numpy as np\nnp.random.seed(1)"
    yield "from random import seed\nseed(1)"


@pytest.mark.parametrize("source", list(examples()))
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert faults(source), source


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('a')",
        "archive.extractall('.', filter='data')",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "from safetensors.torch import load_file\nload_file('x')",
        "column.str.extract('a')",
        "import torch.distributed as dist\ndist.all_gather(told, mine)",
        "import torch\ntorch.Generator().manual_seed(1)",
    ],
)
def test_the_search_leaves_the_harmless_alone(source: str) -> None:
    assert faults(source) == []
