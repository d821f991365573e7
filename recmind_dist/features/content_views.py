"""Content views: whitened texts at unit length, of users the means of their items'.

Made once by `ModelShard`, over all training edges but the held-out ones, and read by
training/forward.py for nodes whose gates learn. Evaluation makes its own, over all edges
(`propagation/item_means.content_view`).

Legend: n rows of this rank, u users among them, T text dims.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recmind_dist.propagation.item_means import NeighbourMeans

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class ContentViews:
    """Content views of this rank's rows: an item's text vector at unit length, of a user the mean
    of their items', and the mean in which newer items count more.

    Attributes (u users of this rank, at least one row):
        text: [n, T] text vectors.
        is_user: [n] bool.
        user_of_row: [n] position of a user's row in the means.
        means: [u, T].
        newest: [u, T], None without decay.
    """

    text: Tensor
    is_user: Tensor
    user_of_row: Tensor
    means: Tensor
    newest: Tensor | None

    def select(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The content view of these rows, and what the newest items of users say: zero for items,
        nothing without decay. Shapes: [len(rows), T].
        """
        is_user, at = self.is_user[rows][:, None], self.user_of_row[rows]
        unit = functional.normalize(self.text[rows].float(), dim=1)
        view = torch.where(is_user, self.means[at].float(), unit)
        if self.newest is None:
            return view, []
        return view, [self.newest[at].float() * is_user]


def make_content_views(
    text: Tensor,
    is_user: Tensor,
    of_items: NeighbourMeans,
    of_newest: NeighbourMeans | None,
    text_columns: int,
) -> ContentViews:
    """Content views of this rank's rows. Collective: every rank must call.

    Args:
        text: [n, T] text vectors of this rank's rows.
        is_user: [n] bool.
        of_items: means of users' items.
        of_newest: those in which newer items count more, where they are wanted.
        text_columns: of the texts, read at a time: `columns_at_once`.
    """
    parts = torch.split(text, _BLOCK_ROWS)
    length = torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in parts])
    length = length.clamp(min=1e-12)
    scale = torch.where(is_user, 0.0, 1.0 / length)[:, None]
    users, newest = is_user.nonzero().squeeze(1), None
    means = _means_of_users(text, scale, users, of_items, text_columns)
    if of_newest is not None:
        newest = _means_of_users(text, scale, users, of_newest, text_columns)
    user_of_row = (torch.cumsum(is_user, 0) - 1).clamp(min=0)
    return ContentViews(text, is_user, user_of_row, means, newest)


def _means_of_users(
    text: Tensor, scale: Tensor, users: Tensor, neighbours: NeighbourMeans, text_columns: int
) -> Tensor:
    """In half precision, which hides in which order ranks add up doubles. Shape: [u, T].

    Collective: every rank must call.
    """
    text_dim = text.shape[1]
    out = text.new_zeros(max(len(users), 1), text_dim)
    for first in range(0, text_dim, text_columns):
        block = slice(first, first + text_columns)
        means = neighbours.means(text[:, block].double() * scale)
        out[: len(users), block] = means.index_select(0, users).half()
    return out
