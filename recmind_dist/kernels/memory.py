"""Memory of a training process."""

import contextlib
import ctypes
import mmap
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES, _DEFAULT_BYTES = 1 << 30, 1 << 17
_MAPPED_BYTES = 1 << 26
"""Of a block that is given back at once where the system has large pages, since a fresh one costs
little there: a heap that keeps such blocks falls to pieces into which the next ones do not fit."""
_LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
KEEP_FREED_MEMORY = {"MALLOC_ARENA_MAX": "1", "THP_MEM_ALLOC_ENABLE": "1"}
"""Environment of a process that trains outside its main thread, as Ray's workers do. glibc gives
other threads a heap of their own, on which `keep_freed_memory` has no effect; torch asks for large
pages."""
_LARGE_PAGE = 2 << 20


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed blocks instead of giving them back, as it does with those that are
    free by now: blocks of up to 64 MiB where there are large pages, else of up to a gigabyte.

    Every step allocates the same large tensors. Page faults on fresh memory took a third of a step.
    Does nothing without Linux and glibc.
    """
    _give_back_and_keep(_KEPT_BYTES)


@contextlib.contextmanager
def freed_memory_given_back(is_large: bool) -> Iterator[None]:
    """Gives free heap back to the system while the block runs, for which it is not of use: a
    validation needs other tensors than steps do.

    Args:
        is_large: whether there is so much of it that it is worth the page faults afterwards.
    """
    if not is_large:
        yield
        return
    _give_back_and_keep(_DEFAULT_BYTES)
    try:
        yield
    finally:
        keep_freed_memory()


def _give_back_and_keep(size: int) -> None:
    """Gives back what is free; from now on blocks of up to `size` are kept, and as much in all."""
    if not sys.platform.startswith("linux"):
        return
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "mallopt") and hasattr(glibc, "malloc_trim"):
        glibc.malloc_trim(0)
        glibc.mallopt(_M_MMAP_THRESHOLD, min(size, _MAPPED_BYTES) if _has_large_pages() else size)
        glibc.mallopt(_M_TRIM_THRESHOLD, size)


def _has_large_pages() -> bool:
    try:
        return "[never]" not in _LARGE_PAGES.read_text()
    except OSError:
        return False


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process has held since it began: on a GPU torch's tensors there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB on Linux


def zeros_in_large_pages(rows: int, dim: int, device: torch.device) -> Tensor:
    """Zeros, [rows, dim] float32, in pages of 2 MiB where Linux has them, for random reads of rows.

    In pages of 4 KiB a gather spends as long on page addresses as on the rows.
    """
    size = 4 * rows * dim
    if device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or not size:
        return torch.zeros(rows, dim, device=device)
    rounded = -(-size // _LARGE_PAGE) * _LARGE_PAGE
    # by default it would be shared memory, which Linux seldom gives in large pages
    space = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        space.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(space, dtype=torch.float32, count=rows * dim).view(rows, dim)


def free_memory(device: torch.device) -> int | None:
    """Bytes of a GPU that this process can still take; None on other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # torch keeps what it has freed
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
