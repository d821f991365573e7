"""Conditions on items: `category == "Kids" and price < 20 and not contains(title, "used")`.

Python's own syntax, parsed and never run. A condition has comparisons (`==`, `!=`, `<`, `<=`, `>`,
`>=`, also chained), `in` and `not in` with a list of constants, `"text" in column` and
`contains(column, "text")` (a part of a string, an element of a list), `column == None` for items
without a value, `and`, `or`, `not`. A column is a name, with dots where its own name or a struct
has them, or `column("any name")`. An item without a value fulfils no comparison, not even `!=`.
"""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import Bundle, arrow_numbers, numbers_of
from recmind_dist.types import BoolArray

MAX_LENGTH = 10_000
_QUOTED = 100  # characters of a condition that an error repeats
_MAX_DEPTH = 100
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {  # and what it is with its sides exchanged
    ast.Eq: ("equal", "equal"),
    ast.NotEq: ("not_equal", "not_equal"),
    ast.Lt: ("less", "greater"),
    ast.LtE: ("less_equal", "greater_equal"),
    ast.Gt: ("greater", "less"),
    ast.GtE: ("greater_equal", "less_equal"),
}
_HELP = (
    'write a condition on columns, such as category == "Kids" and price < 20, or '
    'contains(title, "lamp")'
)


def mask(where: str, bundle: Bundle) -> BoolArray:
    """Which items fulfil a condition. Shape: [I].

    Raises:
        DataError: it cannot be read, names a column that is not there, or compares what cannot be
            compared.
    """
    if len(where) > MAX_LENGTH:
        raise DataError(f"where: {len(where)} characters, more than {MAX_LENGTH}: use --items FILE")
    try:
        tree = ast.parse(where.strip(), mode="eval").body
        found = _Condition(where, bundle).mask_of(tree, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"where: {_quoted(where)} cannot be read: {_HELP}") from error
    allowed = np.zeros(bundle.num_items, np.bool_)
    allowed[_true_rows(found)] = True
    return allowed


