"""Loops in numba on as many threads as torch has."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def run_together(work: Callable[..., Any], shares: Sequence[tuple[Any, ...]]) -> None:
    """Calls `work`, which must release the GIL, once for each share, at the same time; waits."""
    if len(shares) == 1 or torch.get_num_threads() == 1:
        for share in shares:
            work(*share)
        return
    for part in [_pool(torch.get_num_threads()).submit(work, *share) for share in shares]:
        part.result()


def even_shares(count: int, least: int) -> list[tuple[int, int]]:
    """Ranges of 0..count, one for each thread; fewer if they would be shorter than `least`."""
    shares = max(1, min(torch.get_num_threads(), count // max(least, 1)))
    return [(count * k // shares, count * (k + 1) // shares) for k in range(shares)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="share")
