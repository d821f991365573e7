"""How many bytes a rank sends to others, by what they are for."""

import threading

KINDS = ("ids", "rows", "gradients", "queue", "dense")
"""ids: what the prefetching thread exchanges (frontiers, sampled neighbours, items, negatives, rows
wanted); rows: base rows
and views; gradients: of rows; queue: views and keys of the alignment; dense: gradients and
parameters of the dense part, and
loss terms, reckoned as a ring sends them."""


class Traffic:
    """Counts what leaves this rank. Any thread may add and take: each byte is in one count."""

    def __init__(self) -> None:
        self._sent = dict.fromkeys(KINDS, 0)
        self._lock = threading.Lock()

    def add(self, kind: str, sent: int) -> None:
        """`sent` more bytes, to other ranks: what a rank sends itself does not count."""
        with self._lock:
            self._sent[kind] += sent

    def take(self) -> dict[str, int]:
        """Bytes by kind since the last call."""
        with self._lock:
            taken, self._sent = self._sent, dict.fromkeys(KINDS, 0)
        return taken


def ring_bytes(nbytes: int, world_size: int) -> int:
    """What a rank sends in a ring's sum of `nbytes` over all ranks."""
    return 2 * nbytes * (world_size - 1) // world_size
