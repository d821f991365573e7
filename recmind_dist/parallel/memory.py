"""Memory of a training process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed blocks of up to a gigabyte instead of giving them back.

    A step allocates the same large tensors as the one before it; fresh from the system each page costs a fault, which was
    a third of a step. Elsewhere than on Linux with glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
