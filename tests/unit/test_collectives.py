"""No collective stands behind a condition that may differ between ranks, and every function that
performs one says so.

A function is a collective if its docstring says "every rank must". A class whose docstring says so
is a collective when constructed and, as an autograd function, in `apply`. A call is recognized by
the name of what it calls. Where the class of a method's receiver is evident (`self`, a constructor,
an annotation), the method of that class decides; an unknown receiver counts as a collective.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE_ROOMS = {"recommend", "serving"}
"""Rooms that read bundles and know no ranks: import-linter keeps the transports from them."""
SOURCES = sorted(
    path for path in (ROOT / "recmind_dist").rglob("*.py") if path.parent.name not in ALONE_ROOMS
)

MARK = re.compile(r"every rank must (?!call what it returns)", re.IGNORECASE)
AGREED = re.compile(r"same on every rank|on every rank alike", re.IGNORECASE)
"""In the docstring of a function or property: what it returns is the same everywhere, so it may
decide.
"""
ALONE = re.compile(r"one rank alone", re.IGNORECASE)
"""In the docstring of a function that calls collectives where there is one rank, and which others
need not call.
"""
# of torch.distributed
NO_COLLECTIVES = {"is_initialized", "get_rank", "get_world_size", "HashStore"}
OF_LIBRARIES = {  # DeepSpeed's, and Ray Train's
    "GatheredParameters",
    "safe_get_full_optimizer_state",
    "safe_set_full_optimizer_state",
    "safe_set_full_fp32_param",
    "initialize",
    "init_distributed",
}
GLOBAL = {
    # settings and what follows from them alone
    "config",
    "settings",
    "scaling",
    "heldout_gates",
    "joint",
    "decay",
    "num_layers",
    "num_states",
    "num_neighbors",
    "gate_batch_size",
    "batch_of",
    "every_steps",
    "hide",
    "users_have_text",
    "shared_memory",
    "wire_dtype",
    "dtype",
    "negatives",
    "newest_decay",
    "norm_exponent",
    "resume",
    "trainable",
    "trains_gates",
    "withheld_items",
    "text_dim",
    "text_columns",
    "is_fixed",
    "_finds_content",
    "_full",
    "items_only",
    "aligns",
    "model",
    "gates",
    "Checkpoint",
    "AlphaRec",
    "PaperRecMind",
    "RecMind",
    "RecMindSettings",
    "XSimGCL",
    # what a run is: its phase and place in it, who takes part, its stores, its graph's held-out
    # edges, its model's parts
    "world_size",
    "cursor",
    "phase",
    "phases",
    "epochs",
    "steps_per_epoch",
    "checkpoint",
    "shard.graph",
    "shard.inputs",
    "is_initialized",
    "named",
    # what an epoch and a step are
    "first_step",
    "shared",
    "users_first",
    "_age",
    "_aligns",
    "_contrasts",
    "_contrast",
    "_heldout",
    "_gate_edges",
    "_loaders",
    "details",
    "_rows_of_all",
    "_sample",
    # of one exchange
    "works",
    "row_bytes",
    "PASSED_BYTES",
    "most_rows",
}
"""Names, of variables, parameters and attributes, that hold the same on every rank, with all that
is in them.
"""
PRESENT = {
    "masked_edges",
    "z_uD",
    "z_nD",
    "momentum",
    "text_u",
    "text_n",
    "text_nT",
    "text_view",
    "mix",
    "z",
    "z_ND",
    "key_model",
    "keys",
    "contrast",
    "gate_index",
    "hot",
    "dense",
    "mailboxes",
    "grid",
    "base",
    "receive",
    "_sampler",
    "context",
    "_content",
    "_newest",
    "_propagation",
    "content_plan",
    "of_newest",
    "gate",
    "operator",
    "base_states",
    "held_out",
    "heldout",
    "whitening",
    "text",
    "users",
}
"""Names of what differs between ranks, but not in whether it is there, or is another one than
before: `is`, `is not`.
"""
AS_MANY = {"batches", "steps", "views"}
"""Names of what differs between ranks, but not in how many there are: a loop over it runs as often
on all of them.
"""
COMMON = {"wait": {"ids", "pending", "work"}}
"""Methods of collectives with a common name → their receivers, where the class is not evident."""
HARMLESS = {"queue.load_state"}
"""Receiver and method that share a collective's name, where the class is not evident."""
BUILTINS = {
    "len",
    "range",
    "min",
    "max",
    "any",
    "all",
    "sorted",
    "zip",
    "enumerate",
    "isinstance",
    "bool",
    "int",
    "float",
    "str",
    "list",
    "dict",
    "tuple",
    "set",
    "reversed",
    "round",
    "abs",
    "sum",
    "type",
    "map",
    "getattr",
    "iter",
    "next",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def said(node: Function | ast.ClassDef) -> str:
    return " ".join((ast.get_docstring(node) or "").split())


def terminal(node: ast.expr) -> str:
    """The last name of `a.b.c`."""
    return (
        node.attr
        if isinstance(node, ast.Attribute)
        else node.id
        if isinstance(node, ast.Name)
        else ""
    )


def definitions(
    tree: ast.AST, holder: ast.ClassDef | None = None
) -> Iterator[tuple[Function | ast.ClassDef, ast.ClassDef | None]]:
    """Functions, methods and classes, each with its class; nested functions are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node, holder
        if isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
            yield from definitions(node, node if isinstance(node, ast.ClassDef) else holder)


@dataclass
class Package:
    """Names of collectives, and of what is the same on every rank."""

    functions: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    agreed: set[str] = field(default_factory=set)
    members: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Class → its methods, and whether each is a collective."""
    bases: dict[str, list[str]] = field(default_factory=dict)
    returns: dict[str, str] = field(default_factory=dict)
    """Function → the class that its annotation promises."""

    def add(self, tree: ast.Module) -> "Package":
        for node, holder in definitions(tree):
            marked = MARK.search(said(node)) is not None
            if isinstance(node, ast.ClassDef):
                kind = self.classes
                self.members.setdefault(node.name, {})
                self.bases[node.name] = [terminal(base) for base in node.bases]
            elif holder is None:
                kind = self.functions
                self.returns[node.name] = class_name(node.returns)
            else:
                kind = self.methods
                methods = self.members.setdefault(holder.name, {})
                methods[node.name] = marked or methods.get(node.name, False)
            if marked:
                kind.add(node.name)
            if isinstance(node, Function) and AGREED.search(said(node)):
                self.agreed.add(node.name)
        return self

    def declares(self, owner: str, method: str) -> bool | None:
        """Whether this method of a class, or of its bases, is a collective.

        None if no class has it, or a protocol, which does not know what implements it.
        """
        bases = self.bases.get(owner, [])
        known = self.members.get(owner, {}).get(method)
        if known is not None:
            return known or (None if "Protocol" in bases else False)
        inherited = (self.declares(base, method) for base in bases)
        return next((x for x in inherited if x is not None), None)

    def seen_from(self, tree: ast.Module) -> "Package":
        """As a module sees it, to which names with an underscore are its own alone."""
        own = Package().add(tree)
        return Package(
            *(_public(theirs) | mine for theirs, mine in zip(self.sets, own.sets, strict=True)),
            members=self.members | own.members,
            bases=self.bases | own.bases,
            returns=self.returns | own.returns,
        )

    @property
    def sets(self) -> tuple[set[str], ...]:
        return self.functions, self.methods, self.classes, self.agreed

    def is_collective(self, call: ast.Call, owner: str | None = None) -> bool:
        """`owner`: the class of a method's receiver, where that is evident."""
        name, function = terminal(call.func), call.func
        if isinstance(function, ast.Name):
            return name in self.functions | self.classes | OF_LIBRARIES
        base = terminal(function.value) if isinstance(function, ast.Attribute) else ""
        if base == "dist":
            return name not in NO_COLLECTIVES
        if name == "apply":
            return base in self.classes
        declared = None if owner is None else self.declares(owner, name)
        if declared is not None:
            return declared
        if name in COMMON:
            return base in COMMON[name]
        return (
            f"{base}.{name}" not in HARMLESS
            and name in self.functions | self.methods | self.classes | OF_LIBRARIES
        )


def class_name(annotation: ast.expr | None) -> str:
    """The class that an annotation names: `T`, `"T"` or `T | None`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        annotation = annotation.left
    return terminal(annotation) if annotation is not None else ""


def _public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


Condition = ast.expr | ast.ExceptHandler | ast.withitem


@dataclass
class Reader(ast.NodeVisitor):
    """Walks one function, nested ones in their place, and notes each collective and each assignment
    with the conditions
    under which it is reached.
    """

    package: Package
    others: set[str]
    """Functions of the module that share a collective's name at most."""
    holder: str = ""
    """The class whose method this is."""
    modules: set[str] = field(default_factory=set)
    """Modules that are imported whole."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Parameter → the class that its annotation names."""
    calls: list[tuple[ast.Call, list[Condition]]] = field(default_factory=list)
    assigned: dict[str, list[tuple[ast.expr | None, list[Condition]]]] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    def block(self, statements: Iterable[ast.stmt], *more: Condition) -> None:
        """Statements under these conditions; each leaves to those after it the conditions under
        which it leaves them out.
        """
        before = self.conditions
        self.conditions = [*before, *more]
        for statement in statements:
            self.visit(statement)
            self.conditions = [
                *self.conditions,
                *(test for _, tests in exits([statement]) for test in tests),
            ]
        self.conditions = before

    def under(self, node: ast.AST | None, *more: Condition) -> None:
        before = self.conditions
        self.conditions = [*before, *more]
        if node is not None:
            self.visit(node)
        self.conditions = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.annotations |= {arg.arg: class_name(arg.annotation) for arg in arguments}
        self.block(node.body)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self.block(node.body, node.test)
        self.block(node.orelse, node.test)

    def visit_While(self, node: ast.While) -> None:
        leaves = [test for kind, tests in exits(node.body) for test in tests if kind != "continue"]
        self.under(node.test, node.test, *leaves)
        self.block(node.body, node.test, *leaves)
        self.block(node.orelse, node.test, *leaves)

    def visit_For(self, node: ast.For) -> None:
        leaves = [test for kind, tests in exits(node.body) for test in tests if kind != "continue"]
        self.visit(node.iter)
        self.assign(node.target, node.iter)
        self.block(node.body, *times(node.iter), *leaves)
        self.block(node.orelse, *times(node.iter), *leaves)

    def visit_Try(self, node: ast.Try) -> None:
        swallowing = [h for h in node.handlers if not isinstance(h.body[-1], ast.Raise)]
        self.block([*node.body, *node.orelse], *swallowing)
        for handler in node.handlers:
            self.block(handler.body, handler)
        self.block(node.finalbody)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, item.context_expr)
        suppressing = [i for i in node.items if "suppress" in ast.unparse(i.context_expr)]
        self.block(node.body, *suppressing)

    def visit_Match(self, node: ast.Match) -> None:
        for case in node.cases:
            self.block(case.body, node.subject, *([case.guard] if case.guard else []))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self.under(node.body, node.test)
        self.under(node.orelse, node.test)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for i, value in enumerate(node.values):
            self.under(value, *node.values[:i])

    def comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        conditions: list[Condition] = []
        for part in node.generators:
            self.under(part.iter, *conditions)
            self.assign(part.target, part.iter)
            conditions += [*times(part.iter), *part.ifs]
        for made in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.under(made, *conditions)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = comprehension

    def visit_Call(self, node: ast.Call) -> None:
        if not self.shares_name(node) and self.package.is_collective(node, self.owner(node)):
            self.calls.append((node, self.conditions))
        self.generic_visit(node)

    def shares_name(self, call: ast.Call) -> bool:
        """Whether a function of this or of an imported module bears a collective's name."""
        if isinstance(call.func, ast.Name):
            return call.func.id in self.others
        base = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(base, ast.Call) and terminal(base.func) == "super":
            bases = self.package.bases.get(self.holder, [])
            return not any(name in self.package.members for name in bases)
        return isinstance(base, ast.Name) and base.id in self.modules

    def owner(self, call: ast.Call) -> str | None:
        """The class of the object whose method is called, where it is evident."""
        if not isinstance(call.func, ast.Attribute):
            return None
        base: ast.expr | None = call.func.value
        if isinstance(base, ast.Name):
            if base.id == "self":
                return self.holder
            values = self.assigned.get(base.id, [])
            if not values:
                return self.annotations.get(base.id)
            base = values[0][0] if len(values) == 1 else None
        if isinstance(base, ast.Call):
            name = terminal(base.func)
            return name if name in self.package.members else self.package.returns.get(name)
        return None

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.assign(node.target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        self.assign(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.assign(node.target, node.value)

    def assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.assigned.setdefault(target.id, []).append((value, self.conditions))
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            alike = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
            values = (
                value.elts
                if alike and isinstance(value, ast.Tuple | ast.List)
                else [value] * len(target.elts)
            )
            for part, of in zip(target.elts, values, strict=True):
                self.assign(part, of)

    def differs(self, node: Condition, asked: frozenset[str] = frozenset()) -> bool:
        """Whether ranks may see different values: all that is not known to be the same."""
        if isinstance(node, ast.Constant):
            return False
        if isinstance(node, ast.Name):
            known = node.id in GLOBAL or node.id.isupper() or node.id in asked
            return not known and self._variable_differs(node.id, asked | {node.id})
        if isinstance(node, ast.Compare) and all(
            isinstance(kind, ast.Is | ast.IsNot) for kind in node.ops
        ):
            return any(
                terminal(x.value if isinstance(x, ast.Subscript) else x) not in PRESENT
                and self.differs(x, asked)
                for x in (node.left, *node.comparators)
            )
        if isinstance(node, ast.Attribute):
            known = (
                node.attr in GLOBAL | self.package.agreed
                or f"{terminal(node.value)}.{node.attr}" in GLOBAL
            )
            return not known and (terminal(node.value) == "self" or self.differs(node.value, asked))
        if isinstance(node, ast.Call):
            name = terminal(node.func)
            if name in self.package.agreed | GLOBAL:
                return False
            base = node.func.value if isinstance(node.func, ast.Attribute) else None
            function = name not in BUILTINS if base is None else self.differs(base, asked)
            given = [*node.args, *(word.value for word in node.keywords)]
            return function or any(self.differs(x, asked) for x in given)
        if isinstance(node, ast.ExceptHandler | ast.withitem | ast.Lambda):
            return True
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            parts += [x for part in node.generators for x in (part.iter, *part.ifs)]
        return any(self.differs(part, asked) for part in parts)

    def _variable_differs(self, name: str, asked: frozenset[str]) -> bool:
        found = self.assigned.get(name)
        if found is None:
            return True  # a parameter, or of another module
        return any(
            value is None
            or self.differs(value, asked)
            or any(self.differs(test, asked) for test in tests)
            for value, tests in found
        )


def times(iterated: ast.expr) -> list[Condition]:
    """What decides how often a loop runs: nothing, where it goes through what is written out or as
    many everywhere.
    """
    while (
        isinstance(iterated, ast.Call)
        and terminal(iterated.func) in ("enumerate", "reversed")
        and iterated.args
    ):
        iterated = iterated.args[0]
    names = {node.id for node in ast.walk(iterated) if isinstance(node, ast.Name)}
    return [] if isinstance(iterated, ast.Tuple | ast.List) or names & AS_MANY else [iterated]


def exits(statements: Iterable[ast.stmt]) -> list[tuple[str, list[Condition]]]:
    """Ways out of a block ("return", "break", "continue") with the conditions inside it; an error
    ends the run, which is
    another matter.
    """
    found: list[tuple[str, list[Condition]]] = []
    for node in statements:
        inner: list[tuple[Iterable[ast.stmt], list[Condition], bool]] = []
        if isinstance(node, ast.Return | ast.Break | ast.Continue):
            found.append((type(node).__name__.lower(), []))
        elif isinstance(node, ast.If):
            inner = [(node.body, [node.test], False), (node.orelse, [node.test], False)]
        elif isinstance(node, ast.For):
            inner = [(node.body, times(node.iter), True), (node.orelse, times(node.iter), False)]
        elif isinstance(node, ast.While):
            inner = [(node.body, [node.test], True), (node.orelse, [node.test], False)]
        elif isinstance(node, ast.With):
            inner = [(node.body, [], False)]
        elif isinstance(node, ast.Try):
            inner = [(node.body, [], False), (node.orelse, [], False), (node.finalbody, [], False)]
            inner += [(handler.body, [handler], False) for handler in node.handlers]
        elif isinstance(node, ast.Match):
            inner = [(case.body, [node.subject], False) for case in node.cases]
        for body, tests, is_loop in inner:
            found += [
                (kind, tests + more)
                for kind, more in exits(body)
                if not is_loop or kind == "return"
            ]
    return found


def read(
    source: str, package: Package | None
) -> Iterator[tuple[Function, ast.ClassDef | None, Reader]]:
    tree = ast.parse(source)
    found = [(node, holder) for node, holder in definitions(tree) if isinstance(node, Function)]
    others = {node.name for node, holder in found if holder is None and not MARK.search(said(node))}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = {
        (alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names
    }
    for node, holder in found:
        reader = Reader(
            (package or Package()).seen_from(tree), others, holder.name if holder else "", modules
        )
        reader.visit(node)
        yield node, holder, reader


def conditional(source: str, package: Package | None = None) -> list[str]:
    """Collectives behind conditions that may differ."""
    found = set()
    for node, _, reader in read(source, package):
        for call, tests in () if ALONE.search(said(node)) else reader.calls:
            for test in filter(reader.differs, tests):
                line = test.context_expr.lineno if isinstance(test, ast.withitem) else test.lineno
                shown = ast.unparse(test).splitlines()[0]
                found.add(f"{call.lineno}: {terminal(call.func)} behind line {line}: {shown}")
    return sorted(found)


def silent(source: str, package: Package | None = None) -> list[str]:
    """Functions that perform a collective and do not say so."""
    found = []
    for node, holder, reader in read(source, package):
        is_classs = holder is not None and node.name in ("__init__", "forward", "backward")
        words = said(node) + (said(holder) if holder is not None and is_classs else "")
        if reader.calls and not MARK.search(words) and not ALONE.search(words):
            found.append(f"{node.lineno}: {node.name} calls {terminal(reader.calls[0][0].func)}")
    return found


@pytest.fixture(scope="module")
def package() -> Package:
    found = Package()
    for path in SOURCES:
        found.add(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_the_whole_package_is_read(package: Package) -> None:
    assert len(SOURCES) > 100
    assert len(package.functions | package.methods) > 50
    assert {"TrainingLoss", "LightGCN", "Graph"}.isdisjoint(package.classes)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_collective_is_behind_a_condition_that_may_differ(path: Path, package: Package) -> None:
    assert conditional(path.read_text(encoding="utf-8"), package) == []


# models know no ranks: they call what they are handed, under conditions that are judged above
SPEAKING = [path for path in SOURCES if path.parent.name != "model"]


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_who_performs_a_collective_says_so(path: Path, package: Package) -> None:
    assert silent(path.read_text(encoding="utf-8"), package) == []


COLLECTIVE = """
def all_sum(x):
    '''Sum, the same on every rank. Every rank must call.'''

def all_send(x):
    '''Collective: every rank must call.'''

class _Fetch(Function):
    '''Every rank must apply it.'''

class Way:
    def all_to_all(self, x):
        '''Every rank must call.'''
    def wait(self):
        '''Every rank must call.'''

class Engine(Way):
    def run(self):
        '''Every rank must call.'''

class Command:
    def run(self):
        pass

class Runner(Protocol):
    def run(self):
        pass
"""


def example(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    head = "def step(self, ranks, rows, config, way, text_n):"
    return f"{COLLECTIVE}\n{head}\n    '''Every rank must call.'''\n{lines}\n"


@pytest.mark.parametrize(
    "body",
    [
        "if len(rows):\n    all_send(rows)",
        "if ranks.rank == 0:\n    all_send(rows)",
        "if len(rows):\n    pass\nelse:\n    all_send(rows)",
        "if not len(rows):\n    return\nall_send(rows)",
        "if config.trains:\n    if not len(rows):\n        return\nall_send(rows)",
        "while len(rows):\n    rows = all_send(rows)",
        "for row in rows:\n    all_send(row)",
        "for k in range(len(rows)):\n    all_send(rows)",
        "for k in range(3):\n    all_send(rows)\n    if not len(rows):\n        break",
        "for k in range(3):\n    if not len(rows):\n        continue\n    all_send(rows)",
        "x = all_send(rows) if len(rows) else None",
        "x = len(rows) and all_send(rows)",
        "x = config.trains or len(rows) or all_send(rows)",
        "x = [all_send(row) for row in rows]",
        "x = [all_send(k) for k in range(3) if k < len(rows)]",
        "some = len(rows) > 0\nif some:\n    all_send(rows)",
        "found = None\nif len(rows):\n    found = 1\nif found is not None:\n    all_send(rows)",
        "if text_n is not None and len(text_n):\n    all_send(rows)",
        "try:\n    open('x')\n    all_send(rows)\nexcept OSError:\n    pass",
        "try:\n    open('x')\nexcept OSError:\n    all_send(rows)",
        "try:\n    open('x')\nexcept OSError:\n    return\nall_send(rows)",
        "with contextlib.suppress(OSError):\n    all_send(rows)",
        "def later():\n    if len(rows):\n        all_send(rows)\nreturn later",
        "if Path('x').exists():\n    way.all_to_all(rows)",
        "if len(rows):\n    _Fetch.apply(rows)",
        "if len(rows):\n    dist.all_reduce(rows)",
        "if len(rows):\n    Engine().run()",
        "if len(rows):\n    Engine().all_to_all(rows)",
        "engine = Engine()\nif len(rows):\n    engine.run()",
        "if len(rows):\n    text_n.run()",
        "if len(rows):\n    pending.wait()",
        "def later(x: Runner):\n    if len(rows):\n        x.run()",
        "match len(rows):\n    case 0:\n        all_send(rows)",
    ],
)
def test_the_search_finds_what_may_differ(body: str) -> None:
    assert conditional(example(body))


@pytest.mark.parametrize(
    "body",
    [
        "all_send(rows)",
        "if ranks.world_size == 1:\n    return rows\nall_send(rows)",
        "if config.trains and config.train.epochs > 2:\n    all_send(rows)",
        "fixed = config.a if config.b else 3\nif fixed:\n    all_send(rows)",
        "while all_sum(rows) > 0:\n    all_send(rows)",
        "total = all_sum(rows)\nif total:\n    all_send(rows)",
        "for k in range(config.layers):\n    all_send(rows)",
        "for x in (rows, text_n):\n    all_send(x)",
        "if text_n is not None:\n    all_send(rows)",
        "if not len(rows):\n    raise ValueError\nall_send(rows)",
        "if len(rows):\n    rows = rows + 1\nall_send(rows)",
        "try:\n    all_send(rows)\nexcept OSError as error:\n    raise ValueError from error",
        "if len(rows):\n    send(rows)\n    dist.get_rank()",
        "all_send(rows if len(rows) else None)",
        "if len(rows):\n    Command().run()",
        "command = Command()\nif len(rows):\n    command.run()",
        "import subprocess\nif len(rows):\n    subprocess.run(rows)",
        "if len(rows):\n    event.wait()",
    ],
)
def test_the_search_leaves_the_harmless_alone(body: str) -> None:
    assert conditional(example(body)) == []


def test_the_search_finds_who_is_silent() -> None:
    quiet = "def quiet(x):\n    all_send(x)\n"
    single = "def single(x):\n    '''For one rank alone.'''\n    return lambda: all_send(x)\n"
    assert silent(COLLECTIVE + quiet + single) == ["28: quiet calls all_send"]
