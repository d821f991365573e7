"""How many bytes a rank sends to others, by what they are for."""

from collections import defaultdict

KINDS = ("ids", "rows", "gradients", "queue", "dense")
"""ids: what the prefetching thread exchanges (frontiers, sampled neighbours, items, negatives, rows wanted); rows: base rows
and views; gradients: of rows; queue: views and keys of the alignment; dense: gradients and parameters of the dense part, and
loss terms, reckoned as a ring sends them."""


class Traffic:
    """Counts what leaves this rank. A kind is counted by one thread alone, so no lock is needed."""

    def __init__(self) -> None:
        self._sent: dict[str, int] = defaultdict(int)

    def add(self, kind: str, sent: int) -> None:
        """`sent` more bytes, to other ranks: what a rank sends itself does not count."""
        assert kind in KINDS
        self._sent[kind] += sent

    def take(self) -> dict[str, int]:
        """Bytes by kind since the last call."""
        taken = {kind: self._sent[kind] for kind in KINDS}
        self._sent.clear()
        return taken


def ring_bytes(nbytes: int, world_size: int) -> int:
    """What a rank sends in a ring's sum of `nbytes` over all ranks."""
    return 2 * nbytes * (world_size - 1) // world_size
