"""Bytes that a rank sends to others, by kind."""

import threading

KINDS = ("ids", "rows", "gradients", "queue", "dense")
"""ids: exchanges of the prefetching thread (frontiers, neighbours, items, negatives, lookups);
rows: base rows and views; gradients: of rows; queue: views and keys of the alignment; dense:
gradients and parameters of the dense part and loss terms, computed as a ring sends them."""


class Traffic:
    """Counts the bytes that leave this rank. Any thread may add and take."""

    def __init__(self) -> None:
        self._sent = dict.fromkeys(KINDS, 0)
        self._lock = threading.Lock()

    def add(self, kind: str, sent: int) -> None:
        """Counts `sent` more bytes to other ranks. Bytes to itself do not count."""
        with self._lock:
            self._sent[kind] += sent

    def take(self) -> dict[str, int]:
        """Bytes by kind since the last call."""
        with self._lock:
            taken, self._sent = self._sent, dict.fromkeys(KINDS, 0)
        return taken


def ring_bytes(nbytes: int, world_size: int) -> int:
    """Bytes that a rank sends in a ring all-reduce of `nbytes`."""
    return 2 * nbytes * (world_size - 1) // world_size
