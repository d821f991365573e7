"""How tensors go from rank to rank: the collectives of a process group or, on one machine,
mailboxes.

Legend: P ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recmind_dist.distributed.shared_memory import SharedMemoryTransport
from recmind_dist.kernels.row_moves import place_rows


@dataclass(frozen=True)
class Transport:
    """One thread's way to the other ranks. What arrives is the caller's to read until the next call
    of the same way.

    Args:
        group: None: the default group; boxes: where all ranks are processes of one machine.
    """

    rank: int
    group: dist.ProcessGroup | None = None
    boxes: SharedMemoryTransport | None = None

    @property
    def is_async(self) -> bool:
        """Whether what is begun is on its way before it is called for."""
        return self.boxes is not None

    @property
    def kind(self) -> str:
        """For the run's log: by what rows travel."""
        return "shared memory" if self.boxes is not None else "process group"

    def all_to_all(
        self, x: Tensor, send: list[int], receive: list[int] | None = None, of: Tensor | None = None
    ) -> list[Tensor]:
        """Uneven all-to-all of rows: the first send[0] go to rank 0, and so on. Every rank must
        call.

        Args:
            x: [.., ...] contiguous; of: rows of x that are sent, by default all in their order;
            send, receive: [P] rows; without `receive` the ranks tell each other first.
        Returns: [receive[r], ...] of each rank r.
        """
        return self.start_all_to_all(x, send, receive, of)()

    def start_all_to_all(
        self, x: Tensor, send: list[int], receive: list[int] | None = None, of: Tensor | None = None
    ) -> Callable[[], list[Tensor]]:
        """As `all_to_all`, which is done when what is returned was called, before anything else
        goes this way.

        Only through mailboxes is it begun at once: see `is_async`. Every rank must call, and must
        call what it returns.
        """
        if self.boxes is not None:
            starts = [0, *np.cumsum(send).tolist()[:-1]]
            return self.boxes.start_all_to_all(
                sum(send), x, lambda out: _write(out, x, of), starts, send
            )
        return lambda: self._all_to_all(x, send, receive, of)

    def _all_to_all(
        self, x: Tensor, send: list[int], receive: list[int] | None, of: Tensor | None
    ) -> list[Tensor]:
        """As `all_to_all`, through the process group. Every rank must call."""
        if receive is None:
            told = torch.empty(len(send), dtype=torch.int64)
            dist.all_to_all_single(told, torch.tensor(send), group=self.group)
            receive = told.tolist()
        given = x if of is None else x.index_select(0, of)
        out = x.new_empty(sum(receive), *x.shape[1:])
        dist.all_to_all_single(out, given, receive, send, group=self.group)
        return list(torch.split(out, receive))

    def all_gather(self, x: Tensor, counts: list[int]) -> list[Tensor]:
        """Every rank's rows, to every rank. Every rank must call.

        Args:
            x: [counts[rank], ...] contiguous.
        Returns: [counts[r], ...] of each rank r.
        """
        world = len(counts)
        if self.boxes is not None:
            return self.boxes.start_all_to_all(
                len(x), x, lambda out: out.copy_(x), [0] * world, [len(x)] * world
            )()
        return self.all_to_all(torch.cat([x] * world), [len(x)] * world, counts)


def _write(out: Tensor, x: Tensor, of: Tensor | None) -> None:
    if of is None:
        out.copy_(x[: len(out)])
    else:
        place_rows(out, None, x, of)