class _Condition:
    """Evaluates a parsed condition over the columns of a bundle's items."""

    def __init__(self, where: str, bundle: Bundle) -> None:
        self._where, self._bundle = where, bundle

    def mask_of(self, node: ast.expr, depth: int) -> pa.Array:
        """True, false or null an item."""
        if depth > _MAX_DEPTH:
            raise self._refused(node)
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            found = self.mask_of(node.values[0], depth + 1)
            for value in node.values[1:]:
                found = join(found, self.mask_of(value, depth + 1))
            return found
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.mask_of(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            return self._chain(node)
        if isinstance(node, ast.Call) and self._is_call(node, "contains", 2):
            return self._contains(self._column(node.args[0]), self._constant(node.args[1]), node)
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            column = self._column(node)
            if pa.types.is_boolean(column.type):
                return column
        raise self._refused(node)

    def _chain(self, node: ast.Compare) -> pa.Array:
        sides = [node.left, *node.comparators]
        found = None
        for left, operation, right in zip(sides, node.ops, sides[1:], strict=False):
            one = self._compared(left, operation, right, node)
            found = one if found is None else pc.and_kleene(found, one)
        return found

    def _compared(
        self, left: ast.expr, operation: ast.cmpop, right: ast.expr, node: ast.expr
    ) -> pa.Array:
        if isinstance(operation, ast.In | ast.NotIn):
            found = self._member(left, right, node)
            return pc.invert(found) if isinstance(operation, ast.NotIn) else found
        if isinstance(operation, ast.Is | ast.IsNot):
            operation = ast.Eq() if isinstance(operation, ast.Is) else ast.NotEq()
        direct, exchanged = _COMPARED[type(operation)]
        if self._is_constant(left) and not self._is_constant(right):
            return self._with_constant(exchanged, self._column(right), self._constant(left), node)
        column = self._column(left)
        if self._is_constant(right):
            return self._with_constant(direct, column, self._constant(right), node)
        return self._call(getattr(pc, direct), column, self._column(right), node)

    def _with_constant(self, name: str, column: pa.Array, value: Any, node: ast.expr) -> pa.Array:
        if value is None and name in ("equal", "not_equal"):
            return pc.is_null(column) if name == "equal" else pc.is_valid(column)
        compared = self._as_kind_of(column, value, node)
        return self._call(getattr(pc, name), compared, value, node)

    def _member(self, left: ast.expr, right: ast.expr, node: ast.expr) -> pa.Array:
        """`column in (…)`, or `"part" in column`."""
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            return self._contains(self._column(right), self._constant(left), node)
        column, found = self._column(left), None
        for value in right.elts:
            one = self._with_constant("equal", column, self._constant(value), node)
            found = one if found is None else pc.or_kleene(found, one)
        return pa.array([False] * len(column)) if found is None else found

    def _contains(self, column: pa.Array, value: Any, node: ast.expr) -> pa.Array:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            flat = _whole(column)
            inside = self._with_constant("equal", pc.list_flatten(flat), value, node)
            parents = numbers_of(pc.list_parent_indices(flat), np.int64)
            rows = arrow_numbers(np.arange(len(flat)))
            found = pc.is_in(rows, arrow_numbers(np.unique(parents[_true_rows(inside)])))
            return pc.if_else(pc.is_valid(flat), found, None)
        if not isinstance(value, str) or not _is_text(column.type):
            raise self._refused(node)
        return pc.match_substring(column, value)

    def _column(self, node: ast.expr) -> pa.Array:
        """A column by its name, or a struct's field by names with dots."""
        if isinstance(node, ast.Call) and self._is_call(node, "column", 1):
            name = self._constant(node.args[0])
        else:
            name = self._dotted(node)
        known = self._bundle.columns
        if name in known:
            column = self._bundle.column(name)
            return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        head, _, rest = str(name).partition(".")
        if head in known and rest and pa.types.is_struct(self._bundle.column(head).type):
            try:
                return pc.struct_field(self._bundle.column(head), rest.split("."))
            except pa.ArrowException as error:
                raise DataError(f"where: column {head!r} has no field {rest!r}") from error
        raise DataError(
            f"where: no column {name!r}: the items have {', '.join(known)}; a run keeps others "
            "that dataset.items.fields names"
        )

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise self._refused(node)

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        raise self._refused(node)

    def _is_constant(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Constant | ast.UnaryOp)

    def _is_call(self, node: ast.Call, name: str, count: int) -> bool:
        named = isinstance(node.func, ast.Name) and node.func.id == name
        return named and len(node.args) == count and not node.keywords

    def _as_kind_of(self, column: pa.Array, value: Any, node: ast.expr) -> pa.Array:
        """The column as numbers where it is compared with a number, as text where with a text."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and _is_text(column.type):
            numbers = pc.match_substring_regex(column, _NUMBER)
            text = pc.if_else(numbers, pc.utf8_trim_whitespace(column), None)
            if text.null_count == len(text):
                raise DataError(f"where: {self._source(node)}: the column has no number in it")
            return pc.cast(text, pa.float64())
        if isinstance(value, str) and pa.types.is_integer(column.type):
            return pc.cast(column, pa.string())
        return column

    def _call(self, function: Callable[..., pa.Array], a: Any, b: Any, node: ast.expr) -> pa.Array:
        try:
            return function(a, b if isinstance(b, pa.Array | pa.ChunkedArray) else pa.scalar(b))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            kind = getattr(a, "type", "")
            raise DataError(
                f"where: {self._source(node)}: a column of {kind} cannot be compared so"
            ) from error

    def _source(self, node: ast.expr) -> str:
        return _quoted(ast.get_source_segment(self._where.strip(), node) or self._where)

    def _refused(self, node: ast.expr) -> DataError:
        return DataError(f"where: {self._source(node)} is no condition: {_HELP}")


def _quoted(condition: str) -> str:
    return repr(condition if len(condition) <= _QUOTED else f"{condition[:_QUOTED]}…")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _true_rows(found: pa.Array) -> NDArray[np.uint64]:
    return numbers_of(_whole(pc.indices_nonzero(found)), np.uint64)


def _whole(column: pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
