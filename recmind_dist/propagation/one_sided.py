"""Full propagation of states that are zero on the users' or on the items' side.

Legend: n rows of this rank, N nodes, u wanted rows, D dims.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.kernels.gather_sum import CsrMatrix
from recmind_dist.propagation.gathered_matrix import GatheredMatrix
from recmind_dist.types import BoolArray


class OneSidedPropagation:
    """A between users and items apart, for states that are zero on one side: each hop is half the
    work.

    Every edge leads from one side to the other, so the states of an x on items alone lie on items
    and on users by turns. Rows of a side stand in the order of the table.

    Args:
        matrix: [n, N] this rank's rows of A.
        users_by_row: [N] which table rows are users'.
        counts: [P] rows of each rank.
        is_user: [n] which rows of this rank are users'.
    """

    def __init__(
        self,
        matrix: CsrMatrix,
        users_by_row: BoolArray,
        counts: list[int],
        is_user: Tensor,
        context: DistContext,
    ) -> None:
        self._indptr_of_all = matrix.indptr
        owner = np.repeat(np.arange(len(counts)), counts)
        place = np.where(users_by_row, np.cumsum(users_by_row), np.cumsum(~users_by_row)) - 1
        place_of_row = torch.from_numpy(place.astype(np.int32)).to(context.device)
        self._rows: dict[bool, Tensor] = {}
        self._matrix: dict[bool, GatheredMatrix] = {}
        self._indptr: dict[bool, Tensor] = {}
        for users in (True, False):
            self._rows[users] = (is_user == users).nonzero().squeeze(1)
            own = matrix.rows(self._rows[users])
            others = int((users_by_row != users).sum())
            indices = place_of_row[own.indices.long()].to(own.indices.dtype)
            apart = CsrMatrix(own.indptr, indices, own.weight, others)
            rows_of_ranks = np.bincount(owner[users_by_row != users], minlength=len(counts))
            self._matrix[users] = GatheredMatrix(apart, rows_of_ranks.tolist(), context)
            self._indptr[users] = own.indptr
        self._is_user = is_user
        # elsewhere whole sides are summed up: the host would wait for the number of wanted rows
        self._picks = context.device.type == "cpu"
        self._place = torch.where(is_user, torch.cumsum(is_user, 0), torch.cumsum(~is_user, 0)) - 1

    def mean_of_states(self, x: Tensor, num_layers: int, hidden: Tensor, wanted: Tensor) -> Tensor:
        """As `FullPropagation.mean_of_states`, of an x on items alone. Shapes: x [items, D] → [u,
        D].

        Collective: every rank must call.
        """
        rows = len(wanted) if self._picks else len(self._is_user)
        total, state = x.new_zeros(rows, x.shape[1]), x
        with self._hiding(hidden):
            for layer in range(num_layers + 1):
                users = layer % 2 == 1
                if layer:
                    state = self._hop(users, state)
                at, place = self._of_side(wanted, users)
                total.index_add_(0, at, state.index_select(0, place))
        return (total if self._picks else total.index_select(0, wanted)).div_(num_layers + 1)

    def mean_backward(
        self, grad_uD: Tensor, num_layers: int, hidden: Tensor, wanted: Tensor
    ) -> Tensor:
        """The gradient of `mean_of_states`'s x. Shape: [items, D].

        Collective: every rank must call.
        """
        grad_uD = grad_uD / (num_layers + 1)
        if not self._picks:
            shape = len(self._is_user), grad_uD.shape[1]
            grad_uD = grad_uD.new_zeros(shape).index_copy_(0, wanted, grad_uD)
        state = grad_uD.new_zeros(0)
        with self._hiding(hidden):
            for left in range(num_layers, -1, -1):  # hops that are still to come
                users = left % 2 == 1
                if left == num_layers:
                    state = grad_uD.new_zeros(len(self._rows[users]), grad_uD.shape[1])
                else:
                    state = self._hop(users, state)
                at, place = self._of_side(wanted, users)
                state.index_add_(0, place, grad_uD.index_select(0, at))
        return state

    def _hop(self, users: bool, state: Tensor) -> Tensor:
        """Users' rows (or items') of A times everybody's rows of the other side.

        Collective: every rank must call.
        """
        return self._matrix[users].gather_matmul(state)

    def _of_side(self, wanted: Tensor, users: bool) -> tuple[Tensor, Tensor]:
        """Which of the wanted rows, or of all, are of a side, and their places in it."""
        if not self._picks:
            rows = self._rows[users]
            return rows, self._place.index_select(0, rows)
        at = (self._is_user.index_select(0, wanted) == users).nonzero().squeeze(1)
        return at, self._place.index_select(0, wanted.index_select(0, at))

    @contextmanager
    def _hiding(self, hidden: Tensor) -> Iterator[None]:
        """While entries at these positions of the whole matrix weigh nothing."""
        if not len(hidden):
            yield
            return
        position, indptr = hidden, self._indptr_of_all
        row = torch.searchsorted(indptr, position.to(indptr.dtype), right=True) - 1
        entry = position - indptr[row]
        users = self._is_user[row]
        at = {}
        for side in (True, False):
            row_of_side = self._place[row[users == side]]
            at[side] = self._indptr[side][row_of_side] + entry[users == side]
        with self._matrix[True].without(at[True]), self._matrix[False].without(at[False]):
            yield
