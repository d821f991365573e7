"""The processor's prefetch, for loops in numba that would wait for one random read after the other."""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _fetch_ahead(typing, address):  # type: ignore[no-untyped-def]
    return types.void(types.uintp), _code


def _code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    prefetch(builder, builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
    return context.get_dummy_value()


def prefetch(builder: Any, pointer: Any) -> None:
    """Adds the instruction to code that is written in LLVM's terms: a read of data, into the second
    cache.

    Not into the first: that waits for fewer lines at once than a loop over random rows can ask for.
    """
    int32 = ir.IntType(32)
    shape = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), int32, int32, int32])
    function = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0i8")
    builder.call(function, [pointer, int32(0), int32(1), int32(1)])


fetch_ahead = intrinsic(_fetch_ahead) if not config.DISABLE_JIT else lambda address: None
"""fetch_ahead(address) begins to bring the cache line there near: any address will do, nothing is
read or changed by it.

Plain Python, in which tests look for writes outside of arrays, has no such thing.
"""


@njit(inline="always", cache=True)
def fetch_row_ahead(address, stride, row, size=0):  # type: ignore[no-untyped-def]
    """As `fetch_ahead`, of all cache lines of a row of `stride` bytes in an array that begins at
    `address`; `size`: of its
    first bytes alone, 0: of the whole row."""
    for byte in range(0, size or stride, 64):
        fetch_ahead(address + stride * np.int64(row) + byte)
