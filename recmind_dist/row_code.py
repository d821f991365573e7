"""Inner loops over rows of float32, to be called in numba's loops: a row stays in vector registers as long as it is used.

Written as a plain loop a sum of rows goes to memory and back with every few of them, and each row waits for the one before;
numba gives no way to say otherwise, so these are in LLVM's own terms. Addresses are in bytes. `width` is a tuple as long as
the columns that are worked on, at most `WIDEST`, so that their number is part of its type. Numba keeps compiled loops by the
file that they stand in: after a change here run `make clean`.
"""

from functools import partial
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from recmind_dist.fetch_ahead import prefetch

AHEAD = 32
"""Rows are fetched into the cache for edges so far ahead, instead of waited for one after the other."""
WIDEST = 64  # columns at once: eight registers of AVX2, four of AVX-512
_LINE_BYTES = 64
_BYTE, _INT32, _INT64, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


@intrinsic
def sum_of_rows(typing, x, stride, indices, start, stop, limit, weights, scale, out, width):  # type: ignore[no-untyped-def]
    """out[:] = scale · Σ_{start <= e < stop} weights[u] x[u] for u = indices[e]; weights None: 1. `limit`: edges in `indices`."""
    signature = types.void(
        types.uintp, types.intp, types.uintp, types.intp, types.intp, types.intp,
        weights if isinstance(weights, types.NoneType) else types.uintp, types.float32, types.uintp, width,
    )  # fmt: skip
    return signature, _sum_of_rows


def _sum_of_rows(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    width = signature.args[-1].count
    x, stride, indices, start, stop, limit, weights, scale, out, _ = arguments
    x_bytes, edges = builder.inttoptr(x, _BYTE.as_pointer()), builder.inttoptr(indices, _INT32.as_pointer())

    def source(edge: Any) -> Any:
        return builder.sext(builder.load(builder.gep(edges, [edge])), _INT64)

    def address(row: Any) -> Any:
        return builder.gep(x_bytes, [builder.mul(row, stride)])

    before, loop, done = builder.block, builder.append_basic_block("edge"), builder.append_basic_block("summed")
    nothing = ir.Constant(ir.VectorType(_FLOAT, width), [0.0] * width)
    builder.cbranch(builder.icmp_signed("<", start, stop), loop, done)
    builder.position_at_end(loop)
    edge, total = builder.phi(_INT64), builder.phi(nothing.type)
    later = builder.add(edge, _INT64(AHEAD))
    ahead = address(source(builder.select(builder.icmp_signed("<", later, limit), later, edge)))
    for line in range(0, 4 * width, _LINE_BYTES):
        prefetch(builder, builder.gep(ahead, [_INT64(line)]))
    row = source(edge)
    term = _load(builder, address(row), width)
    if not isinstance(signature.args[6], types.NoneType):
        weight = builder.load(builder.gep(builder.inttoptr(weights, _FLOAT.as_pointer()), [row]))
        term = builder.fmul(_spread(builder, weight, width), term)
    added, following = builder.fadd(total, term), builder.add(edge, _INT64(1))
    edge.add_incoming(start, before)
    edge.add_incoming(following, loop)
    total.add_incoming(nothing, before)
    total.add_incoming(added, loop)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, done)
    builder.position_at_end(done)
    found = builder.phi(nothing.type)
    found.add_incoming(nothing, before)
    found.add_incoming(added, loop)
    _store(builder, builder.fmul(found, _spread(builder, scale, width)), out)
    return context.get_dummy_value()


@intrinsic
def put_row(typing, target, source, scale, width):  # type: ignore[no-untyped-def]
    """target[:] = scale · source."""
    return types.void(types.uintp, types.uintp, types.float32, width), partial(_write_row, adds=False)


@intrinsic
def add_row(typing, target, source, scale, width):  # type: ignore[no-untyped-def]
    """target[:] += scale · source."""
    return types.void(types.uintp, types.uintp, types.float32, width), partial(_write_row, adds=True)


def _write_row(context: Any, builder: Any, signature: Any, arguments: Any, adds: bool) -> Any:
    target, source, scale, _ = arguments
    width = signature.args[-1].count
    row = builder.fmul(_spread(builder, scale, width), _load(builder, source, width))
    _store(builder, builder.fadd(_load(builder, target, width), row) if adds else row, target)
    return context.get_dummy_value()


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    if isinstance(address.type, ir.PointerType):
        return builder.bitcast(address, kind.as_pointer())
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, width: int) -> Any:
    return builder.load(_pointer(builder, address, ir.VectorType(_FLOAT, width)), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=4)


def _spread(builder: Any, number: Any, width: int) -> Any:
    """The number in every place of a vector."""
    undefined = ir.Constant(ir.VectorType(_FLOAT, width), ir.Undefined)
    one = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT32, width), [0] * width))


def tiles(columns: int) -> list[tuple[int, tuple[int, ...]]]:
    """First column and `width` of the parts in which rows of so many columns are worked on."""
    return [(column, (0,) * min(WIDEST, columns - column)) for column in range(0, columns, WIDEST)]
