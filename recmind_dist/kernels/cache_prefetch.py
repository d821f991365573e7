"""The processor's prefetch instruction, for numba loops that read memory at random."""

from typing import Any

import numpy as np
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ir = cgutils.ir  # LLVM's types, of the version that numba brings


def _fetch_ahead(typing, address):  # type: ignore[no-untyped-def]
    return types.void(types.uintp), _code


def _code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    prefetch(builder, builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
    return context.get_dummy_value()


def prefetch(builder: Any, pointer: Any) -> None:
    """Emits the LLVM instruction: prefetch data for reading, into the second-level cache.

    The first-level cache has fewer outstanding reads than a loop over random rows can use.
    """
    int32 = ir.IntType(32)
    shape = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), int32, int32, int32])
    function = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0i8")
    builder.call(function, [pointer, int32(0), int32(1), int32(1)])


fetch_ahead = intrinsic(_fetch_ahead) if not config.DISABLE_JIT else lambda address: None
"""fetch_ahead(address) starts to load a cache line. Any address is safe: no value is read.

It does nothing without compilation, as in the tests that look for writes outside of arrays.
"""


@njit(inline="always", cache=True)
def fetch_row_ahead(address, stride, row):  # type: ignore[no-untyped-def]
    """As `fetch_ahead`, of a row of `stride` bytes in the array at `address`."""
    for byte in range(0, stride, 64):
        fetch_ahead(address + stride * np.int64(row) + byte)
