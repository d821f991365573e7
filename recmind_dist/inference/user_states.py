"""What items take from users: kept once, of every user, so that items can come later.

Legend: n rows of this rank, D dims, T text dims.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recmind_dist.features.text_features import text_scale
from recmind_dist.inference.fold_in import least_squares
from recmind_dist.inference.item_states import sum_of_states, text_layers
from recmind_dist.model.alpharec import AlphaRec
from recmind_dist.model.models import Model
from recmind_dist.model.paper import PaperRecMind
from recmind_dist.model.recmind import RecMind
from recmind_dist.propagation.full_graph import FullPropagation


@dataclass(frozen=True)
class UserStates:
    """For items that come later.

    Attributes:
        rows: by name, [n, D] of this rank's rows in table order, of which those of users count:
            `base_state`, the sum of the graph states 0..L−1, `text_state` the same of the text
            views, and both to L−2 as `base_state_before` and `text_state_before`. Zeros are left
            out.
        item_map: [D, D], which says how an item's row moves with its users; None without a hop.
        graph_length: of the median user's graph view.
    """

    rows: dict[str, Tensor]
    item_map: Tensor | None
    graph_length: float


@torch.no_grad()
def user_states(
    operator: FullPropagation,
    model: Model,
    e_nD: Tensor,
    z_nD: Tensor | None,
    start_nD: Tensor | None,
) -> UserStates:
    """By exact propagation. Collective: every rank must call.

    Args:
        e_nD, z_nD: as for `final_embeddings`.
        start_nD: what rows started from their texts; None: they did not.
    """
    rows: dict[str, Tensor] = {}
    item_map, view = None, e_nD
    if model.num_layers and not isinstance(model, AlphaRec):
        rows |= _sums(operator, "base_state", e_nD, model.num_layers)
        view = sum_of_states(operator, e_nD, model.num_layers + 1)
        moved = e_nD if start_nD is None else e_nD - start_nD
        items = operator.items
        brought = (view - e_nD).index_select(0, items)
        item_map = least_squares(brought, moved.index_select(0, items), operator.context)
    if isinstance(model, AlphaRec | RecMind | PaperRecMind) and z_nD is not None:
        num_layers, users_have_text = text_layers(model)
        rows |= _sums(operator, "text_state", z_nD, num_layers, not users_have_text)
    length = view[operator.is_user].norm(dim=1) / (model.num_layers + 1)
    return UserStates(rows, item_map, float(length.median()))


def start_of_texts(text_nT: Tensor, dim: int) -> Tensor:
    """E⁰ of nodes with these texts at the start of training (`initial_rows`); zero without one.
    Shape: [n, D].
    """
    leading = text_nT[:, :dim].float()
    start = leading.new_zeros(len(leading), dim)
    start[:, : leading.shape[1]] = leading * text_scale(text_nT.shape[1])
    return start


def _sums(
    operator: FullPropagation, name: str, x_nD: Tensor, num_layers: int, items_only: bool = False
) -> dict[str, Tensor]:
    """States 0..L−1, and 0..L−2, added up. Collective: every rank must call."""
    found = {}
    for key, num_states in ((name, num_layers), (f"{name}_before", num_layers - 1)):
        if num_states > int(items_only):  # users' state 0 is zero there
            found[key] = sum_of_states(operator, x_nD, num_states, items_only)
    return found
